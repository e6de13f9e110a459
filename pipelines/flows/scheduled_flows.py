"""Flows of Prefect's deployments, started by a schedule or an event. None takes a parameter.

So the claims of an event or a caller are never used.
"""

from __future__ import annotations

import logging
from typing import Any

from prefect import flow

from lineage import decisions
from lineage.errors import Fault
from lineage.record.events import EventKind
from lineage.record.ledger import Event
from pipelines.flows.ingest import ingest
from pipelines.flows.retrain import retrain
from pipelines.flows.watch import watch
from pipelines.models import promote
from pipelines.models.retrain_requests import has_new_labels
from pipelines.workspace.workspace import hold_lock

log = logging.getLogger(__name__)


@flow(name="scheduled ingest")
def ingest_inbox() -> list[dict[str, Any]]:
    """Judge every unjudged folder of the inbox."""
    results: list[dict[str, Any]] = ingest()
    return results


@flow(name="scheduled retrain")
def retrain_all() -> dict[str, Any]:
    """Train and judge a model of every task."""
    result: dict[str, Any] = retrain(reason="by schedule")
    return result


@flow(name="asked retrain")
def retrain_asked() -> list[dict[str, Any]]:
    """Retrain each task with an open request, if it has labels that its newest model has not learned from."""
    requests_by_task: dict[str, list[Event]] = {}
    for event in decisions.pending_decisions(EventKind.RETRAIN_ASKED):
        if not refuse_invalid(event) and has_new_labels(event.subject):
            requests_by_task.setdefault(event.subject, []).append(event)
    results = []
    for task, events in requests_by_task.items():
        results.append(retrain(task, "; ".join(dict.fromkeys(str(event.payload["reason"]) for event in events))))
        for event in events:
            decisions.mark_used(event)
    return results


@flow(name="scheduled watch")
def watch_all() -> list[dict[str, Any]]:
    """Watch every task that has a champion."""
    results: list[dict[str, Any]] = watch()
    return results


@flow(name="decide")
def decide() -> list[dict[str, Any]]:
    """Carry out the signed approvals and rejections. A decision that cannot be carried out ends with its reason.

    The event of a decision on the desk starts this flow; `oncoloop approve` and `reject` call it.
    """
    outcomes: list[dict[str, Any]] = []
    with hold_lock("workspace"):
        for event in decisions.pending_decisions(EventKind.APPROVAL):
            outcome = {"decision": event.seq, "subject": event.subject, "refused": refuse_invalid(event)}
            if not outcome["refused"]:
                outcome["refused"] = _carry_out(event)
            outcomes.append(outcome)
        release = promote.release_champions()
    return [outcome | {"release": release} for outcome in outcomes]


def refuse_invalid(event: Event) -> str:
    """Check a decision. An invalid one is used up with the reason, which is returned; a valid one gives ""."""
    try:
        decisions.check(event)
    except Fault as fault:
        log.warning("%s", fault)
        decisions.mark_used(event, str(fault))
        return str(fault)
    return ""


def _carry_out(event: Event) -> str:
    """Carry out a decision and use it up. Returns the reason if that is impossible, else ""."""
    try:
        promote.carry_out_decision(event)
    except Fault as fault:  # it is not tried again: the reason would be the same
        log.warning("the decision %d on %s: %s", event.seq, event.subject, fault)
        decisions.mark_used(event, str(fault))
        return str(fault)
    decisions.mark_used(event)
    return ""
