"""The printable report of one case: the answer, its model, and how the model was tested."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from desk.pages.cases import RELEASE_REMOVED, own_case
from desk.templates import bounds, figure, flat, page, style
from desk.visitor import Visitor
from lineage.record import database, ledger
from lineage.record.events import EventKind
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
    "prevalence": "Assumed share of slices with the finding, for PPV and NPV",
    "ppv": "Of slices called positive, how many are (PPV)",
    "npv": "Of slices called negative, how many are (NPV)",
    "coverage": "Share of slices that get an answer",
    "answered accuracy": "Accuracy among the answered slices",
    "answered sensitivity": "Sensitivity among the answered slices",
    "answered specificity": "Specificity among the answered slices",
    "withheld · low confidence": "Slices withheld for low confidence",
    "withheld · several classes are possible": "Slices withheld because several classes are possible",
    "withheld · no class fits": "Slices withheld because no class fits",
    "auprc": "Area under the precision-recall curve",
    "balanced accuracy": "Balanced accuracy (mean of the classes)",
    "accuracy": "Accuracy",
    "precision": "Precision among the slices tested",
    "f1": "F1",
    "macro f1": "F1, mean of the classes",
    "quadratic kappa": "Agreement over the ordered classes (quadratic weighted kappa)",
    "calibration slope": "Calibration slope (1 is ideal, under 1 is overconfident)",
    "ece": "Calibration error (0 is best)",
    "brier": "Brier score (0 is best)",
}


def report_page(request: Request, visitor: Visitor) -> Response:
    """GET /cases/{id}/report; with `?file=1` as a single file that needs no server."""
    case = own_case(request, visitor)
    values = {
        "case": case,
        "release_removed": RELEASE_REMOVED,
        "metrics": metrics(case.task.metrics),
        "baselines": baselines(case.task.baselines),
        "gate_verdict": gate_verdict(case.row.task, case.row.version),
        "printed_at": database.now(),
    }
    if "file" not in request.query_params:
        return page(request, "report.html", values, visitor)
    response = page(request, "report.html", values | {"style": style()}, visitor)
    response.headers["Content-Disposition"] = f'attachment; filename="report-{case.row.id}.html"'
    return response


def metrics(figures: dict[str, object]) -> list[tuple[str, str, str]]:
    """(name, value, interval) of each figure on test patients, in the order of `MEASURES`, then the others."""
    rows = []
    order = {name: position for position, name in enumerate(MEASURES)}
    for name, value in sorted(flat(figures), key=lambda entry: order.get(entry[0], len(order))):
        measure = MEASURES.get(name, name[:1].upper() + name[1:])
        if interval := bounds(value):
            middle, low, high = interval
            has_bounds = low is not None and high is not None
            bounds_text = f"{figure(low)} to {figure(high)}" if has_bounds else "too few patients"
            rows.append((measure, figure(middle), bounds_text))
        elif value is not None and not isinstance(value, list | dict | bool):
            rows.append((measure, figure(value), ""))
    return rows


def baselines(comparisons: dict[str, dict[str, object]]) -> list[tuple[str, str, str]]:
    """(name, AUROC, difference of the model to it) of each simple baseline, with intervals."""
    return [
        (name[:1].upper() + name[1:], figure(entry["auroc"]), figure(entry["difference"]))
        for name, entry in comparisons.items()
    ]


def gate_verdict(task: str, version: str) -> Event | None:
    """The latest verdict of the training gate on a version."""
    verdicts = ledger.events(kind=EventKind.VERDICT, subject=f"{task}/{version}")
    return verdicts[-1] if verdicts else None
