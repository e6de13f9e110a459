"""The engineer's pages: tasks with their versions and roles, verdicts with their figures, links to the tools."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from desk.pages import test_set_usage, tool_reports
from desk.templates import page
from desk.tools import proxy as tool_proxy
from desk.traffic import traffic
from desk.visitor import Visitor
from lineage import decisions, registry
from lineage.record import ledger
from lineage.record.ledger import Event

LATEST = 50


@dataclass(frozen=True)
class Version:
    """One version of a task's model, with its roles, verdicts and decision."""

    task: str
    version: str
    logged: Event
    roles: tuple[str, ...]
    verdict: Event | None
    decision: Event | None
    result: str  # promoted, rejected, or empty
    shadow_verdict: Event | None = None

    @property
    def note(self) -> str:
        """A note that every page of the task shows; may be empty."""
        return str(self.logged.payload.get("note", ""))

    @property
    def is_waiting(self) -> bool:
        """Whether a person may still approve or reject it."""
        is_eligible = self.verdict is not None and self.verdict.payload["outcome"] in ("pass", "inconclusive")
        return is_eligible and self.decision is None and not self.result


def tasks() -> list[str]:
    """Every task that ever had a version."""
    return sorted({event.subject for event in ledger.events(kind="model.logged")})


def versions(task: str) -> list[Version]:
    """The versions of a task, newest first. The newest version that waits for a decision is the challenger."""
    events = ledger.events(subject=task)
    version_by_role = registry.roles(task)
    promoted = {str(event.payload["version"]) for event in events if event.kind == "model.promoted"}
    rejected = {str(event.payload["version"]) for event in events if event.kind == "model.rejected"}
    listed_versions: list[Version] = []
    shadow = traffic.shadow()
    for event in reversed([event for event in events if event.kind == "model.logged"]):
        number = str(event.payload["version"])
        version_events = ledger.events(subject=f"{task}/{number}")
        result = "promoted" if number in promoted else "rejected" if number in rejected else ""
        roles = tuple(role for role, holder in version_by_role.items() if holder == number)
        if shadow and (shadow.task, shadow.version) == (task, number):
            roles = (*roles, "shadow")
        shadow_verdict = _last(ledger.events(kind="verdict", subject=f"{task}/{number} in shadow"), "verdict")
        verdict, decision = _last(version_events, "verdict"), _valid_decision(version_events)
        version = Version(task, number, event, roles, verdict, decision, result, shadow_verdict)
        if version.is_waiting and not any("challenger" in newer.roles for newer in listed_versions):
            version = replace(version, roles=(*roles, "challenger"))
        listed_versions.append(version)
    return listed_versions


def _valid_decision(version_events: list[Event]) -> Event | None:
    """The newest decision on a version that is signed, not too old, and not refused by the flow."""
    used = [event.payload for event in version_events if event.kind == "decision.used"]
    refused = {facts["decision"] for facts in used if "refused" in facts}
    approvals = [event for event in version_events if event.kind == "approval" and event.seq not in refused]
    valid = [event for event in approvals if decisions.is_signed(event) and not decisions.is_late(event)]
    return valid[-1] if valid else None


def _last(events: list[Event], kind: str) -> Event | None:
    return next((event for event in reversed(events) if event.kind == kind), None)


def models_page(request: Request, visitor: Visitor) -> Response:
    """GET /models: all tasks with their versions, test-set budget and results on earlier data."""
    versions_by_task = {task: versions(task) for task in tasks()}
    values = {
        "tasks": versions_by_task,
        "earlier_results": {task: _earlier_results(listed) for task, listed in versions_by_task.items()},
        "cohorts": {task: test_set_usage.cohorts(task) for task in versions_by_task},
        "live": traffic.live(),
        "tools": tools(),
    }
    return page(request, "models.html", values, visitor)


def _earlier_results(listed: list[Version]) -> tuple[Version, tuple[test_set_usage.EarlierResult, ...]] | None:
    """The newest version that was compared on earlier data, and its results there."""
    compared = ((version, test_set_usage.earlier_results(version.verdict)) for version in listed)
    return next(((version, rows) for version, rows in compared if rows), None)


def verdict_page(request: Request, visitor: Visitor) -> Response:
    """GET /verdicts/{seq}: one verdict with its reasons, figures and thresholds."""
    seq = request.path_params["seq"]
    rows = ledger.rows(after=seq - 1, limit=1) if 0 < seq < 2**62 else []
    if not rows or rows[0]["seq"] != seq or rows[0]["kind"] != "verdict":
        raise HTTPException(404, "There is no such verdict.")
    event = Event(**rows[0] | {"payload": json.loads(rows[0]["payload"])})
    link = tool_reports.link(visitor, str(event.payload.get("page") or ""))
    logged = ledger.events(kind="model.logged", subject=event.subject.split("/")[0])
    note = logged[-1].payload.get("note", "") if logged else ""
    values = {"event": event, "link": link, "note": note, "earlier_results": test_set_usage.earlier_results(event)}
    return page(request, "verdict.html", values, visitor)


def verdicts(*gates: str) -> list[Event]:
    """The latest verdicts of these gates, newest first."""
    events = [event for event in ledger.events(kind="verdict") if event.payload["gate"] in gates]
    return events[: -LATEST - 1 : -1]


def tools() -> list[tuple[str, str]]:
    """(name, address at the desk) of the tools whose pages are available now."""
    running = [name for name in tool_proxy.TOOLS if tool_proxy.service_url("tools") and tool_proxy.is_started(name)]
    return [(tool_proxy.TOOLS[name][0], f"/tools/{name}") for name in running]
