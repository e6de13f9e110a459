"""Synthetic patients and scans for the demo, tests and simulations. Real data does not belong here."""
