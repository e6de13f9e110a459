"""The printable report of one case: the answer, and what stands behind it."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from desk.cases import GONE, own
from desk.render import bounds, figure, flat, page
from desk.signin import Visitor
from lineage import ledger, store
from lineage.ledger import Event


def show(request: Request, who: Visitor) -> Response:
    """GET /cases/{id}/report."""
    case = own(request, who)
    values = {
        "case": case,
        "gone": GONE,
        "metrics": metrics(case.task.metrics),
        "judged": judged(case.row["task"], case.row["version"]),
        "printed": store.now(),
    }
    return page(request, "report.html", values, who)


def metrics(figures: dict[str, object]) -> list[tuple[str, str, str]]:
    """(name, value, interval) of each figure that was measured on test patients."""
    found = []
    for name, value in flat(figures):
        if interval := bounds(value):
            found.append((name, figure(interval[0]), f"{figure(interval[1])} to {figure(interval[2])}"))
        elif value is not None and not isinstance(value, list | dict | bool):
            found.append((name, figure(value), ""))
    return found


def judged(task: str, version: str) -> Event | None:
    """What the training gate said of a version, the last time it was asked."""
    verdicts = ledger.events(kind="verdict", subject=f"{task}/{version}")
    return verdicts[-1] if verdicts else None
