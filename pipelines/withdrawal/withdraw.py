"""Withdrawal of a patient: successors of everything that may go on without, erasure, and who must know of it."""

from __future__ import annotations

import logging
import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd

from data.batch import label_corrections, lesion_grid, manifest, pixel_cache, withdrawal
from data.dataset import cohorts
from lineage import accounts, decisions, json_files, model_files, registry
from lineage.record import ledger
from lineage.record.ledger import Event
from pipelines.models.retrain_requests import ask_for_retraining
from pipelines.withdrawal import erase, verify_erased
from pipelines.withdrawal.locate import BEGUN, Held, chain, event_of
from pipelines.workspace import dvc, git

log = logging.getLogger(__name__)

DONE = "patient.withdrawn"
MANIFEST = "manifest.csv"


def unfinished() -> list[Event]:
    """The withdrawals that began and were interrupted."""
    done = {event.payload.get("begun") for event in ledger.events(kind=DONE)}
    begun = [event for event in ledger.events(kind=BEGUN) if event.seq not in done]
    return [event for event in begun if decisions.is_signed(event)]


def lost(version: str) -> str | None:
    """The date from which a data version is no longer whole; None while it is."""
    events = ledger.events(kind=DONE)
    batches = git.batches_of(version) if events else set()
    held = [event.at[:10] for event in events if batches & set(event.payload["ancestors"])]
    return held[0] if held else None


def withdraw(held: Held, reason: str, identity: str = "", actor: str = accounts.SYSTEM) -> Event:
    """Write the intent down, then carry it out. Killed on the way, the same command (or the next run) finishes.

    `identity` is looked for as well, where the patient was told by it; it is written nowhere.
    """
    begun = event_of(held.patient)
    if begun is None or (begun not in unfinished() and (held.batches or held.quarantined)):
        begun = decisions.record(BEGUN, withdrawal.mark(held.patient), _intent(held, reason), actor)
    return finish(begun, identity) if begun in unfinished() else ledger.events(kind=DONE, subject=begun.subject)[-1]


def finish(begun: Event, identity: str = "") -> Event:
    """Successors, erasure, marks, the last entry of the ledger, and the wish for retraining."""
    plan, gone = begun.payload, erased(begun)
    for pair in plan["batches"]:
        _succeed(pair, gone)
    _blind(plan["tasks"], begun.subject)
    dvc.forget(plan["tasks"])
    version = git.commit(["data", "dvc.lock"], "Withdraw a patient")
    dvc.push()
    _announce(plan, version)
    erase.erase(gone)
    _record_artifacts(plan, begun.subject)
    left = verify_erased.search(gone, identity)
    tags = {"not_reproducible_since": begun.at[:10], "withdrawal": begun.subject[:12]}
    for name in plan["models"]:
        task, number = name.split("/")
        registry.mark(task, number, tags)
    facts = {name: plan[name] for name in ("batches", "ancestors", "versions", "models", "releases", "tasks", "reason")}
    facts |= {"predictions": plan["predictions"], "data_version": version, "begun": begun.seq, "left": left}
    done = ledger.append(DONE, begun.subject, facts, begun.actor)
    for task in plan["tasks"]:
        ask_for_retraining(task, f"withdrawal/{task}/{version}", "a patient was withdrawn")
    return done


def erased(begun: Event) -> erase.Gone:
    """What the ledger says must not be found again."""
    plan = begun.payload
    return erase.Gone(
        frozenset({begun.subject}),
        frozenset(plan["units"]),
        frozenset(plan["stored"]),
        frozenset(plan["objects"]),
        frozenset(plan["tasks"]),
        frozenset(plan.get("answered", [])),
    )


def _intent(held: Held, reason: str) -> dict[str, Any]:
    """All that is needed to finish, without a name: hashes of scans and objects, units, batches."""
    marks = {withdrawal.mark(held.patient)}
    pairs = [f"{task}/{batch}" for task, batch in held.batches]
    folders = [Path("data/batches", pair) for pair in pairs]
    folders += [Path("data/quarantine", name) for name in held.quarantined]
    tables = [manifest.read_manifest(folder / "manifest.csv") for folder in folders]
    rows = pd.concat([table[withdrawal.concerned(table, marks)] for table in tables]) if tables else pd.DataFrame()
    ancestors = {f"{task}/{each}" for task, name in held.batches for each in chain(Path("data/batches", task, name))}
    objects = set().union(*(erase.pointed(Path("data/batches", f"{pair}.dvc")) for pair in pairs))
    return {
        "reason": reason,
        "batches": pairs,
        "ancestors": sorted(ancestors),
        "versions": held.versions,
        "models": held.models,
        "releases": held.releases,
        "predictions": len(held.predictions),
        "tasks": sorted({task for task, _ in held.batches}),
        "answered": held.answered,
        "units": sorted(set(rows.get("unit_id", []))),
        "stored": sorted(set(rows.get("stored_sha256", []))),
        "objects": sorted(objects),
        "changed_before": {name: sorted(registry.changed_artifacts(*name.split("/"))) for name in held.models},
    }


