"""The page of what changed: verdicts of the watch and of the data gate, with the pages that show why."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from desk.pages import models, tool_reports
from desk.templates import page
from desk.visitor import Visitor


def listed(request: Request, who: Visitor) -> Response:
    """GET /watch."""
    judged = [
        (event, tool_reports.link(who, str(event.payload.get("page") or "")))
        for event in models.verdicts("monitoring", "data")
    ]
    leaves = {title: tool_reports.leaves(who, room) for room, title in tool_reports.ROOMS.items()}
    return page(request, "watch.html", {"judged": judged, "leaves": leaves, "tools": models.tools()}, who)
