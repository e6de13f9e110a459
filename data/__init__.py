"""What we see: scans read, de-identified, validated, split and packed."""
