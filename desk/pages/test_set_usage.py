"""What test patients have decided, and what a new version keeps of earlier data: from the ledger, in plain words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lineage.record import database, ledger
from lineage.record.ledger import Event
from training.promotion import test_set_budget
from training.promotion.test_set_budget import Balance


@dataclass(frozen=True)
class Cohorts:
    """The test-set ledger of a task: the yearly budget of luck, over how many looks, and what each batch has left."""

    budget: float
    looks: int
    balances: tuple[Balance, ...]


@dataclass(frozen=True)
class Kept:
    """AUROC of a version and of a rival on one earlier epoch or site; None where there are too few patients to tell."""

    rival: str
    on: str
    positives: int
    negatives: int
    challenger: float | None
    rival_auroc: float | None
    difference: float | None
    low: float | None
    p: float | None


def cohorts(task: str) -> Cohorts | None:
    """How often the test patients of each batch have decided this year, by the newest verdict's thresholds.

    None where the training gate has not spoken of the task.
    """
    verdicts = [event for event in ledger.events(kind="verdict") if _of(event, task)]
    thresholds = verdicts[-1].payload["thresholds"] if verdicts else {}
    if "looks_per_year" not in thresholds:
        return None
    past = test_set_budget.read_looks([(event.at, event.payload) for event in verdicts], task, database.now())
    share, most = float(thresholds["budget"]), int(thresholds["looks_per_year"])
    return Cohorts(
        share, most, test_set_budget.balances(_batches(task, test_set_budget.decided_batches(past)), past, share, most)
    )


def earlier(event: Event | None) -> tuple[Kept, ...]:
    """What a verdict found on the epochs before the last and on the sites as they were then; empty without a rival."""
    figures = event.payload.get("figures", {}) if event else {}
    rivals = [figures[role] for role in ("champion", "anchor") if figures.get(role)]
    rows = [_kept(rival["rival"], name, row) for rival in rivals for name, row in rival.get("earlier", {}).items()]
    return tuple(dict.fromkeys(rows))


def _of(event: Event, task: str) -> bool:
    """Whether a verdict is the training gate's, on a version of the task."""
    judged = event.payload["gate"] == "training" and {"figures", "thresholds"} <= event.payload.keys()
    return judged and event.subject.startswith(f"{task}/")


def _batches(task: str, decided: Iterable[str]) -> list[str]:
    """The batches that the newest version knows, those that have decided, and what was admitted since."""
    logged = ledger.events(kind="model.logged", subject=task)
    last = logged[-1] if logged else None
    known = {*(last.payload.get("batches", []) if last else []), *decided}
    admitted = [event for event in ledger.events(kind="batch.admitted") if event.payload.get("task") == task]
    order = [event.subject for event in admitted]
    known |= {event.subject for event in admitted if last is None or event.seq > last.seq}
    return sorted(known, key=lambda batch: (order.index(batch) if batch in order else -1, batch))


def _kept(rival: str, name: str, row: Mapping[str, Any]) -> Kept:
    clusters = (int(row[f"{kind}_clusters"]) for kind in ("positive", "negative"))
    figures = (row.get(key) for key in ("challenger", "rival", "difference", "low", "p_holm"))
    return Kept(rival, name, *clusters, *figures)
