"""Traces one prediction back to its release, model version, run, data, verdicts and people."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from lineage import accounts, mlflow_registry
from lineage.errors import Fault
from lineage.record import database, journal, ledger
from lineage.record.events import EventKind

PREDICTION_FACTS = ("task", "outcome", "answer", "score", "probabilities", "reasons", "inputs", "engine", "duration_ms")


@dataclass(frozen=True)
class Link:
    """One step of the chain: kind of step, id, time, actor and facts."""

    step: str
    id: str
    at: str
    who: str
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Chain:
    """The links behind one prediction in order, and a sentence for each missing link."""

    prediction_id: str
    links: tuple[Link, ...]
    missing: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The chain as plain JSON."""
        links = [vars(link) for link in self.links]
        return {"prediction_id": self.prediction_id, "links": links, "missing": list(self.missing)}


def trace(prediction_id: str) -> Chain:
    """The chain behind a prediction. Fault if the journal has no such prediction.

    Missing links are listed in `missing`; the others are still included.
    """
    row = journal.get(prediction_id)
    missing: list[str] = []
    facts = {name: getattr(row, name) for name in PREDICTION_FACTS}
    if row.shadows:
        facts |= {"shadow": "answer of a shadow release, which no user received", "shadows": row.shadows}
    links = [Link("prediction", row.id, row.at, row.actor, facts)]
    links += _labels(prediction_id)
    links += _release(row.release, missing)
    logged_event = _logged_event(row.task, row.version)
    links += _version(row.task, row.version, logged_event, missing)
    links += _parents(row.task, logged_event, missing)
    links += _run(row.task, row.version, logged_event, missing)
    batches = list(logged_event.payload.get("batches", [])) if logged_event else []
    links += _data(row.task, row.version, batches, logged_event, missing)
    links += _verdicts([*batches, f"{row.task}/{row.version}", row.release], row.task, missing)
    links += _approvals(row.task, row.version)
    links += _site(row.task, row.version, str(row.description.get("site_hash", "")))
    links += _withdrawals(f"{row.task}/{row.version}")
    links += _people(links)
    links.append(_ledger_link())
    return Chain(prediction_id, tuple(links), tuple(missing))


def subjects(release: str) -> list[str]:
    """The subjects in the ledger behind a release: itself, its tasks, versions and batches, and accepted sites."""
    names = [release]
    for event in ledger.events(EventKind.RELEASE_BUILT, release):
        decisions = event.payload.get("sites", {}).get("decisions", [])
        names += [accepted.subject for accepted in ledger.events(EventKind.SITE_ACCEPTED) if accepted.seq in decisions]
        for task, version in event.payload.get("tasks", {}).items():
            logged_event = _logged_event(task, str(version))
            names += [task, f"{task}/{version}", *(logged_event.payload.get("batches", []) if logged_event else [])]
    return list(dict.fromkeys(names))


def render(chain: Chain) -> str:
    """The chain as text: a line for each link with its facts below it, then the missing links."""
    lines = []
    for link in chain.links:
        lines.append(f"{link.step:<11} {link.id}  {link.at}  by {link.who}")
        lines += [
            f"{'':<11}   {name}: {_short_text(value)}"
            for name, value in link.facts.items()
            if value not in (None, [], {})
        ]
    lines += [f"{'missing':<11} {sentence}" for sentence in chain.missing]
    return "\n".join(lines)


def _labels(prediction_id: str) -> list[Link]:
    """The confirmed diagnoses of the case, recorded after the prediction."""
    table = database.outcomes
    rows = database.fetch(table.select().where(table.c.prediction_id == prediction_id).order_by(table.c.id))
    return [Link("outcome", row["label"], row["at"], row["actor"], {"source": row["source"]}) for row in rows]


def _release(release: str, missing: list[str]) -> list[Link]:
    built, activated = (
        ledger.events(EventKind.RELEASE_BUILT, release),
        ledger.events(EventKind.RELEASE_ACTIVATED, release),
    )
    if not built:
        missing.append(f"release: the ledger does not say how {release} was built")
    if not activated:
        missing.append(f"release: the ledger does not say that {release} was ever put into service")
    return [
        Link("release", release, event.at, event.actor, {"event": event.kind, **event.payload})
        for event in built + activated
    ]


def _logged_event(task: str, version: str) -> ledger.Event | None:
    """The event that logged a version; the latest one, if it was logged twice."""
    events = [
        event for event in ledger.events(EventKind.MODEL_LOGGED, task) if str(event.payload.get("version")) == version
    ]
    return events[-1] if events else None


def _version(task: str, version: str, logged_event: ledger.Event | None, missing: list[str]) -> list[Link]:
    name = f"{task}/{version}"
    logged_events = [logged_event] if logged_event else []
    if not logged_event:
        missing.append(f"version: the ledger does not say how {name} was made")
    kinds = (EventKind.MODEL_PROMOTED, EventKind.MODEL_ROLLED_BACK, EventKind.ANCHOR_SET)
    role_events = [
        event
        for event in ledger.events(subject=task)
        if event.kind in kinds and str(event.payload.get("version")) == version
    ]
    if not any(event.kind == EventKind.MODEL_PROMOTED for event in role_events):
        missing.append(f"version: the ledger does not say that {name} was promoted")
    return [
        Link("version", name, event.at, event.actor, {"event": event.kind, **event.payload})
        for event in logged_events + role_events
    ]


