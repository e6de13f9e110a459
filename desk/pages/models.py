"""The engineer's pages: tasks with their versions and roles, verdicts with their figures, links to the tools."""

from __future__ import annotations

import json

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from desk.pages import test_set_usage, tool_reports
from desk.templates import page
from desk.tools import proxy as tool_proxy
from desk.traffic import targets
from desk.visitor import Visitor
from lineage import current_state
from lineage.current_state import ModelVersion
from lineage.record import ledger
from lineage.record.events import EventKind
from lineage.record.ledger import Event

LATEST = 50


def models_page(request: Request, visitor: Visitor) -> Response:
    """GET /models: all tasks with their versions, test-set budget and results on earlier data."""
    versions_by_task = {task: current_state.model_versions(task) for task in current_state.tasks_with_versions()}
    values = {
        "tasks": versions_by_task,
        "earlier_results": {task: _earlier_results(listed) for task, listed in versions_by_task.items()},
        "cohorts": {task: test_set_usage.cohorts(task) for task in versions_by_task},
        "live": targets.live(),
        "tools": tools(),
    }
    return page(request, "models.html", values, visitor)


def _earlier_results(
    listed: list[ModelVersion],
) -> tuple[ModelVersion, tuple[test_set_usage.EarlierResult, ...]] | None:
    """The newest version that was compared on earlier data, and its results there."""
    compared = ((version, test_set_usage.earlier_results(version.verdict)) for version in listed)
    return next(((version, rows) for version, rows in compared if rows), None)


def verdict_page(request: Request, visitor: Visitor) -> Response:
    """GET /verdicts/{seq}: one verdict with its reasons, figures and thresholds."""
    seq = request.path_params["seq"]
    rows = ledger.rows(after=seq - 1, limit=1) if 0 < seq < 2**62 else []
    if not rows or rows[0]["seq"] != seq or rows[0]["kind"] != EventKind.VERDICT:
        raise HTTPException(404, "There is no such verdict.")
    event = Event(**rows[0] | {"payload": json.loads(rows[0]["payload"])})
    link = tool_reports.link(visitor, str(event.payload.get("page") or ""))
    logged = ledger.events(kind=EventKind.MODEL_LOGGED, subject=event.subject.split("/")[0])
    note = logged[-1].payload.get("note", "") if logged else ""
    values = {"event": event, "link": link, "note": note, "earlier_results": test_set_usage.earlier_results(event)}
    return page(request, "verdict.html", values, visitor)


def verdicts(*gates: str) -> list[Event]:
    """The latest verdicts of these gates, newest first."""
    events = [event for event in ledger.events(kind=EventKind.VERDICT) if event.payload["gate"] in gates]
    return events[: -LATEST - 1 : -1]


def tools() -> list[tuple[str, str]]:
    """(name, address at the desk) of the tools whose pages are available now."""
    running = [name for name in tool_proxy.TOOLS if tool_proxy.service_url("tools") and tool_proxy.is_started(name)]
    return [(tool_proxy.TOOLS[name][0], f"/tools/{name}") for name in running]
