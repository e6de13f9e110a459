"""The page of drift and validation: verdicts of the monitoring gate and the data gate, with their reports."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from desk.pages import models, tool_reports
from desk.templates import page
from desk.visitor import Visitor


def monitoring_page(request: Request, visitor: Visitor) -> Response:
    """GET /watch: the latest verdicts and reports."""
    verdicts = [
        (event, tool_reports.link(visitor, str(event.payload.get("page") or "")))
        for event in models.verdicts("monitoring", "data")
    ]
    reports = {title: tool_reports.latest_reports(visitor, tool) for tool, title in tool_reports.TOOLS.items()}
    return page(request, "watch.html", {"verdicts": verdicts, "reports": reports, "tools": models.tools()}, visitor)
