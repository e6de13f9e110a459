"""Withdrawal of a patient: successors of the patient's batches, erasure, marks on models, and requests to retrain."""

from __future__ import annotations

import logging
import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd

from data.batch import label_corrections, lesion_grid, manifest, pixel_cache, withdrawn_rows
from data.dataset import cohorts
from lineage import accounts, decisions, json_files, mlflow_registry, model_files
from lineage.record import ledger
from lineage.record.events import EventKind
from lineage.record.ledger import Event
from pipelines.models.retrain_requests import ask_for_retraining
from pipelines.withdrawal import erase, verify_erased
from pipelines.withdrawal.locate import PatientRecords, batch_ancestry, withdrawal_event
from pipelines.workspace import dvc, git

log = logging.getLogger(__name__)

MANIFEST = "manifest.csv"


def unfinished_withdrawals() -> list[Event]:
    """The signed withdrawals that began and were interrupted."""
    completed = {event.payload.get("begun") for event in ledger.events(kind=EventKind.PATIENT_WITHDRAWN)}
    unfinished = [event for event in ledger.events(kind=EventKind.WITHDRAWAL_BEGUN) if event.seq not in completed]
    return [event for event in unfinished if decisions.is_signed(event)]


def incomplete_since(version: str) -> str | None:
    """The date since which a data version lacks a patient's batches. None while it is complete."""
    events = ledger.events(kind=EventKind.PATIENT_WITHDRAWN)
    batches = git.batches_of(version) if events else set()
    dates = [event.at[:10] for event in events if batches & set(event.payload["ancestors"])]
    return dates[0] if dates else None


def withdraw(records: PatientRecords, reason: str, identity: str = "", actor: str = accounts.SYSTEM) -> Event:
    """Record the intent, then carry it out. After a kill, the same command or the next run finishes it.

    `identity` is searched for too, if the patient was given by identity. It is written nowhere.
    """
    start_event = withdrawal_event(records.patient)
    if start_event is None or (
        start_event not in unfinished_withdrawals() and (records.batches or records.quarantined)
    ):
        start_event = decisions.record(
            EventKind.WITHDRAWAL_BEGUN, withdrawn_rows.hash_pseudonym(records.patient), _intent(records, reason), actor
        )
    if start_event in unfinished_withdrawals():
        return finish_withdrawal(start_event, identity)
    return ledger.events(kind=EventKind.PATIENT_WITHDRAWN, subject=start_event.subject)[-1]


def finish_withdrawal(start_event: Event, identity: str = "") -> Event:
    """Make successors, erase, mark the models, write the last ledger entry, and request retraining."""
    plan, targets = start_event.payload, erasure_targets(start_event)
    for pair in plan["batches"]:
        _make_successor(pair, targets)
    _blind_cohorts(plan["tasks"], start_event.subject)
    dvc.drop_locked_stages(plan["tasks"])
    version = git.commit(["data", "dvc.lock"], "Withdraw a patient")
    dvc.push()
    _record_successors(plan, version)
    erase.erase(targets)
    _record_changed_artifacts(plan, start_event.subject)
    remains = verify_erased.search(targets, identity)
    tags = {"not_reproducible_since": start_event.at[:10], "withdrawal": start_event.subject[:12]}
    for name in plan["models"]:
        task, number = name.split("/")
        mlflow_registry.set_tags(task, number, tags)
    facts = {name: plan[name] for name in ("batches", "ancestors", "versions", "models", "releases", "tasks", "reason")}
    facts |= {"predictions": plan["predictions"], "data_version": version, "begun": start_event.seq, "left": remains}
    completed = ledger.append(EventKind.PATIENT_WITHDRAWN, start_event.subject, facts, start_event.actor)
    for task in plan["tasks"]:
        ask_for_retraining(task, f"withdrawal/{task}/{version}", "a patient was withdrawn")
    return completed


def erasure_targets(start_event: Event) -> erase.ErasureTargets:
    """The data to erase, from the ledger event that began a withdrawal."""
    plan = start_event.payload
    return erase.ErasureTargets(
        frozenset({start_event.subject}),
        frozenset(plan["units"]),
        frozenset(plan["stored"]),
        frozenset(plan["objects"]),
        frozenset(plan["tasks"]),
        frozenset(plan.get("answered", [])),
    )


