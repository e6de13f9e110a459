"""Scans and labels: read, de-identify, validate, deduplicate and split them. Models and servers do not belong here."""
