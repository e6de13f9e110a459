"""Trace: from one prediction back to the people behind it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from lineage import accounts, registry
from lineage.errors import Fault
from lineage.record import database, journal, ledger

PREDICTION_FACTS = ("task", "outcome", "answer", "score", "probabilities", "reasons", "inputs", "engine", "duration_ms")


@dataclass(frozen=True)
class Link:
    """One step of the chain: what it is, its id, when it came to be, through whom, and the facts of it."""

    step: str
    id: str
    at: str
    who: str
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Chain:
    """The links behind one prediction in order, and a sentence for each link that could not be found."""

    prediction_id: str
    links: tuple[Link, ...]
    missing: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        links = [vars(link) for link in self.links]
        return {"prediction_id": self.prediction_id, "links": links, "missing": list(self.missing)}


def trace(prediction_id: str) -> Chain:
    """Follow a prediction to its release, version, run, data, verdicts and people. Fault if the journal lacks it.

    What can't be found is named in `missing`, and the rest is followed all the same.
    """
    row = journal.get(prediction_id)
    missing: list[str] = []
    facts = {name: row[name] for name in PREDICTION_FACTS}
    if row["shadows"]:
        facts |= {"shadow": "given behind another answer, shown to nobody", "shadows": row["shadows"]}
    links = [Link("prediction", row["id"], row["at"], row["actor"], facts)]
    links += _labels(prediction_id)
    links += _release(row["release"], missing)
    logged = _logged(row["task"], row["version"])
    links += _version(row["task"], row["version"], logged, missing)
    links += _parents(row["task"], logged, missing)
    links += _run(row["task"], row["version"], logged, missing)
    batches = list(logged.payload.get("batches", [])) if logged else []
    links += _data(row["task"], row["version"], batches, logged, missing)
    links += _verdicts([*batches, f"{row['task']}/{row['version']}", row["release"]], row["task"], missing)
    links += _approvals(row["task"], row["version"])
    links += _withdrawals(f"{row['task']}/{row['version']}")
    links += _people(links)
    links.append(_record())
    return Chain(prediction_id, tuple(links), tuple(missing))


def subjects(release: str) -> list[str]:
    """Every subject of the ledger that stands behind a release: itself, its versions, their batches and tasks."""
    found = [release]
    for event in ledger.events("release.built", release):
        for task, version in event.payload.get("tasks", {}).items():
            logged = _logged(task, str(version))
            found += [task, f"{task}/{version}", *(logged.payload.get("batches", []) if logged else [])]
    return list(dict.fromkeys(found))


def render(chain: Chain) -> str:
    """The chain as text for people: a line for each link, its facts below it, and at the end what is missing."""
    lines = []
    for link in chain.links:
        lines.append(f"{link.step:<11} {link.id}  {link.at}  by {link.who}")
        lines += [
            f"{'':<11}   {name}: {_short(value)}" for name, value in link.facts.items() if value not in (None, [], {})
        ]
    lines += [f"{'missing':<11} {sentence}" for sentence in chain.missing]
    return "\n".join(lines)


def _labels(prediction_id: str) -> list[Link]:
    """What the case turned out to be, if anybody has said so since."""
    table = database.outcomes
    found = database.fetch(table.select().where(table.c.prediction_id == prediction_id).order_by(table.c.id))
    return [Link("outcome", row["label"], row["at"], row["actor"], {"source": row["source"]}) for row in found]


def _release(release: str, missing: list[str]) -> list[Link]:
    built, activated = ledger.events("release.built", release), ledger.events("release.activated", release)
    if not built:
        missing.append(f"release: the ledger does not say how {release} was built")
    if not activated:
        missing.append(f"release: the ledger does not say that {release} was ever put into service")
    return [Link("release", release, e.at, e.actor, {"event": e.kind, **e.payload}) for e in built + activated]


def _logged(task: str, version: str) -> ledger.Event | None:
    """The event that says how a version was made; the latest one, if a version was logged twice."""
    found = [event for event in ledger.events("model.logged", task) if str(event.payload.get("version")) == version]
    return found[-1] if found else None


def _version(task: str, version: str, logged: ledger.Event | None, missing: list[str]) -> list[Link]:
    name = f"{task}/{version}"
    made = [logged] if logged else []
    if not logged:
        missing.append(f"version: the ledger does not say how {name} was made")
    kinds = ("model.promoted", "model.rolled-back", "anchor.set")
    moves = [e for e in ledger.events(subject=task) if e.kind in kinds and str(e.payload.get("version")) == version]
    if not any(event.kind == "model.promoted" for event in moves):
        missing.append(f"version: the ledger does not say that {name} was promoted")
    return [Link("version", name, e.at, e.actor, {"event": e.kind, **e.payload}) for e in made + moves]


def _parents(task: str, logged: ledger.Event | None, missing: list[str]) -> Iterator[Link]:
    """The versions whose weights a version went on from, the nearest first."""
    seen = set[str]()
    while logged and (name := str(logged.payload.get("parent", ""))) and name not in seen:
        seen.add(name)
        known = {"weights": logged.payload.get("parent_sha256")}
        child, logged = logged, _logged(task, name.removeprefix(f"{task}/"))
        if logged is None:
            missing.append(f"parent: the ledger does not say how {name} was made")
        event = logged or child
        yield Link("parent", name, event.at, event.actor, known | (logged.payload if logged else {}))


def _run(task: str, version: str, logged: ledger.Event | None, missing: list[str]) -> list[Link]:
    if not logged:
        missing.append(f"run: unknown, since the ledger does not say how {task}/{version} was made")
        return []
    run_id = str(logged.payload.get("run_id"))
    try:
        facts = registry.run_facts(run_id)
    except Fault as fault:
        missing.append(f"run: {fault}")
        return [Link("run", run_id, logged.at, logged.actor, {"known from": "the ledger alone"})]
    return [Link("run", run_id, logged.at, logged.actor, facts)]


def _data(task: str, version: str, batches: list[str], logged: ledger.Event | None, missing: list[str]) -> list[Link]:
    if not batches:
        missing.append(f"data: the ledger does not say which batches {task}/{version} has learned from")
    links = []
    if logged:
        links = [Link("data", str(logged.payload.get("data_version")), logged.at, logged.actor, {"batches": batches})]
    for batch in batches:
        admitted = [e for e in ledger.events("batch.admitted", batch) if e.payload.get("task", task) == task]
        if not admitted:
            missing.append(f"data: the ledger does not say that the batch {batch} was admitted")
        links += [Link("batch", batch, event.at, event.actor, event.payload) for event in admitted]
    return links


def _verdicts(names: list[str], task: str, missing: list[str]) -> list[Link]:
    """What the gates said. Batches of two tasks may have one name: a verdict that cites a task counts for it alone."""
    links = []
    for name in names:
        found = [event for event in ledger.events("verdict", name) if event.payload.get("task", task) == task]
        if not found:
            missing.append(f"verdict: no gate has written down what it said of {name}")
        for event in found:
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
    """Decisions of people; there are none where the change plan lets a passing challenger through by itself."""
    name = f"{task}/{version}"
    return [Link("approval", name, event.at, event.actor, event.payload) for event in ledger.events("approval", name)]


def _withdrawals(version: str) -> list[Link]:
    """Patients who were withdrawn after a version had learned from them: it can't be made again since."""
    return [
        Link("withdrawal", event.subject[:12], event.at, event.actor, {"not reproducible since": event.at[:10]})
        for event in ledger.events("patient.withdrawn")
        if version in event.payload.get("models", [])
    ]


def _people(links: list[Link]) -> Iterator[Link]:
    """The accounts of everybody named above."""
    known = {person.name: person for person in accounts.people()}
    for name in dict.fromkeys(link.who for link in links):
        if name in known:
            person = known[name]
            yield Link(
                "person", name, person.added_at, person.added_by, {"role": person.role, "disabled": person.disabled_at}
            )


def _record() -> Link:
    """Whether the ledger that all this was read from is whole."""
    verdict = ledger.verify()
    facts = {"outcome": verdict.outcome.value, "reasons": list(verdict.reasons), "events": verdict.figures["events"]}
    return Link("ledger", str(verdict.figures["head"])[:12], database.now(), accounts.SYSTEM, facts)


def _short(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 200 else text[:199] + "…"