def _succeed(pair: str, gone: erase.Gone) -> None:
    """A batch's successor: the same scans or corrections without the patient's, under the next free name. Done once."""
    old = Path("data/batches", pair)
    if not old.with_name(f"{old.name}.dvc").exists():
        return
    new = _free_name(old)
    table = manifest.read_manifest(old / "manifest.csv")
    stays = table[~withdrawal.concerned(table, set(gone.marks))]
    beside = {path.name: _without(path, gone) for path in old.glob("*.csv") if path.name != MANIFEST}
    if len(stays) or any(len(rows) for rows in beside.values()):
        (new / "scans").mkdir(parents=True)
        for file in sorted(set(stays["file"])):
            shutil.copyfile(old / file, new / file)
        for name, rows in {**beside, MANIFEST: stays}.items():
            rows.to_csv(new / name, index=False, lineterminator="\n")
        pixel_cache.narrow(old, new, stays["unit_id"].tolist())
        lesion_grid.narrow(old, new, stays["unit_id"].tolist())
        facts = _facts(stays, beside.get(label_corrections.NAME)) | {"batch": new.name, "predecessors": chain(old)}
        json_files.write_json(new / "record.json", json_files.read_json(old / "record.json") | facts)
        dvc.add(new)
    dvc.remove(old)
    shutil.rmtree(old)  # before the commit: git no longer ignores it. Killed here, it comes back from the cache
    log.info("%s goes on as %s with %d units", pair, new.name, len(stays))


def _facts(stays: pd.DataFrame, corrected: pd.DataFrame | None) -> dict[str, Any]:
    """What a successor's record says of how much it holds: units, or the labels that it corrects."""
    if corrected is None:
        return {"units": len(stays), "clusters": int(stays["cluster"].nunique())}
    return {"units": len(corrected), "corrects": len(corrected), "clusters": int(corrected["patient"].nunique())}


def _without(path: Path, gone: erase.Gone) -> pd.DataFrame:
    """Another table of a batch, such as its corrections, without the rows that speak of the patient."""
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    return table[~withdrawal.rows_of(table, set(gone.units), set(gone.marks))]


def _free_name(old: Path) -> Path:
    stem = re.sub(r"-w\d+$", "", old.name)
    taken = {event.subject for event in ledger.events(kind="batch.admitted")}
    number = next(n for n in range(1, 10_000) if f"{stem}-w{n}" not in taken)
    return old.with_name(f"{stem}-w{number}")


def _blind(tasks: list[str], mark: str) -> None:
    for task in tasks:
        path = Path("data/cohorts", f"{task}.csv")
        cohorts.write_cohorts(path, withdrawal.blinded(cohorts.read_cohorts(path), {mark}))


def _record_artifacts(plan: dict[str, Any], subject: str) -> None:
    """New hashes of the tables that an erasure changed; a file that was not as judged before it stays refused."""
    for name in plan["models"]:
        task, version = name.split("/")
        hashes, changed = model_files.recorded(task, version), registry.changed_artifacts(task, version)
        known = plan.get("changed_before", {}).get(name, [])
        erased = {file: value for file, value in changed.items() if value and file in erase.TABLES}
        fresh = {file: value for file, value in erased.items() if file not in known}
        if hashes and fresh:
            model_files.record(task, version, hashes | fresh, f"a patient was withdrawn ({subject[:12]})")


def _announce(plan: dict[str, Any], version: str) -> None:
    known = {event.subject for event in ledger.events(kind="batch.admitted")}
    for task in plan["tasks"]:
        for path in sorted(Path("data/batches", task).glob("*/record.json")):
            if path.parent.name not in known:
                ledger.append(
                    "batch.admitted", path.parent.name, json_files.read_json(path) | {"data_version": version}
                )
