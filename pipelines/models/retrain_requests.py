"""Requests for a retraining: a signed row of the ledger, and a message that wakes the flow which reads it."""

from __future__ import annotations

from lineage import accounts, decisions
from lineage.record import ledger, outbox


def ask_for_retraining(task: str, key: str, reason: str) -> None:
    """Ask once for each key. The flow waits until there are labels that the newest model has not learned from."""
    if not any(event.payload.get("key") == key for event in ledger.events("retrain.asked", task)):
        decisions.record("retrain.asked", task, {"key": key, "reason": reason}, accounts.SYSTEM)
    outbox.put("retrain", key, {"task": task, "reason": reason})


def has_new_labels(task: str) -> bool:
    """Whether a batch of the task was admitted or a patient withdrawn after its newest model was logged."""
    batches = [e.seq for e in ledger.events(kind="batch.admitted") if e.payload["task"] == task]
    batches += [e.seq for e in ledger.events(kind="patient.withdrawn") if batches and task in e.payload["tasks"]]
    models = [e.seq for e in ledger.events(kind="model.logged", subject=task)]
    return bool(batches) and (not models or max(batches) > models[-1])
