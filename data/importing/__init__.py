"""Public or exported folders of scans turned into a batch with metadata.csv."""
