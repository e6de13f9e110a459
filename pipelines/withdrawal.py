"""Withdrawal of a patient: where the patient is, and successors of everything that may go on without."""

from __future__ import annotations

import logging
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from data import index, split, withdrawn
from lineage import journal, keys, ledger, outbox, registry
from lineage.fault import Fault
from lineage.ledger import Event
from pipelines import erasure, page, repro

log = logging.getLogger(__name__)

BEGUN, DONE = "withdrawal.begun", "patient.withdrawn"
MANIFEST = "manifest.csv"


@dataclass(frozen=True)
class Held:
    """What holds a patient.

    `batches` as (task, batch); `versions` of the data; `models` as task/version that learned from the patient or were
    judged on them; `releases` of those; `predictions` by id; `quarantined` batches; `inbox` folders, which are the
    user's; `relations`: how many other patients share each cluster with this one.
    """

    patient: str
    batches: list[tuple[str, str]]
    versions: list[str]
    models: list[str]
    releases: list[str]
    predictions: list[str]
    quarantined: list[str]
    inbox: list[str]
    relations: dict[str, int]


def find(patient: str) -> Held:
    """Look for a patient, by the identity in the scans or by the pseudonym. Fault if nothing holds the patient."""
    tables, aside = _manifests("data/batches/*/*"), _manifests("data/quarantine/*")
    rows = journal.rows()
    seen = {name for table in (*tables.values(), *aside.values()) for name in (*table["patient"], *table["cluster"])}
    seen |= set(rows["cluster"]) if len(rows) else set()
    seen.discard("")
    known = (keys.pseudonym(patient), patient)
    name = next((name for name in known if name in seen), None)
    name = name or next((name for name in known if event_of(name)), None)
    if name is None:
        raise Fault(
            "no batch and no prediction holds this patient; give the patient id as in the scans, or the pseudonym"
        )
    holding = {folder: table for folder, table in tables.items() if any(_has(each, name) for each in _said(folder))}
    ancestors = {(folder.parent.name, each) for folder in holding for each in _chain(folder)}
    models = _models(ancestors)
    return Held(
        patient=name,
        batches=[(folder.parent.name, folder.name) for folder in holding],
        versions=_versions({f"{task}/{batch}" for task, batch in ancestors}),
        models=models,
        releases=_releases(set(models)),
        predictions=list(rows.loc[rows["cluster"] == name, "id"]) if len(rows) else [],
        quarantined=[folder.name for folder, table in aside.items() if _has(table, name)],
        inbox=_inbox(name),
        relations=_relations(list(holding.values()), name),
    )


def event_of(name: str, kind: str = BEGUN) -> Event | None:
    """The ledger's event that a patient's withdrawal began (or is done), if it did."""
    found = ledger.events(kind=kind, subject=withdrawn.mark(name))
    return found[-1] if found else None


def unfinished() -> list[Event]:
    """The withdrawals that began and were interrupted."""
    done = {event.payload.get("begun") for event in ledger.events(kind=DONE)}
    return [event for event in ledger.events(kind=BEGUN) if event.seq not in done]


def since(model: str) -> str | None:
    """The date from which a model (`task/version`) can't be made again; None while it can."""
    held = [event.at[:10] for event in ledger.events(kind=DONE) if model in event.payload["models"]]
    return held[0] if held else None


def lost(version: str) -> str | None:
    """The date from which a data version is no longer whole; None while it is."""
    events = ledger.events(kind=DONE)
    batches = repro.batches_of(version) if events else set()
    held = [event.at[:10] for event in events if batches & set(event.payload["ancestors"])]
    return held[0] if held else None


def withdraw(held: Held, reason: str) -> Event:
    """Write the intent down, then carry it out. Killed on the way, the same command (or the next run) finishes."""
    begun = event_of(held.patient)
    if begun is None or (begun not in unfinished() and (held.batches or held.quarantined)):
        begun = ledger.append(BEGUN, withdrawn.mark(held.patient), _intent(held, reason))
    return finish(begun) if begun in unfinished() else ledger.events(kind=DONE, subject=begun.subject)[-1]


