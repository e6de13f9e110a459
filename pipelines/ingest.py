"""Flow: incoming batch -> de-identify, validate -> admit or quarantine -> new data version."""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from prefect import flow, get_run_logger, task

from data import gate, index, leakage, split, suite
from data.record import Task
from lineage import ledger, outbox, places
from lineage.fault import Fault
from lineage.store import now
from lineage.verdict import Outcome, Verdict
from pipelines import page, params, repro
from pipelines.workspace import alone

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Incoming:
    """A batch on its way in: where its files lie, and where its de-identified copy is built."""

    name: str
    source: Path
    task: Task
    digest: str

    @property
    def staging(self) -> Path:
        """The de-identified copy, until the gate has spoken."""
        return places.place("staging", self.name)


def waiting(source: Path | None, again: bool = False) -> list[Incoming]:
    """The batches that no gate has judged yet: of one folder, or all folders of the inbox."""
    folders = [source] if source else sorted(path.parent for path in Path("inbox").glob("*/metadata.csv"))
    judged = {event.payload["digest"] for kind in _JUDGED for event in ledger.events(kind=kind)}
    found = [incoming(folder) for folder in folders]
    if again:
        judged = {event.payload["digest"] for event in ledger.events(kind="batch.admitted")}
    return [batch for batch in found if batch.digest not in judged]


_JUDGED = ("batch.admitted", "batch.quarantined")


def incoming(folder: Path) -> Incoming:
    """Read what a folder says it is: its task and its digest. Fault if it is no batch."""
    if not folder.is_dir():
        raise Fault(f"the batch folder {folder} does not exist")
    table = index.metadata(folder)
    name = folder.resolve().name
    return Incoming(name, folder, params.load().task(str(table["task"].iloc[0])), index.batch_digest(folder))


@flow(name="ingest")
def ingest(source: str | None = None, again: bool = False) -> list[dict[str, Any]]:
    """Judge every waiting batch; each is admitted whole, without the scans that fail, or quarantined."""
    with alone("workspace"):
        settle()
        return [judge(batch) for batch in waiting(Path(source) if source else None, again)]


def settle() -> None:
    """Finish or undo what an interrupted ingest left behind."""
    for path in repro.recover(Path.cwd()):
        log.warning("undone after an interruption: %s", path)
    shutil.rmtree(places.home() / "staging", ignore_errors=True)
    known = {event.subject for event in ledger.events(kind="batch.admitted")}
    for record in Path("data/batches").glob("*/*/record.json"):
        if record.parent.name not in known:
            _announce(page.read_json(record), repro.head())
            repro.push()


def judge(batch: Incoming) -> dict[str, Any]:
    """One batch through the data gate."""
    ledger.append("batch.received", batch.name, {"task": batch.task.name, "digest": batch.digest})
    verdict, manifest, validation_page = examine.with_options(name=f"examine {batch.name}")(batch)
    ledger.record(verdict, task=batch.task.name, digest=batch.digest, page=validation_page)
    page.verdict(verdict, f"data-{batch.name}", validation_page)
    version = None
    if verdict.outcome is Outcome.PASS:
        version = admit.with_options(name=f"admit {batch.name}")(batch, manifest)
    else:
        quarantine(batch, verdict)
    shutil.rmtree(batch.staging, ignore_errors=True)
    return {"batch": batch.name, "task": batch.task.name, "verdict": verdict.to_dict(), "data_version": version,
            "page": validation_page}  # fmt: skip


@task(persist_result=False)
def examine(batch: Incoming) -> tuple[Verdict, pd.DataFrame, str]:
    """Read, de-identify and describe every scan once, then ask the suite, the leakage checks and the gate."""
    settings = params.load().ingest
    logger = get_run_logger()
    taken = list(Path("data/batches").glob(f"*/{batch.name}.dvc"))
    if taken:
        raise Fault(f"a batch named {batch.name} is already admitted with other content; give the folder a new name")
    indexed = index.index_batch(batch.source, batch.staging, batch.task)
    logger.info("%s: %d units read, %d files refused", batch.name, len(indexed.manifest), len(indexed.refused))
    validation = suite.validate(indexed.manifest, batch.task, settings, places.place("gx"), batch.name)
    findings = leakage.check(indexed.manifest, known_units(batch.task.name), settings)
    total = len(indexed.manifest) + len(indexed.refused)
    verdict, failing = gate.admit(batch.name, validation, findings, indexed.refused, total, settings)
    for reason in verdict.reasons:
        logger.info("%s: %s", batch.name, reason)
    kept = indexed.manifest[~indexed.manifest["unit_id"].isin(list(failing))]
    return verdict, kept, str(validation.page)


def known_units(task_name: str) -> pd.DataFrame:
    """The manifests of every admitted batch of a task, one below the other."""
    tables = [index.read_manifest(path) for path in Path("data/batches", task_name).glob("*/manifest.csv")]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


@task(persist_result=False)
def admit(batch: Incoming, manifest: pd.DataFrame) -> str:
    """Move the batch in, assign its new clusters, and commit: the commit is the data version."""
    settings, name = params.load(), batch.task.name
    target, table = Path("data/batches", name, batch.name), Path("data/cohorts", f"{name}.csv")
    for path in batch.staging.glob("scans/*"):
        if f"scans/{path.name}" not in set(manifest["file"]):
            path.unlink()
    manifest.to_csv(batch.staging / "manifest.csv", index=False)
    record = {"task": name, "batch": batch.name, "digest": batch.digest, "units": len(manifest),
              "clusters": int(manifest["cluster"].nunique()), "received": now()}  # fmt: skip
    page.write_json(batch.staging / "record.json", record)
    rows = split.assign(manifest, split.read_cohorts(table), settings.split, epoch(name), batch.name, batch.task)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(batch.staging, target)
    split.append_cohorts(table, rows)
    repro.add(target)
    version = repro.commit(["data"], f"Admit {batch.name} to {name}")
    repro.push()
    _announce(record, version)
    return version


def epoch(task_name: str) -> int:
    """The epoch of what is admitted now: one more with every promoted model, so the newest is news to the champion."""
    return 1 + len(ledger.events(kind="model.promoted", subject=task_name))


def _announce(record: dict[str, Any], version: str) -> None:
    ledger.append("batch.admitted", record["batch"], record | {"data_version": version})
    threshold = params.load().monitoring.retrain_labels
    if ledger.events(kind="model.promoted", subject=record["task"]) and record["units"] >= threshold:
        reason = f"{record['units']} newly labelled units in batch {record['batch']}"
        outbox.put("retrain", f"volume/{record['task']}/{version}", {"task": record["task"], "reason": reason})


def quarantine(batch: Incoming, verdict: Verdict) -> None:
    """Keep the de-identified copy of a refused batch aside, with the reasons."""
    target = Path("data/quarantine", batch.name)
    shutil.rmtree(target, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    if batch.staging.exists():
        shutil.move(batch.staging, target)
    target.mkdir(exist_ok=True)
    page.write_json(target / "verdict.json", verdict.to_dict())
    ledger.append("batch.quarantined", batch.name, {"task": batch.task.name, "digest": batch.digest})