def _parents(task: str, logged_event: ledger.Event | None, missing: list[str]) -> Iterator[Link]:
    """The versions from whose weights a version was warm-started, the nearest first."""
    visited = set[str]()
    while logged_event and (name := str(logged_event.payload.get("parent", ""))) and name not in visited:
        visited.add(name)
        weights = {"weights": logged_event.payload.get("parent_sha256")}
        child, logged_event = logged_event, _logged_event(task, name.removeprefix(f"{task}/"))
        if logged_event is None:
            missing.append(f"parent: the ledger does not say how {name} was made")
        event = logged_event or child
        yield Link("parent", name, event.at, event.actor, weights | (logged_event.payload if logged_event else {}))


def _run(task: str, version: str, logged_event: ledger.Event | None, missing: list[str]) -> list[Link]:
    if not logged_event:
        missing.append(f"run: unknown, since the ledger does not say how {task}/{version} was made")
        return []
    run_id = str(logged_event.payload.get("run_id"))
    try:
        facts = mlflow_registry.run_facts(run_id)
    except Fault as fault:
        missing.append(f"run: {fault}")
        return [Link("run", run_id, logged_event.at, logged_event.actor, {"known from": "the ledger alone"})]
    return [Link("run", run_id, logged_event.at, logged_event.actor, facts)]


def _data(
    task: str, version: str, batches: list[str], logged_event: ledger.Event | None, missing: list[str]
) -> list[Link]:
    if not batches:
        missing.append(f"data: the ledger does not say on which batches {task}/{version} was trained")
    links = []
    if logged_event:
        links = [
            Link(
                "data",
                str(logged_event.payload.get("data_version")),
                logged_event.at,
                logged_event.actor,
                {"batches": batches},
            )
        ]
    for batch in batches:
        admitted = [
            event for event in ledger.events(EventKind.BATCH_ADMITTED, batch) if event.payload.get("task", task) == task
        ]
        if not admitted:
            missing.append(f"data: the ledger does not say that the batch {batch} was admitted")
        links += [Link("batch", batch, event.at, event.actor, event.payload) for event in admitted]
    return links


def _verdicts(names: list[str], task: str, missing: list[str]) -> list[Link]:
    """The verdicts on batches, version and release.

    Batches of two tasks may have the same name, so a verdict with a task counts for that task only.
    """
    links = []
    for name in names:
        verdicts = [
            event for event in ledger.events(EventKind.VERDICT, name) if event.payload.get("task", task) == task
        ]
        if not verdicts:
            missing.append(f"verdict: the ledger has no verdict on {name}")
        for event in verdicts:
            facts = {
                "gate": event.payload["gate"],
                "outcome": event.payload["outcome"],
                "reasons": event.payload["reasons"],
            }
            links.append(
                Link("verdict", f"{event.payload['gate']}: {name}", event.at, event.actor, facts | {"event": event.seq})
            )
    return links


def _approvals(task: str, version: str) -> list[Link]:
    """Approvals of a version by people; there are none if passing challengers are promoted automatically."""
    name = f"{task}/{version}"
    return [
        Link("approval", name, event.at, event.actor, event.payload)
        for event in ledger.events(EventKind.APPROVAL, name)
    ]


def _site(task: str, version: str, site: str) -> list[Link]:
    """The verdicts of the site gate on a version at the scan's site (a hash), and the decisions of people on it."""
    verdicts = [
        event
        for event in ledger.events(EventKind.VERDICT)
        if event.payload["gate"] == "site"
        and (event.payload["task"], event.payload["version"]) == (task, version)
        and site in (event.payload["site"], *event.payload.get("institutions", []))
    ]
    links = [
        Link("verdict", f"site: {event.subject}", event.at, event.actor, {"outcome": event.payload["outcome"]})
        for event in verdicts
    ]
    decisions = [
        event
        for subject in dict.fromkeys(event.subject for event in verdicts)
        for kind in (EventKind.SITE_ACCEPTED, EventKind.SITE_WITHDRAWN)
        for event in ledger.events(kind, subject)
    ]
    return links + [Link("site", event.kind, event.at, event.actor, event.payload) for event in decisions]


def _withdrawals(version: str) -> list[Link]:
    """Withdrawn patients on whose scans the version was trained: since then it is not reproducible."""
    return [
        Link("withdrawal", event.subject[:12], event.at, event.actor, {"not reproducible since": event.at[:10]})
        for event in ledger.events(EventKind.PATIENT_WITHDRAWN)
        if version in event.payload.get("models", [])
    ]


def _people(links: list[Link]) -> Iterator[Link]:
    """The accounts of all actors in these links."""
    accounts_by_name = {person.name: person for person in accounts.people()}
    for name in dict.fromkeys(link.who for link in links):
        if name in accounts_by_name:
            person = accounts_by_name[name]
            yield Link(
                "person", name, person.added_at, person.added_by, {"role": person.role, "disabled": person.disabled_at}
            )


def _ledger_link() -> Link:
    """The verification of the ledger from which the chain was read."""
    verdict = ledger.verify()
    facts = {"outcome": verdict.outcome.value, "reasons": list(verdict.reasons), "events": verdict.figures["events"]}
    return Link("ledger", str(verdict.figures["head"])[:12], database.now(), accounts.SYSTEM, facts)


def _short_text(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 200 else text[:199] + "…"
