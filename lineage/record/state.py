"""Current state derived from the ledger's events."""

from __future__ import annotations

from lineage.record import ledger


def withdrawn_since(model: str) -> str | None:
    """The date since which a model (`task/version`) is not reproducible, because of a withdrawal; None if it is."""
    dates = [event.at[:10] for event in ledger.events(kind="patient.withdrawn") if model in event.payload["models"]]
    return dates[0] if dates else None
