"""Withdrawal of a patient: where the patient is, and successors of everything that may go on without."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

from data import index
from lineage import journal, keys, ledger, outbox, places
from lineage.fault import Fault
from pipelines import page, repro

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Held:
    """What holds a patient: batches by task, model versions that learned from or were judged on them, predictions."""

    patient: str
    batches: list[tuple[str, str]]
    models: list[str]
    predictions: list[str]


def find(patient: str) -> Held:
    """Look for a patient, by the identity in the scans or by the pseudonym."""
    tables = {path.parent: index.read_manifest(path) for path in sorted(Path("data/batches").glob("*/*/manifest.csv"))}
    rows = journal.rows()
    seen = {name for table in tables.values() for name in (*table["patient"], *table["cluster"])}
    seen |= set(rows["cluster"]) if len(rows) else set()
    seen.discard("")
    name = next((name for name in (keys.pseudonym(patient), patient) if name in seen), None)
    if name is None:
        raise Fault(
            "no batch and no prediction holds this patient; give the patient id as in the scans, or the pseudonym"
        )
    batches = [
        (folder.parent.name, folder.name)
        for folder, table in tables.items()
        if name in set(table["patient"]) | set(table["cluster"])
    ]
    models = []
    for event in ledger.events(kind="model.logged"):
        if any((event.subject, batch) in batches for batch in event.payload["batches"]):
            models.append(f"{event.subject}/{event.payload['version']}")
    predictions = list(rows.loc[rows["cluster"] == name, "id"]) if len(rows) else []
    return Held(name, batches, models, predictions)


def withdraw(held: Held, reason: str) -> str:
    """Write successor batches without the patient, remove the old bytes, ask for retraining. The new data version."""
    doomed: set[str] = set()
    for task, name in held.batches:
        doomed |= _objects(Path("data/batches", task, f"{name}.dvc"))
        _succeed(task, name, held.patient)
    doomed |= _products({task for task, _ in held.batches})
    version = repro.commit(["data"], "Withdraw a patient")
    kept = set().union(*(_objects(path) for path in Path("data/batches").glob("*/*.dvc")))
    for digest in doomed - kept:
        for store in ("cache", "remote"):
            (places.home() / store / "files" / "md5" / digest[:2] / digest[2:]).unlink(missing_ok=True)
    shutil.rmtree(places.home() / "worktree", ignore_errors=True)
    repro.git("worktree", "prune")
    repro.push()
    facts = {"batches": [f"{task}/{name}" for task, name in held.batches], "models": held.models, "reason": reason,
             "predictions": len(held.predictions), "data_version": version}  # fmt: skip
    ledger.append("patient.withdrawn", held.patient, facts)
    for task in {task for task, _ in held.batches}:
        outbox.put("retrain", f"withdrawal/{task}/{version}", {"task": task, "reason": "a patient was withdrawn"})
    return version


def _succeed(task: str, name: str, patient: str) -> None:
    """A batch's successor: the same scans without the patient's, under the next free name."""
    old = Path("data/batches", task, name)
    number = next(n for n in range(1, 1000) if not old.with_name(f"{name}-w{n}.dvc").exists())
    new = old.with_name(f"{name}-w{number}")
    table = index.read_manifest(old / "manifest.csv")
    stays = table[(table["patient"] != patient) & (table["cluster"] != patient)]
    (new / "scans").mkdir(parents=True)
    for file in sorted(set(stays["file"])):
        shutil.copyfile(old / file, new / file)
    stays.to_csv(new / "manifest.csv", index=False)
    record = page.read_json(old / "record.json")
    record |= {"batch": new.name, "units": len(stays), "clusters": int(stays["cluster"].nunique())}
    page.write_json(new / "record.json", record)
    repro.remove(old)
    shutil.rmtree(old)
    if len(stays):
        repro.add(new)
        event = {"data_version": "successor", **record}
        ledger.append("batch.admitted", new.name, event)
    else:
        shutil.rmtree(new)
    log.info("%s/%s goes on as %s with %d units", task, name, new.name, len(stays))


def _objects(pointer: Path) -> set[str]:
    """The cache objects of a `.dvc` file: the folder's list and each file in it."""
    import yaml

    return _listed(str(yaml.safe_load(pointer.read_text())["outs"][0]["md5"]))


def _products(tasks: set[str]) -> set[str]:
    """The cache objects of every stage output of these tasks, over the whole history of `dvc.lock`."""
    import yaml

    found: set[str] = set()
    for commit in repro.git("log", "--format=%H", "--", "dvc.lock").splitlines():
        stages = yaml.safe_load(repro.git("show", f"{commit}:dvc.lock"))["stages"]
        for name, stage in stages.items():
            if name.split("@")[1] in tasks:
                for output in stage.get("outs", []):
                    found |= _listed(str(output["md5"]))
    return found


def _listed(digest: str) -> set[str]:
    path = places.home() / "cache" / "files" / "md5" / digest[:2] / digest[2:]
    inside = json.loads(path.read_text()) if digest.endswith(".dir") and path.is_file() else []
    return {digest, *(str(entry["md5"]) for entry in inside)}
