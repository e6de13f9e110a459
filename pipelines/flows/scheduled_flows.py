"""What Prefect's deployments run. No flow here takes a parameter: what an event or a caller claims is not believed."""

from __future__ import annotations

import logging
from typing import Any

from prefect import flow

from lineage import decisions
from lineage.errors import Fault
from lineage.record.ledger import Event
from pipelines.flows.ingest import ingest
from pipelines.flows.retrain import retrain
from pipelines.flows.watch import watch
from pipelines.models import promote
from pipelines.models.retrain_requests import has_new_labels
from pipelines.workspace.workspace import alone

log = logging.getLogger(__name__)


@flow(name="scheduled ingest")
def ingest_inbox() -> list[dict[str, Any]]:
    """Judge every folder of the inbox that nobody has judged."""
    judged: list[dict[str, Any]] = ingest()
    return judged


@flow(name="scheduled retrain")
def retrain_all() -> dict[str, Any]:
    """Bring every task to a judged model."""
    done: dict[str, Any] = retrain(reason="by schedule")
    return done


@flow(name="asked retrain")
def retrain_asked() -> list[dict[str, Any]]:
    """Retrain the tasks for which that was asked, as far as there are labels to learn from."""
    requests_by_task: dict[str, list[Event]] = {}
    for event in decisions.waiting("retrain.asked"):
        if not refused(event) and has_new_labels(event.subject):
            requests_by_task.setdefault(event.subject, []).append(event)
    done = []
    for task, events in requests_by_task.items():
        done.append(retrain(task, "; ".join(dict.fromkeys(str(event.payload["reason"]) for event in events))))
        for event in events:
            decisions.use(event)
    return done


@flow(name="scheduled watch")
def watch_all() -> list[dict[str, Any]]:
    """Watch every task that a champion answers for."""
    watched: list[dict[str, Any]] = watch()
    return watched


@flow(name="decide")
def decide() -> list[dict[str, Any]]:
    """Act on the approvals and rejections that people have signed; what a decision lacks ends it, by name."""
    outcomes: list[dict[str, Any]] = []
    with alone("workspace"):
        for event in decisions.waiting("approval"):
            outcome = {"decision": event.seq, "subject": event.subject, "refused": refused(event)}
            if not outcome["refused"]:
                outcome["refused"] = _acted(event)
            outcomes.append(outcome)
        release = promote.release_champions()
    return [outcome | {"release": release} for outcome in outcomes]


def refused(event: Event) -> str:
    """Why a decision is not acted on, which is written down and ends it; empty where it is good."""
    try:
        decisions.check(event)
    except Fault as fault:
        log.warning("%s", fault)
        decisions.use(event, str(fault))
        return str(fault)
    return ""


def _acted(event: Event) -> str:
    try:
        promote.act(event)
    except Fault as fault:  # it can't be carried out: what is so now, is no matter of trying again
        log.warning("the decision %d on %s: %s", event.seq, event.subject, fault)
        decisions.use(event, str(fault))
        return str(fault)
    decisions.use(event)
    return ""
