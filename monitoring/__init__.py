"""What changed: the watch over the journal."""
