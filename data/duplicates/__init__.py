"""Near-duplicate images: image alignment, the vector index on disk, and groups of near-duplicates."""
