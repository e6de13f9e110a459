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

from data import (
    agreement,
    aside,
    corrections,
    gate,
    identity,
    index,
    known,
    labels,
    leakage,
    outlines,
    population,
    prepared,
    split,
    suite,
    withdrawn,
)
from data.record import Task
from lineage import ledger, places
from lineage.fault import Fault
from lineage.verdict import Outcome, Verdict
from pipelines import admissions, correction, git, page, params, repro, settle
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


def waiting(source: Path | None, again: bool = False, broken: dict[str, str] | None = None) -> list[Incoming]:
    """The batches that no gate has judged yet: of one folder (Fault if it is no batch), or all folders of the inbox.

    A folder of the inbox that is no batch stops no other: `broken` is given its name and the reason. The log tells
    their number alone, since nobody knows whose name a folder bears whose table can't be read.
    """
    kinds = ("batch.admitted",) if again else _JUDGED
    judged = admissions.judged(kinds)
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
    table, settings = index.metadata(folder), params.load()
    name, told = folder.resolve().name, str(table["task"].iloc[0])
    if told not in settings.tasks:  # not quoted: a row that slipped by a column would put a patient here
        raise Fault(f"{name}: the task in its metadata.csv is none of {', '.join(settings.tasks)}; mend the column")
    people = {str(text) for column in ("patient_id", "group") for text in table[column].unique()}
    if any(identity.betrays(name, identity.of_row({"patient_id": one}), words=False) for one in people):
        raise Fault("the folder's name holds the name or number of one of its patients; rename it")
    return Incoming(name, folder, settings.task(told), index.batch_digest(folder))


@flow(name="ingest")
def ingest(source: str | None = None, again: bool = False) -> list[dict[str, Any]]:
    """Judge every waiting batch; each is admitted whole, without the scans that fail, or quarantined."""
    with alone("workspace"):
        settle.settle()
        return [judge(batch) for batch in waiting(Path(source) if source else None, again)]


def judge(batch: Incoming) -> dict[str, Any]:
    """One batch through the data gate."""
    arrived = received(batch)
    verdict, manifest, validation_page = examine.with_options(name=f"examine {batch.name}")(batch)
    ledger.record(verdict, task=batch.task.name, digest=batch.digest, page=places.relative(validation_page))
    page.verdict(verdict, f"data-{batch.name}", places.relative(validation_page))
    version = None
    if verdict.outcome is Outcome.PASS:
        version = admit.with_options(name=f"admit {batch.name}")(batch, manifest, arrived)
    else:
        quarantine(batch, verdict)
    shutil.rmtree(batch.staging, ignore_errors=True)
    return {"batch": batch.name, "task": batch.task.name, "verdict": verdict.to_dict(), "data_version": version,
            "page": validation_page}  # fmt: skip


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
    told = labels.metadata(batch.source)
    if labels.corrects(told):
        return correction.examine(batch.name, batch.source, batch.task, settings)
    indexed = index.index_batch(batch.source, batch.staging, batch.task, disagreement=settings.disagreement)
    indexed = turn_away(indexed, batch.staging)
    logger.info("%s: %d units read, %d files refused", batch.name, len(indexed.manifest), len(indexed.refused))
    cohorts = split.read_cohorts(Path("data/cohorts", f"{batch.task.name}.csv"))
    validation = suite.validate(
        indexed.manifest, batch.task, settings, places.place("gx"), batch.name,
        reference(batch.task.name, cohorts), agreement.measure(told, batch.task),
    )  # fmt: skip
    admitted = known_units(batch.task.name, indexed.manifest)
    findings = leakage.check(indexed.manifest, admitted, settings, indexed.rows)
    total = len(indexed.manifest) + len(indexed.refused)
    small = split.few(indexed.manifest, cohorts)
    warnings = [*labels.remarks(batch.source, told), *small, *indexed.warnings()]
    verdict, failing = gate.admit(batch.name, validation, findings, indexed.refused, total, settings, warnings)
    aside.note(batch.staging, failing, indexed.refused)
    for reason in verdict.reasons:
        logger.info("%s: %s", batch.name, reason)
    kept = indexed.manifest[~indexed.manifest["unit_id"].isin(list(failing))]
    return verdict, kept, str(validation.page)


