"""The data gate: which scans and batches are admitted, and the quality report."""
