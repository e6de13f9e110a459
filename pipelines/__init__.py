"""Flows and commands: when the work of the other packages is done. No arithmetic here."""