def reference(task_name: str, cohorts: pd.DataFrame) -> population.Population:
    """The training side of what the champion learned from; before there is one, of all that is admitted."""
    promoted = ledger.events(kind="model.promoted", subject=task_name, limit=1)
    champion = str(promoted[-1].payload["version"]) if promoted else ""
    logged = ledger.events(kind="model.logged", subject=task_name) if champion else []
    learned = {name for event in logged if event.payload["version"] == champion for name in event.payload["batches"]}
    folders = sorted(path.parent for path in Path("data/batches", task_name).glob("*/manifest.csv"))
    wanted = [folder for folder in folders if not champion or folder.name in learned]
    training = set(cohorts.loc[cohorts["side"] == "training", "cluster"])
    return population.reference(wanted, training, places.place("population"))


def turn_away(indexed: index.Indexed, staging: Path) -> index.Indexed:
    """Without the scans of patients who were withdrawn: their copies are deleted, their files refused by name."""
    marks = {event.subject for event in ledger.events(kind="withdrawal.begun")}
    gone = withdrawn.concerned(indexed.manifest, marks)
    if not gone.any():
        return indexed
    files = sorted(set(indexed.manifest.loc[gone, "file"]))
    for file in files:
        (staging / file).unlink(missing_ok=True)
    manifest = indexed.manifest[~gone].reset_index(drop=True)
    manifest.to_csv(staging / "manifest.csv", index=False, lineterminator="\n")
    why = "the patient was withdrawn; take the file out of the batch"
    refused = [*indexed.refused, *(index.Refused(Path(file).name, why) for file in files)]
    return dataclasses.replace(indexed, manifest=manifest, refused=refused)


def known_units(task_name: str, manifest: pd.DataFrame) -> pd.DataFrame:
    """The admitted units of a task that the leakage checks of a batch have to see, with their labels as of today."""
    folder = Path("data/batches", task_name)
    concerned = known.related(folder, places.place("known", task_name), manifest)
    return corrections.apply(concerned, corrections.given(folder))


@task(persist_result=False)
def admit(batch: Incoming, manifest: pd.DataFrame, arrived: str) -> str:
    """Move the batch in, assign its new clusters, and commit: the commit is the data version.

    Killed before the commit, the next run undoes it all; killed after it, the next run finishes. What is written holds
    no time but that of the arrival, so that the bytes are those of an undisturbed run.
    """
    settings, name = params.load(), batch.task.name
    if corrections.WAS in manifest:
        return correction.admit(batch.name, batch.task, batch.digest, manifest, arrived)
    aside.set_aside(batch.staging, Path("data/quarantine", batch.name))
    target, table = Path("data/batches", name, batch.name), Path("data/cohorts", f"{name}.csv")
    kept = set(manifest["file"])
    for path in batch.staging.glob("scans/*"):
        if f"scans/{path.name}" not in kept:
            path.unlink()
    manifest.to_csv(batch.staging / "manifest.csv", index=False, lineterminator="\n")
    prepared.narrow(batch.staging, batch.staging, manifest["unit_id"].tolist())
    outlines.narrow(batch.staging, batch.staging, manifest["unit_id"].tolist())
    record = {"task": name, "batch": batch.name, "digest": batch.digest, "units": len(manifest),
              "clusters": int(manifest["cluster"].nunique()), "received": arrived}  # fmt: skip
    page.write_json(batch.staging / "record.json", record)
    rows = split.assign(manifest, split.read_cohorts(table), settings.split, epoch(name), batch.name, batch.task)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(batch.staging, target)
    split.append_cohorts(table, rows.assign(assigned_at=arrived))
    repro.add(target)
    version = git.commit(["data"], f"Admit {batch.name} to {name}")
    repro.push(batch=target)
    settle.announce(record, version)
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
        prepared.drop(batch.staging)
        outlines.write(batch.staging / outlines.NAME, {})
        shutil.move(batch.staging, target)
    target.mkdir(exist_ok=True)
    page.write_json(target / "verdict.json", verdict.to_dict())
    ledger.append("batch.quarantined", batch.name, {"task": batch.task.name, "digest": batch.digest})
