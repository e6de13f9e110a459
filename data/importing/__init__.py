"""Import of folders of scans, public or exported, as a batch with metadata.csv. Checks of a batch belong elsewhere."""
