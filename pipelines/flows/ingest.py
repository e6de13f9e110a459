"""Flow: incoming batch -> de-identify, validate -> admit or quarantine -> new data version."""

from __future__ import annotations

import dataclasses
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from prefect import flow, get_run_logger, task

from data import identifiers
from data.batch import label_corrections, lesion_grid, metadata_table, pixel_cache, rejected_units, withdrawal
from data.batch import manifest as batch_manifest
from data.dataset import cohorts as dataset_cohorts
from data.dataset import training_population
from data.duplicates import admitted_units
from data.quality import gate, leakage, reader_agreement, suite
from data.record import Task
from lineage import json_files, paths
from lineage.errors import Fault
from lineage.record import ledger
from lineage.record.verdict import Outcome, Verdict
from pipelines import params
from pipelines.flows import artifacts, ingest_corrections
from pipelines.recovery import interrupted_runs, recorded_admissions
from pipelines.workspace import dvc, git
from pipelines.workspace.workspace import alone

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
        return paths.place("staging", self.name)


def waiting(source: Path | None, again: bool = False, broken: dict[str, str] | None = None) -> list[Incoming]:
    """The batches that no gate has judged yet: of one folder (Fault if it is no batch), or all folders of the inbox.

    A folder of the inbox that is no batch stops no other: `broken` is given its name and the reason. The log tells
    their number alone, since nobody knows whose name a folder bears whose table can't be read.
    """
    kinds = ("batch.admitted",) if again else _JUDGED
    judged = recorded_admissions.judged(kinds)
    if source:
        return [batch for batch in [incoming(source)] if batch.digest not in judged]
    found, faults = [], {} if broken is None else broken
    for folder in sorted(path.parent for path in Path("inbox").glob("*/metadata.csv")):
        try:
            batch = incoming(folder)
            if batch.digest in judged:
                continue
            if any(Path("data/batches").glob(f"*/{batch.name}.dvc")):
                raise Fault(f"a batch named {batch.name} is already admitted with other content; rename the folder")
            found.append(batch)
        except Fault as fault:
            faults[folder.name] = str(fault)
    if faults:
        log.warning("%d folders of the inbox are broken and left alone; `oncoloop ingest` names them", len(faults))
    return found


_JUDGED = ("batch.admitted", "batch.quarantined")


def incoming(folder: Path) -> Incoming:
    """Read what a folder says it is: its task and its digest. Fault if it is no batch."""
    if not folder.is_dir():
        raise Fault("the batch folder does not exist; name a folder of the inbox")
    table, settings = batch_manifest.metadata(folder), params.load()
    name, told = folder.resolve().name, str(table["task"].iloc[0])
    if told not in settings.tasks:  # not quoted: a row that slipped by a column would put a patient here
        raise Fault(f"{name}: the task in its metadata.csv is none of {', '.join(settings.tasks)}; mend the column")
    people = {str(text) for column in ("patient_id", "group") for text in table[column].unique()}
    if any(identifiers.betrays(name, identifiers.of_row({"patient_id": one}), words=False) for one in people):
        raise Fault("the folder's name holds the name or number of one of its patients; rename it")
    return Incoming(name, folder, settings.task(told), batch_manifest.batch_digest(folder))


@flow(name="ingest")
def ingest(source: str | None = None, again: bool = False) -> list[dict[str, Any]]:
    """Judge every waiting batch; each is admitted whole, without the scans that fail, or quarantined."""
    with alone("workspace"):
        interrupted_runs.settle()
        return [judge(batch) for batch in waiting(Path(source) if source else None, again)]


