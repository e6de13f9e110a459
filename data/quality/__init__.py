"""The data gate: checks of a batch, the verdict on its admission, and the quality report."""
