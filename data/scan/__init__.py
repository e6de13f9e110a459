"""Reading one scan file or series into a `Scan` with pixels, spacing and header facts; no batches, no patients."""
