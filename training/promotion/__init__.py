"""The training gate: challenger against champion and anchor."""
