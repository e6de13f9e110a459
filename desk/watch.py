"""The page of what changed: verdicts of the watch and of the data gate, with the pages that show why."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from desk import models, shelf
from desk.render import page
from desk.signin import Visitor


def listed(request: Request, who: Visitor) -> Response:
    """GET /watch."""
    judged = [
        (event, shelf.link(who, str(event.payload.get("page") or "")))
        for event in models.verdicts("monitoring", "data")
    ]
    leaves = {title: shelf.leaves(who, room) for room, title in shelf.ROOMS.items()}
    return page(request, "watch.html", {"judged": judged, "leaves": leaves, "tools": models.tools()}, who)
