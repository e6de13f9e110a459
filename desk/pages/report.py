"""The printable report of one case: the answer, and what stands behind it."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from desk.pages.cases import GONE, own
from desk.templates import bounds, figure, flat, page, style
from desk.visitor import Visitor
from lineage.record import database, ledger
from lineage.record.ledger import Event

MEASURES = {
    "clusters": "Patients or groups tested",
    "positive clusters": "Patients or groups with the finding",
    "negative clusters": "Patients or groups without it",
    "units": "Slices tested",
    "positive units": "Slices with the finding",
    "confidence": "Level of the intervals",
    "auroc": "Area under the ROC curve",
    "sensitivity": "Sensitivity at the threshold",
    "specificity": "Specificity at the threshold",
    "prevalence": "Share of slices with the finding that the next two assume",
    "ppv": "Of slices called positive, how many are (PPV)",
    "npv": "Of slices called negative, how many are (NPV)",
    "auprc": "Area under the precision-recall curve",
    "balanced accuracy": "Balanced accuracy (mean of the classes)",
    "accuracy": "Accuracy",
    "precision": "Precision among the slices tested",
    "f1": "F1",
    "macro f1": "F1, mean of the classes",
    "quadratic kappa": "Agreement over the ordered classes (quadratic weighted kappa)",
    "calibration slope": "Calibration slope (1 is right, under 1 too sure)",
    "ece": "Calibration error (0 is best)",
    "brier": "Brier score (0 is best)",
}


def show(request: Request, who: Visitor) -> Response:
    """GET /cases/{id}/report; with `?file=1` as a file that needs no server to be read."""
    case = own(request, who)
    values = {
        "case": case,
        "gone": GONE,
        "metrics": metrics(case.task.metrics),
        "judged": judged(case.row["task"], case.row["version"]),
        "printed": database.now(),
    }
    if "file" not in request.query_params:
        return page(request, "report.html", values, who)
    response = page(request, "report.html", values | {"style": style()}, who)
    response.headers["Content-Disposition"] = f'attachment; filename="report-{case.row["id"]}.html"'
    return response


def metrics(figures: dict[str, object]) -> list[tuple[str, str, str]]:
    """(name, value, interval) of each figure that was measured on test patients, what people ask first at the top."""
    found = []
    order = {name: place for place, name in enumerate(MEASURES)}
    for name, value in sorted(flat(figures), key=lambda told: order.get(told[0], len(order))):
        said = MEASURES.get(name, name[:1].upper() + name[1:])
        if interval := bounds(value):
            middle, low, high = interval
            known = low is not None and high is not None
            found.append((said, figure(middle), f"{figure(low)} to {figure(high)}" if known else "too few to tell"))
        elif value is not None and not isinstance(value, list | dict | bool):
            found.append((said, figure(value), ""))
    return found


def judged(task: str, version: str) -> Event | None:
    """What the training gate said of a version, the last time it was asked."""
    verdicts = ledger.events(kind="verdict", subject=f"{task}/{version}")
    return verdicts[-1] if verdicts else None