def judge(batch: Incoming) -> dict[str, Any]:
    """One batch through the data gate."""
    arrived = received(batch)
    verdict, manifest, validation_page = examine.with_options(name=f"examine {batch.name}")(batch)
    ledger.record(verdict, task=batch.task.name, digest=batch.digest, page=paths.relative(validation_page))
    artifacts.verdict(verdict, f"data-{batch.name}", paths.relative(validation_page))
    version = None
    if verdict.outcome is Outcome.PASS:
        version = admit.with_options(name=f"admit {batch.name}")(batch, manifest, arrived)
    else:
        quarantine(batch, verdict)
    shutil.rmtree(batch.staging, ignore_errors=True)
    return {
        "batch": batch.name,
        "task": batch.task.name,
        "verdict": verdict.to_dict(),
        "data_version": version,
        "page": validation_page,
    }


def received(batch: Incoming) -> str:
    """When this very batch first came, in UTC; written down once, however often an interrupted run begins again."""
    facts = {"task": batch.task.name, "digest": batch.digest}
    known = [event for event in ledger.events(kind="batch.received", subject=batch.name) if event.payload == facts]
    return (known[0] if known else ledger.append("batch.received", batch.name, facts)).at


@task(persist_result=False)
def examine(batch: Incoming) -> tuple[Verdict, pd.DataFrame, str]:
    """Read, de-identify and describe every scan once, then ask the suite, the leakage checks and the gate."""
    settings = params.load().ingest
    logger = get_run_logger()
    taken = list(Path("data/batches").glob(f"*/{batch.name}.dvc"))
    if taken:
        raise Fault(f"a batch named {batch.name} is already admitted with other content; give the folder a new name")
    told = metadata_table.metadata(batch.source)
    if metadata_table.corrects(told):
        return ingest_corrections.examine(batch.name, batch.source, batch.task, settings)
    indexed = batch_manifest.index_batch(batch.source, batch.staging, batch.task, disagreement=settings.disagreement)
    indexed = turn_away(indexed, batch.staging)
    logger.info("%s: %d units read, %d files refused", batch.name, len(indexed.manifest), len(indexed.refused))
    cohorts = dataset_cohorts.read_cohorts(Path("data/cohorts", f"{batch.task.name}.csv"))
    validation = suite.validate(
        indexed.manifest,
        batch.task,
        settings,
        paths.place("gx"),
        batch.name,
        reference(batch.task.name, cohorts),
        reader_agreement.measure(told, batch.task),
    )
    admitted = known_units(batch.task.name, indexed.manifest)
    findings = leakage.check(indexed.manifest, admitted, settings, indexed.rows)
    total = len(indexed.manifest) + len(indexed.refused)
    small = dataset_cohorts.few(indexed.manifest, cohorts)
    warnings = [*metadata_table.remarks(batch.source, told), *small, *indexed.warnings()]
    verdict, failing = gate.admit(batch.name, validation, findings, indexed.refused, total, settings, warnings)
    rejected_units.note(batch.staging, failing, indexed.refused)
    for reason in verdict.reasons:
        logger.info("%s: %s", batch.name, reason)
    kept = indexed.manifest[~indexed.manifest["unit_id"].isin(list(failing))]
    return verdict, kept, str(validation.page)


def reference(task_name: str, cohorts: pd.DataFrame) -> training_population.Population:
    """The training side of what the champion learned from; before there is one, of all that is admitted."""
    promoted = ledger.events(kind="model.promoted", subject=task_name, limit=1)
    champion = str(promoted[-1].payload["version"]) if promoted else ""
    logged = ledger.events(kind="model.logged", subject=task_name) if champion else []
    learned = {name for event in logged if event.payload["version"] == champion for name in event.payload["batches"]}
    folders = sorted(path.parent for path in Path("data/batches", task_name).glob("*/manifest.csv"))
    wanted = [folder for folder in folders if not champion or folder.name in learned]
    training = set(cohorts.loc[cohorts["side"] == "training", "cluster"])
    return training_population.reference(wanted, training, paths.place("population"))