def _intent(records: PatientRecords, reason: str) -> dict[str, Any]:
    """All that is needed to finish, without a name: hashes of scans and objects, units, batches."""
    marks = {withdrawn_rows.hash_pseudonym(records.patient)}
    pairs = [f"{task}/{batch}" for task, batch in records.batches]
    folders = [Path("data/batches", pair) for pair in pairs]
    folders += [Path("data/quarantine", name) for name in records.quarantined]
    tables = [manifest.read_manifest(folder / "manifest.csv") for folder in folders]
    rows = (
        pd.concat([table[withdrawn_rows.affected_rows(table, marks)] for table in tables]) if tables else pd.DataFrame()
    )
    ancestors = {
        f"{task}/{ancestor}"
        for task, name in records.batches
        for ancestor in batch_ancestry(Path("data/batches", task, name))
    }
    objects = set().union(*(erase.pointer_objects(Path("data/batches", f"{pair}.dvc")) for pair in pairs))
    return {
        "reason": reason,
        "batches": pairs,
        "ancestors": sorted(ancestors),
        "versions": records.versions,
        "models": records.models,
        "releases": records.releases,
        "predictions": len(records.predictions),
        "tasks": sorted({task for task, _ in records.batches}),
        "answered": records.answered,
        "units": sorted(set(rows.get("unit_id", []))),
        "stored": sorted(set(rows.get("stored_sha256", []))),
        "objects": sorted(objects),
        "changed_before": {
            name: sorted(mlflow_registry.changed_artifacts(*name.split("/"))) for name in records.models
        },
    }


def _make_successor(pair: str, targets: erase.ErasureTargets) -> None:
    """Replace a batch by one without the patient's scans and corrections, under the next free name. Done once."""
    old = Path("data/batches", pair)
    if not old.with_name(f"{old.name}.dvc").exists():
        return
    new = _free_name(old)
    table = manifest.read_manifest(old / MANIFEST)
    remaining = table[~withdrawn_rows.affected_rows(table, set(targets.marks))]
    other_tables = {path.name: _without_patient(path, targets) for path in old.glob("*.csv") if path.name != MANIFEST}
    if len(remaining) or any(len(rows) for rows in other_tables.values()):
        (new / "scans").mkdir(parents=True)
        for file in sorted(set(remaining["file"])):
            shutil.copyfile(old / file, new / file)
        for name, rows in {**other_tables, MANIFEST: remaining}.items():
            rows.to_csv(new / name, index=False, lineterminator="\n")
        pixel_cache.narrow(old, new, remaining["unit_id"].tolist())
        lesion_grid.narrow(old, new, remaining["unit_id"].tolist())
        facts = _size_facts(remaining, other_tables.get(label_corrections.NAME))
        facts |= {"batch": new.name, "predecessors": batch_ancestry(old)}
        json_files.write_json(new / "record.json", json_files.read_json(old / "record.json") | facts)
        dvc.add(new)
    dvc.remove_pointer(old)
    shutil.rmtree(old)  # before the commit, since git no longer ignores it; after a kill here the cache restores it
    log.info("%s is replaced by %s with %d units", pair, new.name, len(remaining))


def _size_facts(remaining: pd.DataFrame, corrections: pd.DataFrame | None) -> dict[str, Any]:
    """The counts in a successor's record: units and clusters, or corrected labels and patients."""
    if corrections is None:
        return {"units": len(remaining), "clusters": int(remaining["cluster"].nunique())}
    return {"units": len(corrections), "corrects": len(corrections), "clusters": int(corrections["patient"].nunique())}


def _without_patient(path: Path, targets: erase.ErasureTargets) -> pd.DataFrame:
    """A table of a batch other than the manifest, such as its corrections, without the patient's rows."""
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    return table[~withdrawn_rows.rows_of_withdrawn(table, set(targets.units), set(targets.marks))]


def _free_name(old: Path) -> Path:
    stem = re.sub(r"-w\d+$", "", old.name)
    used_names = {event.subject for event in ledger.events(kind=EventKind.BATCH_ADMITTED)}
    number = next(number for number in range(1, 10_000) if f"{stem}-w{number}" not in used_names)
    return old.with_name(f"{stem}-w{number}")


def _blind_cohorts(tasks: list[str], mark: str) -> None:
    for task in tasks:
        path = Path("data/cohorts", f"{task}.csv")
        cohorts.write_cohorts(path, withdrawn_rows.hide_withdrawn_clusters(cohorts.read_cohorts(path), {mark}))


def _record_changed_artifacts(plan: dict[str, Any], subject: str) -> None:
    """Record new hashes of the tables that the erasure changed. A file that was changed before stays refused."""
    for name in plan["models"]:
        task, version = name.split("/")
        hashes, changed = model_files.recorded_hashes(task, version), mlflow_registry.changed_artifacts(task, version)
        changed_before = plan.get("changed_before", {}).get(name, [])
        erased = {file: value for file, value in changed.items() if value and file in erase.MODEL_TABLES}
        new_hashes = {file: value for file, value in erased.items() if file not in changed_before}
        if hashes and new_hashes:
            model_files.record_hashes(task, version, hashes | new_hashes, f"a patient was withdrawn ({subject[:12]})")


def _record_successors(plan: dict[str, Any], version: str) -> None:
    admitted = {event.subject for event in ledger.events(kind=EventKind.BATCH_ADMITTED)}
    for task in plan["tasks"]:
        for path in sorted(Path("data/batches", task).glob("*/record.json")):
            if path.parent.name not in admitted:
                record = json_files.read_json(path) | {"data_version": version}
                ledger.append(EventKind.BATCH_ADMITTED, path.parent.name, record)
