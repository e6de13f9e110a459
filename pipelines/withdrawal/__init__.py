"""A patient is withdrawn: located, erased, and the erasure verified."""
