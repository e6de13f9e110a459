"""The clinician's pages: a new scan, the answer to it, and the cases of before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from desk.templates import MENU, page
from desk.traffic import release_facts, traffic
from desk.traffic.release_facts import TaskFacts
from desk.visitor import Visitor
from lineage.errors import Fault
from lineage.record import database, journal
from serving.inference.gate import WARNING
from serving.inference.pooling import independent_slice_count, needed

PAGE = 50
WITHHELD, FOUND, CLEAR = "withheld", "found", "clear"
GONE = "the answer's release is no longer kept on this installation"


@dataclass(frozen=True)
class Case:
    """One answer for a page: the journal's row beside what its release says of the task."""

    row: dict[str, Any]
    task: TaskFacts

    @property
    def state(self) -> str:
        """`withheld`, `found` (a positive class) or `clear`: what the colour and the first words follow."""
        if self.row["outcome"] != "pass" or self.row["answer"] is None:
            return WITHHELD
        return FOUND if self.row["answer"] in self.task.positive else CLEAR

    @property
    def reasons(self) -> list[str]:
        """What withheld the answer."""
        return [reason for reason in self.row["reasons"] if not reason.startswith(WARNING)]

    @property
    def warnings(self) -> list[str]:
        """What is odd about the scan and withholds nothing."""
        return [text.removeprefix(WARNING) for text in self.row["reasons"] if text.startswith(WARNING)]

    @property
    def headline(self) -> str:
        """The answer in plain words."""
        return "No answer given" if self.state == WITHHELD else plain(self.row["answer"])

    @property
    def confidence(self) -> list[tuple[str, float, bool]]:
        """(class, probability, whether it is the answer), most probable first."""
        given = self.row["probabilities"]
        names = (
            self.task.classes if len(self.task.classes) == len(given) else [f"class {n + 1}" for n in range(len(given))]
        )
        listed = [
            (plain(name), float(value), name == self.row["answer"]) for name, value in zip(names, given, strict=True)
        ]
        return sorted(listed, key=lambda entry: -entry[1])

    @property
    def watched(self) -> str:
        """The classes whose probability is held against the threshold."""
        return " or ".join(plain(name).lower() for name in self.task.positive)

    @property
    def reached(self) -> bool | None:
        """Whether the score is at or over the operating threshold; None where either is not known."""
        if self.task.threshold is None or self.row["score"] is None:
            return None
        return bool(self.row["score"] >= self.task.threshold)

    @property
    def peak(self) -> int | None:
        """Position of the slice that the map belongs to, counted from 1; None for a single picture."""
        if len(self.row["slices"]) < 2:
            return None
        return 1 + int(max(self.counted or self.row["slices"], key=lambda entry: entry["score"])["index"])

    @property
    def needed(self) -> float | None:
        """The probability that a single slice needs among so many; None where the release is gone."""
        if self.task.threshold is None or self.task.pooling is None:
            return None
        seen = independent_slice_count(len(self.counted), float(self.row["description"].get("thickness", 0)))
        return needed(self.task.threshold, self.task.pooling, self.task.prevalence, seen)

    @property
    def counted(self) -> list[dict[str, Any]]:
        """The slices that counted for the answer: they look like what the model was judged on."""
        return [entry for entry in self.row["slices"] if entry.get("counted", True)]


def plain(name: str) -> str:
    """A class name for people: `no_tumour` is `No tumour`."""
    return name.replace("_", " ").capitalize()


def home(request: Request, who: Visitor) -> Response:
    """GET /: the first page of each role."""
    if who.role != "clinician":
        return RedirectResponse(MENU[who.role][0][0], status_code=303)
    target = traffic.live()
    if target is None:
        return page(request, "no_release.html", {}, who)
    values = {
        "tasks": release_facts.live_tasks(),
        "limit": release_facts.upload_limit_mb(target.release),
        "keeps": release_facts.keeps_scans(target.release),
        "release": target.release,
    }
    return page(request, "scan.html", values, who)


def listed(request: Request, who: Visitor) -> Response:
    """GET /cases: one's own cases, newest first."""
    table = database.journal
    before = request.query_params.get("before", "")
    query = table.select().where(table.c.actor == who.name).order_by(table.c.number.desc()).limit(PAGE + 1)
    if before.isdecimal() and len(before) < 19:
        query = query.where(table.c.number < int(before))
    numbers = database.fetch(query)
    found = [of(journal.get(row["id"])) for row in numbers[:PAGE]]
    older = numbers[PAGE - 1]["number"] if len(numbers) > PAGE else None
    return page(request, "cases.html", {"cases": found, "older": older}, who)


def one(request: Request, who: Visitor) -> Response:
    """GET /cases/{id}: one case of one's own."""
    return page(request, "case.html", {"case": own(request, who), "gone": GONE}, who)


def card(request: Request, who: Visitor) -> Response:
    """GET /cases/{id}/card: the answer alone, for the page that still shows the scan."""
    return page(request, "card.html", {"case": own(request, who), "gone": GONE}, who)


def own(request: Request, who: Visitor) -> Case:
    """The case that a request names, if it is the visitor's."""
    try:
        row = journal.get(request.path_params["id"])
    except Fault as fault:
        raise HTTPException(404, "There is no such case.") from fault
    if row["actor"] != who.name:
        raise HTTPException(404, "There is no such case.")
    return of(row)


def of(row: dict[str, Any]) -> Case:
    """A journal row with the facts of its release."""
    return Case(row, release_facts.task_facts(row["release"], row["task"]))
