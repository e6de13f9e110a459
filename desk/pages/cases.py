"""The clinician's pages: a new scan, its answer, and earlier cases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from desk.templates import MENU, page
from desk.traffic import release_facts, targets
from desk.traffic.release_facts import TaskFacts
from desk.visitor import Visitor
from lineage.errors import Fault
from lineage.record import database, journal
from lineage.record.prediction import JournalRow, SliceScore
from serving.inference.accepted_sites import NOT_CHECKED, SITE_THRESHOLD
from serving.inference.gate import WARNING_PREFIX
from serving.inference.pooling import independent_slice_count, slice_threshold

PAGE_SIZE = 50
WITHHELD, POSITIVE, NEGATIVE = "withheld", "positive", "negative"
RELEASE_REMOVED = "the answer's release is no longer on this installation"


@dataclass(frozen=True)
class Case:
    """One answer for a page: the journal's row, and the facts of its task in its release."""

    row: JournalRow
    task: TaskFacts

    @property
    def state(self) -> str:
        """`withheld`, `positive` or `negative`; it decides the colour and the first words of the answer."""
        if self.row.outcome != "pass" or self.row.answer is None:
            return WITHHELD
        return POSITIVE if self.row.answer in self.task.positive else NEGATIVE

    @property
    def reasons(self) -> list[str]:
        """The reasons why the answer is withheld."""
        return [reason for reason in self.row.reasons if not reason.startswith(WARNING_PREFIX)]

    @property
    def warnings(self) -> list[str]:
        """Warnings about the scan, which do not withhold the answer; also that an old release checks no sites."""
        texts = [text.removeprefix(WARNING_PREFIX) for text in self.row.reasons if text.startswith(WARNING_PREFIX)]
        is_unchecked = not self.task.checks_sites and NOT_CHECKED not in texts
        return [*texts, NOT_CHECKED] if is_unchecked else texts

    @property
    def headline(self) -> str:
        """The answer in plain words."""
        if self.state == WITHHELD or self.row.answer is None:
            return "No answer given"
        return display_name(self.row.answer)

    @property
    def confidence(self) -> list[tuple[str, float, bool]]:
        """(class, probability, whether it is the answer), most probable first."""
        probabilities = self.row.probabilities
        names: Sequence[str] = self.task.classes
        if len(names) != len(probabilities):
            names = [f"class {number + 1}" for number in range(len(probabilities))]
        entries = [
            (display_name(name), float(value), name == self.row.answer)
            for name, value in zip(names, probabilities, strict=True)
        ]
        return sorted(entries, key=lambda entry: -entry[1])

    @property
    def positive_classes(self) -> str:
        """The classes whose probability is compared with the threshold."""
        return " or ".join(display_name(name).lower() for name in self.task.positive)

    @property
    def is_at_threshold(self) -> bool | None:
        """Whether the score is at or over the operating threshold; None if either is unknown."""
        if self.task.threshold is None or self.row.score is None:
            return None
        return bool(self.row.score >= self.task.threshold)

    @property
    def map_slice(self) -> int | None:
        """The number of the heat map's slice, counted from 1; None for a single picture."""
        if len(self.row.slices) < 2:
            return None
        return 1 + int(max(self.pooled_slices or self.row.slices, key=lambda entry: entry["score"])["index"])

    @property
    def slice_threshold(self) -> float | None:
        """The probability that a single slice needs in a case of so many; None without the release's manifest."""
        if self.task.threshold is None or self.task.pooling is None:
            return None
        independent_slices = independent_slice_count(
            len(self.pooled_slices), float(self.row.description.get("thickness", 0))
        )
        return slice_threshold(self.task.threshold, self.task.pooling, self.task.prevalence, independent_slices)

    @property
    def pooled_slices(self) -> list[SliceScore]:
        """The slices that were pooled to the answer: those like the slices that the model was evaluated on."""
        return [entry for entry in self.row.slices if entry.get("counted", True)]


def display_name(name: str) -> str:
    """A class name for people: `no_tumour` becomes `No tumour`."""
    return name.replace("_", " ").capitalize()


def home(request: Request, visitor: Visitor) -> Response:
    """GET /: the first page of each role."""
    if visitor.role != "clinician":
        return RedirectResponse(MENU[visitor.role][0][0], status_code=303)
    target = targets.live()
    if target is None:
        return page(request, "no_release.html", {}, visitor)
    values = {
        "tasks": release_facts.live_tasks(),
        "limit": release_facts.upload_limit_mb(target.release),
        "release": target.release,
    }
    return page(request, "scan.html", values, visitor)


def list_page(request: Request, visitor: Visitor) -> Response:
    """GET /cases: the visitor's own cases, newest first."""
    table = database.journal
    before = request.query_params.get("before", "")
    query = table.select().where(table.c.actor == visitor.name).order_by(table.c.number.desc()).limit(PAGE_SIZE + 1)
    if before.isdecimal() and len(before) < 19:
        query = query.where(table.c.number < int(before))
    rows = database.fetch(query)
    cases = [case_of_row(journal.get(row["id"])) for row in rows[:PAGE_SIZE]]
    older = rows[PAGE_SIZE - 1]["number"] if len(rows) > PAGE_SIZE else None
    return page(request, "cases.html", {"cases": cases, "older": older}, visitor)


def case_page(request: Request, visitor: Visitor) -> Response:
    """GET /cases/{id}: one of the visitor's own cases."""
    values = {"case": own_case(request, visitor), "release_removed": RELEASE_REMOVED}
    return page(request, "case.html", values, visitor)


def answer_card(request: Request, visitor: Visitor) -> Response:
    """GET /cases/{id}/card: the answer without a page around it, for the page of a new scan."""
    values = {"case": own_case(request, visitor), "release_removed": RELEASE_REMOVED}
    return page(request, "answer_card.html", values, visitor)


def own_case(request: Request, visitor: Visitor) -> Case:
    """The case in a request's path. HTTPException 404 unless it is the visitor's own."""
    try:
        row = journal.get(request.path_params["id"])
    except Fault as fault:
        raise HTTPException(404, "There is no such case.") from fault
    if row.actor != visitor.name:
        raise HTTPException(404, "There is no such case.")
    return case_of_row(row)


def case_of_row(row: JournalRow) -> Case:
    """A journal row with the facts of its release, and with the operating point of the scan's site."""
    facts = release_facts.task_facts(row.release, row.task)
    site_threshold = row.description.get(SITE_THRESHOLD)
    return Case(row, facts if site_threshold is None else replace(facts, threshold=float(site_threshold)))
