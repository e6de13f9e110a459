"""The engineer's pages: tasks with their versions and roles, verdicts with their figures, links to the tools."""

from __future__ import annotations

import json
from dataclasses import dataclass

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from desk.pages import test_set_usage, tool_reports
from desk.templates import page
from desk.tools import proxy as tool_pages
from desk.traffic import traffic
from desk.visitor import Visitor
from lineage import decisions, registry
from lineage.record import ledger
from lineage.record.ledger import Event

LATEST = 50


@dataclass(frozen=True)
class Version:
    """One version of a task's model: its roles, what the gates said and what was decided."""

    task: str
    version: str
    logged: Event
    roles: tuple[str, ...]
    verdict: Event | None
    decision: Event | None
    settled: str
    shadow: Event | None = None

    @property
    def note(self) -> str:
        """What must be said wherever the task shows; empty if nothing."""
        return str(self.logged.payload.get("note", ""))

    @property
    def waits(self) -> bool:
        """Whether a person may still approve or reject it."""
        judged = self.verdict is not None and self.verdict.payload["outcome"] in ("pass", "inconclusive")
        return judged and self.decision is None and not self.settled


def tasks() -> list[str]:
    """Every task that ever had a version."""
    return sorted({event.subject for event in ledger.events(kind="model.logged")})


def versions(task: str) -> list[Version]:
    """The versions of a task, newest first. The newest that waits for a decision is the challenger."""
    events = ledger.events(subject=task)
    held = registry.roles(task)
    promoted = {str(e.payload["version"]) for e in events if e.kind == "model.promoted"}
    rejected = {str(e.payload["version"]) for e in events if e.kind == "model.rejected"}
    found: list[Version] = []
    dark = traffic.shadow()
    for event in reversed([event for event in events if event.kind == "model.logged"]):
        number = str(event.payload["version"])
        own = ledger.events(subject=f"{task}/{number}")
        settled = "promoted" if number in promoted else "rejected" if number in rejected else ""
        roles = tuple(role for role, holder in held.items() if holder == number)
        if dark and (dark.task, dark.version) == (task, number):
            roles = (*roles, "shadow")
        seen = _last(ledger.events(kind="verdict", subject=f"{task}/{number} in shadow"), "verdict")
        made = Version(task, number, event, roles, _last(own, "verdict"), _decision(own), settled, seen)
        challenges = made.waits and not any("challenger" in other.roles for other in found)
        found.append(Version(**vars(made) | {"roles": (*roles, "challenger")}) if challenges else made)
    return found


def _decision(own: list[Event]) -> Event | None:
    """The newest decision that holds or waits: signed, fresh, and refused by nobody."""
    used = [event.payload for event in own if event.kind == "decision.used"]
    refused = {facts["decision"] for facts in used if "refused" in facts}
    unrefused = [event for event in own if event.kind == "approval" and event.seq not in refused]
    good = [event for event in unrefused if decisions.is_signed(event) and not decisions.is_late(event)]
    return good[-1] if good else None


def _last(events: list[Event], kind: str) -> Event | None:
    return next((event for event in reversed(events) if event.kind == kind), None)


def listed(request: Request, who: Visitor) -> Response:
    """GET /models."""
    found = {task: versions(task) for task in tasks()}
    values = {
        "tasks": found,
        "before": {task: _before(known) for task, known in found.items()},
        "cohorts": {task: test_set_usage.cohorts(task) for task in found},
        "live": traffic.live(),
        "tools": tools(),
    }
    return page(request, "models.html", values, who)


def _before(known: list[Version]) -> tuple[Version, tuple[test_set_usage.Kept, ...]] | None:
    """The newest version that met earlier data, and how it did there."""
    met = ((version, test_set_usage.earlier(version.verdict)) for version in known)
    return next(((version, rows) for version, rows in met if rows), None)


def verdict(request: Request, who: Visitor) -> Response:
    """GET /verdicts/{seq}: one verdict with its reasons, figures and thresholds."""
    seq = request.path_params["seq"]
    found = ledger.rows(after=seq - 1, limit=1) if 0 < seq < 2**62 else []
    if not found or found[0]["seq"] != seq or found[0]["kind"] != "verdict":
        raise HTTPException(404, "There is no such verdict.")
    event = Event(**found[0] | {"payload": json.loads(found[0]["payload"])})
    link = tool_reports.link(who, str(event.payload.get("page") or ""))
    logged = ledger.events(kind="model.logged", subject=event.subject.split("/")[0])
    note = logged[-1].payload.get("note", "") if logged else ""
    values = {"event": event, "link": link, "note": note, "earlier": test_set_usage.earlier(event)}
    return page(request, "verdict.html", values, who)


def verdicts(*gates: str) -> list[Event]:
    """The latest verdicts of these gates, newest first."""
    found = [event for event in ledger.events(kind="verdict") if event.payload["gate"] in gates]
    return found[: -LATEST - 1 : -1]


def tools() -> list[tuple[str, str]]:
    """(name, address at the desk) of the tools whose pages are open now."""
    running = [name for name in tool_pages.TOOLS if tool_pages.address("tools") and tool_pages.runs(name)]
    return [(tool_pages.TOOLS[name][0], f"/tools/{name}") for name in running]
