"""Near-duplicate images: descriptors, the index on disk, and groups of the same picture."""
