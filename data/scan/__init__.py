"""One scan file or series: bytes in, a `Scan` with pixels, spacing and header facts out. Nothing about batches or
patients."""
