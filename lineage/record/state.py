"""The present state as the ledger says it."""

from __future__ import annotations

from lineage.record import ledger


def withdrawn_since(model: str) -> str | None:
    """The date from which a model (`task/version`) can't be made again; None while it can."""
    held = [event.at[:10] for event in ledger.events(kind="patient.withdrawn") if model in event.payload["models"]]
    return held[0] if held else None
