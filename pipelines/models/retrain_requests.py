"""Requests for a retraining: a signed row of the ledger, and a message that wakes the flow which reads it."""

from __future__ import annotations

from lineage import accounts, decisions
from lineage.record import ledger, outbox
from lineage.record.events import EventKind


def ask_for_retraining(task: str, key: str, reason: str) -> None:
    """Request a retraining, once for each key. The flow waits for labels that the newest model has not learned from."""
    if not any(event.payload.get("key") == key for event in ledger.events(EventKind.RETRAIN_ASKED, task)):
        decisions.record(EventKind.RETRAIN_ASKED, task, {"key": key, "reason": reason}, accounts.SYSTEM)
    outbox.put("retrain", key, {"task": task, "reason": reason})


def has_new_labels(task: str) -> bool:
    """Whether a batch of the task was admitted or a patient withdrawn after its newest model was logged."""
    data_changes = [
        event.seq for event in ledger.events(kind=EventKind.BATCH_ADMITTED) if event.payload["task"] == task
    ]
    if data_changes:
        withdrawals = ledger.events(kind=EventKind.PATIENT_WITHDRAWN)
        data_changes += [event.seq for event in withdrawals if task in event.payload["tasks"]]
    models = [event.seq for event in ledger.events(kind=EventKind.MODEL_LOGGED, subject=task)]
    return bool(data_changes) and (not models or max(data_changes) > models[-1])
