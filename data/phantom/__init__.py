"""Synthetic patients and scans for the demo, tests and simulations."""
