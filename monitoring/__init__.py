"""Drift, late labels, and the gate that asks for retraining."""