def turn_away(indexed: batch_manifest.Indexed, staging: Path) -> batch_manifest.Indexed:
    """Without the scans of patients who were withdrawn: their copies are deleted, their files refused by name."""
    marks = {event.subject for event in ledger.events(kind="withdrawal.begun")}
    gone = withdrawal.concerned(indexed.manifest, marks)
    if not gone.any():
        return indexed
    files = sorted(set(indexed.manifest.loc[gone, "file"]))
    for file in files:
        (staging / file).unlink(missing_ok=True)
    manifest = indexed.manifest[~gone].reset_index(drop=True)
    manifest.to_csv(staging / "manifest.csv", index=False, lineterminator="\n")
    why = "the patient was withdrawn; take the file out of the batch"
    refused = [*indexed.refused, *(batch_manifest.Refused(Path(file).name, why) for file in files)]
    return dataclasses.replace(indexed, manifest=manifest, refused=refused)


def known_units(task_name: str, manifest: pd.DataFrame) -> pd.DataFrame:
    """The admitted units of a task that the leakage checks of a batch have to see, with their labels as of today."""
    folder = Path("data/batches", task_name)
    concerned = admitted_units.related(folder, paths.place("known", task_name), manifest)
    return label_corrections.apply(concerned, label_corrections.given(folder))


@task(persist_result=False)
def admit(batch: Incoming, manifest: pd.DataFrame, arrived: str) -> str:
    """Move the batch in, assign its new clusters, and commit: the commit is the data version.

    Killed before the commit, the next run undoes it all; killed after it, the next run finishes. What is written holds
    no time but that of the arrival, so that the bytes are those of an undisturbed run.
    """
    settings, name = params.load(), batch.task.name
    if label_corrections.WAS in manifest:
        return ingest_corrections.admit(batch.name, batch.task, batch.digest, manifest, arrived)
    rejected_units.set_aside(batch.staging, Path("data/quarantine", batch.name))
    target, table = Path("data/batches", name, batch.name), Path("data/cohorts", f"{name}.csv")
    kept = set(manifest["file"])
    for path in batch.staging.glob("scans/*"):
        if f"scans/{path.name}" not in kept:
            path.unlink()
    manifest.to_csv(batch.staging / "manifest.csv", index=False, lineterminator="\n")
    pixel_cache.narrow(batch.staging, batch.staging, manifest["unit_id"].tolist())
    lesion_grid.narrow(batch.staging, batch.staging, manifest["unit_id"].tolist())
    record = {
        "task": name,
        "batch": batch.name,
        "digest": batch.digest,
        "units": len(manifest),
        "clusters": int(manifest["cluster"].nunique()),
        "received": arrived,
    }
    json_files.write_json(batch.staging / "record.json", record)
    rows = dataset_cohorts.assign(
        manifest, dataset_cohorts.read_cohorts(table), settings.split, epoch(name), batch.name, batch.task
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(batch.staging, target)
    dataset_cohorts.append_cohorts(table, rows.assign(assigned_at=arrived))
    dvc.add(target)
    version = git.commit(["data"], f"Admit {batch.name} to {name}")
    dvc.push(batch=target)
    interrupted_runs.announce(record, version)
    return version


def epoch(task_name: str) -> int:
    """The epoch of what is admitted now: one more with every promoted model, so the newest is news to the champion."""
    return 1 + len(ledger.events(kind="model.promoted", subject=task_name))


def quarantine(batch: Incoming, verdict: Verdict) -> None:
    """Keep the de-identified copy of a refused batch aside, with the reasons."""
    target = Path("data/quarantine", batch.name)
    shutil.rmtree(target, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    if batch.staging.exists():
        pixel_cache.drop(batch.staging)
        lesion_grid.write(batch.staging / lesion_grid.NAME, {})
        shutil.move(batch.staging, target)
    target.mkdir(exist_ok=True)
    json_files.write_json(target / "verdict.json", verdict.to_dict())
    ledger.append("batch.quarantined", batch.name, {"task": batch.task.name, "digest": batch.digest})
