"""Approve or reject a waiting version: a signed ledger row with person and reason, which a flow acts on."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from desk.accounts.signin import Form
from desk.pages import models
from desk.templates import page
from desk.visitor import Visitor
from lineage import accounts, current_state, decisions
from lineage.record import ledger, outbox
from lineage.record.events import EventKind

DECISIONS = {"approve": "Approved", "reject": "Rejected"}
MIN_REASON, MAX_REASON = 10, 1000  # characters


def list_page(request: Request, visitor: Visitor) -> Response:
    """GET /decisions: the waiting versions, and the latest decisions."""
    waiting = [
        version
        for task in current_state.tasks_with_versions()
        for version in current_state.model_versions(task)
        if version.is_waiting
    ]
    signed = [event for event in ledger.events(kind=EventKind.APPROVAL) if decisions.is_signed(event)]
    latest = signed[: -models.LATEST - 1 : -1]
    values = {"waiting": waiting, "decisions": latest, "min_reason": MIN_REASON, "max_reason": MAX_REASON}
    return page(request, "decisions.html", values, visitor)


def decide(request: Request, visitor: Visitor, form: Form) -> Response:
    """POST /decisions: task, version, decision and reason. One decision per version."""
    del request
    task, version, decision = form.get("task", ""), form.get("version", ""), form.get("decision", "")
    reason = " ".join(form.get("reason", "").split())
    if not accounts.may(visitor.name, "approve"):
        raise HTTPException(403, "Only an engineer approves or rejects a version.")
    if decision not in DECISIONS:
        raise HTTPException(400, "Choose whether to approve or to reject.")
    if not MIN_REASON <= len(reason) <= MAX_REASON:
        raise HTTPException(400, f"Give a reason of {MIN_REASON} to {MAX_REASON} characters; it stays in the record.")
    if task not in current_state.tasks_with_versions() or version not in _waiting_versions(task):
        raise HTTPException(409, f"{task}/{version} does not wait for a decision (any more).")
    facts = {"decision": decision, "reason": reason}
    approval = decisions.record(EventKind.APPROVAL, f"{task}/{version}", facts, visitor.name)
    outbox.put("approval", f"{task}/{version}/{approval.seq}", {"task": task, "version": version})
    return RedirectResponse("/decisions", status_code=303)


def _waiting_versions(task: str) -> list[str]:
    return [version.version for version in current_state.model_versions(task) if version.is_waiting]