def finish(begun: Event) -> Event:
    """Successors, erasure, marks, the last entry of the ledger, and the wish for retraining."""
    plan = begun.payload
    for pair in plan["batches"]:
        _succeed(pair, begun.subject)
    _blind(plan["tasks"], begun.subject)
    repro.forget(plan["tasks"])
    version = repro.commit(["data", "dvc.lock"], "Withdraw a patient")
    repro.push()
    _announce(plan, version)
    gone = erased(begun)
    erasure.erase(gone)
    left = erasure.search(gone)
    tags = {"not_reproducible_since": begun.at[:10], "withdrawal": begun.subject[:12]}
    for name in plan["models"]:
        task, number = name.split("/")
        registry.mark(task, number, tags)
    facts = {name: plan[name] for name in ("batches", "ancestors", "versions", "models", "releases", "tasks", "reason")}
    facts |= {"predictions": plan["predictions"], "data_version": version, "begun": begun.seq, "left": left}
    done = ledger.append(DONE, begun.subject, facts)
    for task in plan["tasks"]:
        outbox.put("retrain", f"withdrawal/{task}/{version}", {"task": task, "reason": "a patient was withdrawn"})
    return done


def erased(begun: Event) -> erasure.Gone:
    """What the ledger says must not be found again."""
    plan = begun.payload
    return erasure.Gone(
        frozenset({begun.subject}), frozenset(plan["units"]), frozenset(plan["stored"]), frozenset(plan["objects"]),
        frozenset(plan["tasks"]),
    )  # fmt: skip


def _intent(held: Held, reason: str) -> dict[str, Any]:
    """All that is needed to finish, without a name: hashes of scans and objects, units, batches."""
    marks = {withdrawn.mark(held.patient)}
    pairs = [f"{task}/{batch}" for task, batch in held.batches]
    folders = [Path("data/batches", pair) for pair in pairs]
    folders += [Path("data/quarantine", name) for name in held.quarantined]
    tables = [index.read_manifest(folder / "manifest.csv") for folder in folders]
    rows = pd.concat([table[withdrawn.concerned(table, marks)] for table in tables]) if tables else pd.DataFrame()
    ancestors = {f"{task}/{each}" for task, name in held.batches for each in _chain(Path("data/batches", task, name))}
    objects = set().union(*(erasure.pointed(Path("data/batches", f"{pair}.dvc")) for pair in pairs))
    return {
        "reason": reason, "batches": pairs,
        "ancestors": sorted(ancestors), "versions": held.versions, "models": held.models,
        "releases": held.releases, "predictions": len(held.predictions),
        "tasks": sorted({task for task, _ in held.batches}), "units": sorted(set(rows.get("unit_id", []))),
        "stored": sorted(set(rows.get("stored_sha256", []))), "objects": sorted(objects),
    }  # fmt: skip


def _succeed(pair: str, mark: str) -> None:
    """A batch's successor: the same scans without the patient's, under the next free name. Done once."""
    old = Path("data/batches", pair)
    if not old.with_name(f"{old.name}.dvc").exists():
        return
    new = _free_name(old)
    table = index.read_manifest(old / "manifest.csv")
    stays = table[~withdrawn.concerned(table, {mark})]
    beside = {path.name: _without(path, mark) for path in old.glob("*.csv") if path.name != MANIFEST}
    if len(stays) or any(len(rows) for rows in beside.values()):
        (new / "scans").mkdir(parents=True)
        for file in sorted(set(stays["file"])):
            shutil.copyfile(old / file, new / file)
        for name, rows in {**beside, MANIFEST: stays}.items():
            rows.to_csv(new / name, index=False, lineterminator="\n")
        record = page.read_json(old / "record.json")
        record |= {"batch": new.name, "units": len(stays), "clusters": int(stays["cluster"].nunique()),
                   "predecessors": _chain(old)}  # fmt: skip
        page.write_json(new / "record.json", record)
        repro.add(new)
    repro.remove(old)
    shutil.rmtree(old)  # before the commit: git no longer ignores it. Killed here, it comes back from the cache
    log.info("%s goes on as %s with %d units", pair, new.name, len(stays))


