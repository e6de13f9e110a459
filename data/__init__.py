"""Scans and labels: read, de-identify, validate, deduplicate and split them. No model and no server here."""
