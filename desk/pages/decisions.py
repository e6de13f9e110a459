"""Approve or reject a version that waits: a person, a reason, a row in the ledger that the flow acts on."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from desk.accounts.signin import Form
from desk.pages import models
from desk.templates import page
from desk.visitor import Visitor
from lineage import accounts, decisions
from lineage.record import ledger, outbox

DECISIONS = {"approve": "Approved", "reject": "Rejected"}
SHORTEST, LONGEST = 10, 1000  # characters of a reason


def listed(request: Request, who: Visitor) -> Response:
    """GET /decisions: what waits, and what was decided."""
    waiting = [version for task in models.tasks() for version in models.versions(task) if version.waits]
    signed = [event for event in ledger.events(kind="approval") if decisions.is_signed(event)]
    made = signed[: -models.LATEST - 1 : -1]
    return page(
        request, "decisions.html", {"waiting": waiting, "made": made, "shortest": SHORTEST, "longest": LONGEST}, who
    )


def decide(request: Request, who: Visitor, form: Form) -> Response:
    """POST /decisions: task, version, decision and reason. One decision for each version."""
    del request
    task, version, decision = form.get("task", ""), form.get("version", ""), form.get("decision", "")
    reason = " ".join(form.get("reason", "").split())
    if not accounts.may(who.name, "approve"):
        raise HTTPException(403, "Only an engineer approves or rejects a version.")
    if decision not in DECISIONS:
        raise HTTPException(400, "Choose whether to approve or to reject.")
    if not SHORTEST <= len(reason) <= LONGEST:
        raise HTTPException(400, f"Give a reason of {SHORTEST} to {LONGEST} characters; it stays in the record.")
    if task not in models.tasks() or version not in [each.version for each in models.versions(task) if each.waits]:
        raise HTTPException(409, f"{task}/{version} does not wait for a decision (any more).")
    approval = decisions.record("approval", f"{task}/{version}", {"decision": decision, "reason": reason}, who.name)
    outbox.put("approval", f"{task}/{version}/{approval.seq}", {"task": task, "version": version})
    return RedirectResponse("/decisions", status_code=303)