def _without(path: Path, mark: str) -> pd.DataFrame:
    """Another table of a batch, such as its corrections, without the rows that speak of the patient."""
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    return table[~withdrawn.rows_of(table, set(), {mark})]


def _said(folder: Path) -> list[pd.DataFrame]:
    """The tables of a batch that say whose scans they speak of."""
    tables = [pd.read_csv(path, dtype=str, keep_default_na=False) for path in folder.glob("*.csv")]
    return [table.reindex(columns=["patient", "cluster"], fill_value="") for table in tables]


def _free_name(old: Path) -> Path:
    stem = re.sub(r"-w\d+$", "", old.name)
    taken = {event.subject for event in ledger.events(kind="batch.admitted")}
    number = next(n for n in range(1, 10_000) if f"{stem}-w{n}" not in taken)
    return old.with_name(f"{stem}-w{number}")


def _chain(folder: Path) -> list[str]:
    """A batch and those whose successor it is: the patients of a batch were in each of them."""
    record = page.read_json(folder / "record.json")
    return [*record.get("predecessors", []), folder.name]


def _blind(tasks: list[str], mark: str) -> None:
    for task in tasks:
        path = Path("data/cohorts", f"{task}.csv")
        split.write_cohorts(path, withdrawn.blinded(split.read_cohorts(path), {mark}))


def _announce(plan: dict[str, Any], version: str) -> None:
    known = {event.subject for event in ledger.events(kind="batch.admitted")}
    for task in plan["tasks"]:
        for path in sorted(Path("data/batches", task).glob("*/record.json")):
            if path.parent.name not in known:
                ledger.append("batch.admitted", path.parent.name, page.read_json(path) | {"data_version": version})


def _manifests(pattern: str) -> dict[Path, pd.DataFrame]:
    return {path.parent: index.read_manifest(path) for path in sorted(Path.cwd().glob(f"{pattern}/manifest.csv"))}


def _has(table: pd.DataFrame, name: str) -> bool:
    return name in set(table["patient"]) | set(table["cluster"])


def _models(batches: set[tuple[str, str]]) -> list[str]:
    logged = ledger.events(kind="model.logged")
    held = [e for e in logged if any((e.subject, batch) in batches for batch in e.payload["batches"])]
    return [f"{event.subject}/{event.payload['version']}" for event in held]


def _releases(models: set[str]) -> list[str]:
    built = ledger.events(kind="release.built")
    return [e.subject for e in built if models & {f"{task}/{v}" for task, v in e.payload["tasks"].items()}]


def _versions(batches: set[str]) -> list[str]:
    told = [event.payload["data_version"] for event in ledger.events(kind="batch.admitted")]
    told += [event.payload["data_version"] for event in ledger.events(kind="model.logged")]
    return [version for version in dict.fromkeys(told) if repro.batches_of(version) & batches]


def _relations(tables: list[pd.DataFrame], name: str) -> dict[str, int]:
    """Other patients in the clusters that hold the patient: near relations, which stay."""
    rows = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=["patient", "cluster"])
    shared = rows[rows["cluster"].isin(set(rows.loc[rows["patient"] == name, "cluster"])) & (rows["patient"] != name)]
    counted = shared.groupby("cluster")["patient"].nunique()
    return {str(cluster): int(count) for cluster, count in counted.items()}


def _inbox(name: str) -> list[str]:
    """The folders of the inbox that still hold the patient."""
    found = []
    for path in sorted(Path("inbox").glob("*/metadata.csv")):
        try:
            table = index.metadata(path.parent)
        except Fault as fault:
            log.warning("inbox/%s could not be searched: %s", path.parent.name, fault)
            continue
        identities = {row["patient_id"] or row["group"] for row in table.to_dict("records")}
        identities |= {f"group {group}" for group in table["group"] if group}
        if name in {keys.pseudonym(identity) for identity in identities}:
            found.append(str(path.parent))
    return found
