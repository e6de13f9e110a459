"""Flows and commands: when the work of the other packages runs. No arithmetic here."""
