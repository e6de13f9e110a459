"""The use of test patients, and a new version's results on earlier data, both from the ledger."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lineage.record import database, ledger
from lineage.record.events import EventKind
from lineage.record.ledger import Event
from training.promotion import test_set_budget
from training.promotion.test_set_budget import Balance


@dataclass(frozen=True)
class Cohorts:
    """A task's test-set budget: the yearly chance of a false promotion, the allowed looks, and each batch's balance."""

    budget: float
    looks: int
    balances: tuple[Balance, ...]


@dataclass(frozen=True)
class EarlierResult:
    """AUROC of a version and of a rival on one earlier epoch or site; None if there are too few patients."""

    rival: str
    subgroup: str
    positives: int
    negatives: int
    challenger: float | None
    rival_auroc: float | None
    difference: float | None
    low: float | None
    p: float | None


def cohorts(task: str) -> Cohorts | None:
    """How often each batch's test patients were used for decisions this year, by the newest verdict's thresholds.

    None if the training gate has not judged the task yet.
    """
    verdicts = [event for event in ledger.events(kind=EventKind.VERDICT) if _is_training_verdict(event, task)]
    thresholds = verdicts[-1].payload["thresholds"] if verdicts else {}
    if "looks_per_year" not in thresholds:
        return None
    past_looks = test_set_budget.read_looks([(event.at, event.payload) for event in verdicts], task, database.now())
    budget, looks_per_year = float(thresholds["budget"]), int(thresholds["looks_per_year"])
    batches = _batches(task, test_set_budget.decided_batches(past_looks))
    return Cohorts(budget, looks_per_year, test_set_budget.balances(batches, past_looks, budget, looks_per_year))


def earlier_results(event: Event | None) -> tuple[EarlierResult, ...]:
    """A verdict's results on earlier epochs, and on the sites as they were then; empty without a rival."""
    figures = event.payload.get("figures", {}) if event else {}
    rivals = [figures[role] for role in ("champion", "anchor") if figures.get(role)]
    rows = [
        _earlier_result(rival["rival"], subgroup, row)
        for rival in rivals
        for subgroup, row in rival.get("earlier", {}).items()
    ]
    return tuple(dict.fromkeys(rows))


def _is_training_verdict(event: Event, task: str) -> bool:
    """Whether a verdict is the training gate's, on a version of the task."""
    is_training = event.payload["gate"] == "training" and {"figures", "thresholds"} <= event.payload.keys()
    return is_training and event.subject.startswith(f"{task}/")


def _batches(task: str, decided: Iterable[str]) -> list[str]:
    """The newest version's batches, those used for decisions, and those admitted since, in order of admission."""
    logged = ledger.events(kind=EventKind.MODEL_LOGGED, subject=task)
    last = logged[-1] if logged else None
    batches = {*(last.payload.get("batches", []) if last else []), *decided}
    admitted = [event for event in ledger.events(kind=EventKind.BATCH_ADMITTED) if event.payload.get("task") == task]
    order = [event.subject for event in admitted]
    batches |= {event.subject for event in admitted if last is None or event.seq > last.seq}
    return sorted(batches, key=lambda batch: (order.index(batch) if batch in order else -1, batch))


def _earlier_result(rival: str, subgroup: str, row: Mapping[str, Any]) -> EarlierResult:
    clusters = (int(row[f"{kind}_clusters"]) for kind in ("positive", "negative"))
    figures = (row.get(key) for key in ("challenger", "rival", "difference", "low", "p_holm"))
    return EarlierResult(rival, subgroup, *clusters, *figures)
