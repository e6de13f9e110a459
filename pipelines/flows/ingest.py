"""Flow: incoming batch -> de-identify, validate -> admit or quarantine -> new data version."""

from __future__ import annotations

import dataclasses
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from prefect import flow, get_run_logger, task

from data.batch import (
    folder_files,
    incoming_batch,
    label_corrections,
    lesion_grid,
    pixel_cache,
    rejected_units,
    withdrawn_rows,
)
from data.batch import manifest as batch_manifest
from data.batch.incoming_batch import IncomingBatch
from data.dataset import cohorts as dataset_cohorts
from data.dataset import training_population
from data.duplicates import admitted_units
from data.quality import gate, leakage, reader_agreement, suite
from lineage import json_files, paths
from lineage.errors import Fault
from lineage.record import ledger
from lineage.record.events import EventKind
from lineage.record.verdict import Outcome, Verdict
from pipelines import params
from pipelines.flows import artifacts, ingest_corrections
from pipelines.recovery import interrupted_runs, recorded_admissions
from pipelines.workspace import dvc, git, inbox_digests
from pipelines.workspace.inbox_digests import FolderDigest
from pipelines.workspace.workspace import hold_lock

log = logging.getLogger(__name__)

JUDGED_EVENTS = (EventKind.BATCH_ADMITTED, EventKind.BATCH_QUARANTINED)


def ingest(
    source: str | None = None, again: bool = False, batches: Sequence[IncomingBatch] | None = None
) -> list[dict[str, Any]]:
    """Judge every unjudged batch. Each is admitted without its failing scans, or quarantined.

    `batches` are unjudged batches that were read before, of the folder `source` or of the inbox. If one has changed
    since, all are read again. They are no parameter of the flow, since Prefect would store their tables.
    """

    def judge_batches(source: str | None, again: bool) -> list[dict[str, Any]]:
        with hold_lock("workspace"):
            interrupted_runs.recover_workspace()
            if batches is None or not all(batch.is_unchanged() for batch in batches):
                return [judge_batch(batch) for batch in unjudged_batches(Path(source) if source else None, again)]
            digests = judged_digests(again)  # a run that ended meanwhile, or recovery, can have judged some of them
            return [judge_batch(batch) for batch in batches if batch.digest not in digests]

    results: list[dict[str, Any]] = flow(name="ingest")(judge_batches)(source, again)
    return results


def judge_batch(batch: IncomingBatch) -> dict[str, Any]:
    """Examine one batch, record the verdict, then admit or quarantine the batch."""
    arrived_at = record_arrival(batch)
    verdict, manifest, validation_page = examine_batch.with_options(name=f"examine {batch.name}")(batch)
    ledger.record_verdict(verdict, task=batch.task.name, digest=batch.digest, page=paths.relative(validation_page))
    artifacts.publish_verdict(verdict, f"data-{batch.name}", paths.relative(validation_page))
    version = None
    if verdict.outcome is Outcome.PASS:
        version = admit_batch.with_options(name=f"admit {batch.name}")(batch, manifest, arrived_at)
    else:
        quarantine_batch(batch, verdict)
    shutil.rmtree(staging_folder(batch.name), ignore_errors=True)
    return {
        "batch": batch.name,
        "task": batch.task.name,
        "verdict": verdict.to_dict(),
        "data_version": version,
        "page": validation_page,
    }


def unjudged_batches(
    source: Path | None, again: bool = False, broken: dict[str, str] | None = None
) -> list[IncomingBatch]:
    """The unjudged batches: of one folder (Fault if it is no batch), or of all folders of the inbox.

    With `again`, quarantined batches are judged once more. A broken folder of the inbox does not stop the others:
    `broken` receives its name and the reason. The log gives only the number of broken folders. The name of a folder
    whose table cannot be read may be the name of a patient. A judged folder of the inbox whose files have not changed
    is not read again.
    """
    judged = judged_digests(again)
    if source:
        return [batch for batch in [read_incoming_batch(source)] if batch.digest not in judged]
    batches: list[IncomingBatch] = []
    reasons = {} if broken is None else broken
    old_digests, digests = inbox_digests.read_digests(), {}
    for folder in sorted(path.parent for path in Path("inbox").glob("*/metadata.csv")):
        try:
            old_digest = old_digests.get(folder.name)
            if old_digest and old_digest.digest in judged and _is_current(old_digest, folder):
                digests[folder.name] = old_digest
                continue
            batch = read_incoming_batch(folder)
            if inbox_digests.is_settled(batch.state):
                digests[folder.name] = FolderDigest(batch.state.signature, batch.task.name, batch.digest)
            if batch.digest in judged:
                continue
            if any(Path("data/batches").glob(f"*/{batch.name}.dvc")):
                raise Fault(f"a batch named {batch.name} is already admitted with other content; rename the folder")
            batches.append(batch)
        except Fault as fault:
            reasons[folder.name] = str(fault)
    if digests != old_digests:
        inbox_digests.write_digests(digests)
    if reasons:
        log.warning("%d folders of the inbox are broken and were skipped; `oncoloop ingest` names them", len(reasons))
    return batches


def judged_digests(again: bool) -> set[str]:
    """The digests of the judged batches; with `again`, of the admitted ones only."""
    return recorded_admissions.judged_digests((EventKind.BATCH_ADMITTED,) if again else JUDGED_EVENTS)


def _is_current(digest: FolderDigest, folder: Path) -> bool:
    """Whether the files of a folder are those of its remembered digest, and its task is still in the settings."""
    state = folder_files.folder_state(folder)
    return digest.signature == state.signature and digest.task in params.load().tasks


def read_incoming_batch(folder: Path) -> IncomingBatch:
    """Read a folder as a batch of one of the workspace's tasks. Faults as `incoming_batch.read_incoming_batch`."""
    return incoming_batch.read_incoming_batch(folder, params.load().tasks)


def staging_folder(batch_name: str) -> Path:
    """The folder of a batch's de-identified copy, until the batch is admitted or quarantined."""
    return paths.state_path("staging", batch_name)


def record_arrival(batch: IncomingBatch) -> str:
    """The time (UTC) at which this content first arrived. It is recorded once, also if the run is interrupted."""
    facts = {"task": batch.task.name, "digest": batch.digest}
    arrivals = [
        event for event in ledger.events(kind=EventKind.BATCH_RECEIVED, subject=batch.name) if event.payload == facts
    ]
    return (arrivals[0] if arrivals else ledger.append(EventKind.BATCH_RECEIVED, batch.name, facts)).at


@task(persist_result=False)
def examine_batch(batch: IncomingBatch) -> tuple[Verdict, pd.DataFrame, str]:
    """Read, de-identify and describe every scan once, then apply the suite, the leakage checks and the gate.

    Returns the verdict, the rows that may be admitted, and the path of the validation page.
    """
    settings = params.load().ingest
    logger = get_run_logger()
    if any(Path("data/batches").glob(f"*/{batch.name}.dvc")):
        raise Fault(f"a batch named {batch.name} is already admitted with other content; give the folder a new name")
    if batch.is_correction:
        return ingest_corrections.examine_corrections(batch, settings)
    staging = staging_folder(batch.name)
    indexed = batch_manifest.index_incoming(batch, staging, disagreement=settings.disagreement)
    indexed = drop_withdrawn_patients(indexed, staging)
    logger.info("%s: %d units read, %d files refused", batch.name, len(indexed.manifest), len(indexed.refused))
    cohorts = dataset_cohorts.read_cohorts(Path("data/cohorts", f"{batch.task.name}.csv"))
    validation = suite.validate(
        indexed.manifest,
        batch.task,
        settings,
        paths.state_path("gx"),
        batch.name,
        load_reference_population(batch.task.name, cohorts),
        reader_agreement.measure_agreement(batch.table, batch.task),
    )
    related_units = load_related_units(batch.task.name, indexed.manifest)
    findings = leakage.check_leakage(indexed.manifest, related_units, settings, indexed.rows)
    total = len(indexed.manifest) + len(indexed.refused)
    small_cohorts = dataset_cohorts.small_set_warning(indexed.manifest, cohorts)
    warnings = [*batch.remarks, *small_cohorts, *indexed.warnings()]
    verdict, failing = gate.admit(batch.name, validation, findings, indexed.refused, total, settings, warnings)
    rejected_units.record_failing(staging, failing, indexed.refused)
    for reason in verdict.reasons:
        logger.info("%s: %s", batch.name, reason)
    admissible = indexed.manifest[~indexed.manifest["unit_id"].isin(list(failing))]
    return verdict, admissible, str(validation.page)


def load_reference_population(task_name: str, cohorts: pd.DataFrame) -> training_population.Population:
    """The training patients of the champion's batches, or of all admitted batches while there is no champion."""
    promoted = ledger.events(kind=EventKind.MODEL_PROMOTED, subject=task_name, limit=1)
    champion = str(promoted[-1].payload["version"]) if promoted else ""
    logged = ledger.events(kind=EventKind.MODEL_LOGGED, subject=task_name) if champion else []
    learned = {name for event in logged if event.payload["version"] == champion for name in event.payload["batches"]}
    folders = sorted(path.parent for path in Path("data/batches", task_name).glob("*/manifest.csv"))
    reference_folders = [folder for folder in folders if not champion or folder.name in learned]
    training = set(cohorts.loc[cohorts["side"] == "training", "cluster"])
    return training_population.read_training_population(reference_folders, training, paths.state_path("population"))


def drop_withdrawn_patients(indexed: batch_manifest.IndexedBatch, staging: Path) -> batch_manifest.IndexedBatch:
    """Remove the scans of withdrawn patients: their copies are deleted, their files listed as refused."""
    marks = {event.subject for event in ledger.events(kind=EventKind.WITHDRAWAL_BEGUN)}
    is_withdrawn = withdrawn_rows.affected_rows(indexed.manifest, marks)
    if not is_withdrawn.any():
        return indexed
    files = sorted(set(indexed.manifest.loc[is_withdrawn, "file"]))
    for file in files:
        (staging / file).unlink(missing_ok=True)
    manifest = indexed.manifest[~is_withdrawn].reset_index(drop=True)
    manifest.to_csv(staging / "manifest.csv", index=False, lineterminator="\n")
    reason = "the patient was withdrawn; take the file out of the batch"
    refused = [*indexed.refused, *(batch_manifest.RefusedFile(Path(file).name, reason) for file in files)]
    return dataclasses.replace(indexed, manifest=manifest, refused=refused)


def load_related_units(task_name: str, manifest: pd.DataFrame) -> pd.DataFrame:
    """The admitted units of a task that the leakage checks of a batch need, with today's labels."""
    folder = Path("data/batches", task_name)
    related_units = admitted_units.find_related_units(folder, paths.state_path("known", task_name), manifest)
    return label_corrections.apply_corrections(related_units, label_corrections.read_corrections(folder))


@task(persist_result=False)
def admit_batch(batch: IncomingBatch, manifest: pd.DataFrame, arrived_at: str) -> str:
    """Move the batch into the workspace, assign its new clusters, and commit. Returns the commit: the data version.

    After a kill before the commit, the next run undoes everything. After a kill behind the commit, it finishes.
    The only time in the written files is that of the arrival, so an interrupted run ends with the same bytes.
    """
    settings, name, staging = params.load(), batch.task.name, staging_folder(batch.name)
    if label_corrections.PREVIOUS_LABEL in manifest:
        return ingest_corrections.admit_corrections(batch.name, batch.task, batch.digest, manifest, arrived_at)
    rejected_units.set_aside(staging, Path("data/quarantine", batch.name))
    target, table = Path("data/batches", name, batch.name), Path("data/cohorts", f"{name}.csv")
    admitted_files = set(manifest["file"])
    for path in staging.glob("scans/*"):
        if f"scans/{path.name}" not in admitted_files:
            path.unlink()
    manifest.to_csv(staging / "manifest.csv", index=False, lineterminator="\n")
    pixel_cache.narrow(staging, staging, manifest["unit_id"].tolist())
    lesion_grid.narrow(staging, staging, manifest["unit_id"].tolist())
    record = {
        "task": name,
        "batch": batch.name,
        "digest": batch.digest,
        "units": len(manifest),
        "clusters": int(manifest["cluster"].nunique()),
        "received": arrived_at,
    }
    json_files.write_json(staging / "record.json", record)
    rows = dataset_cohorts.assign_cohorts(
        manifest, dataset_cohorts.read_cohorts(table), settings.split, current_epoch(name), batch.name, batch.task
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(staging, target)
    dataset_cohorts.append_cohorts(table, rows.assign(assigned_at=arrived_at))
    dvc.add(target)
    version = git.commit(["data"], f"Admit {batch.name} to {name}")
    dvc.push(batch=target)
    interrupted_runs.record_admission(record, version)
    return version


def current_epoch(task_name: str) -> int:
    """The epoch of a batch admitted now. Each promotion begins an epoch, so the newest data is new to the champion."""
    return 1 + len(ledger.events(kind=EventKind.MODEL_PROMOTED, subject=task_name))


def quarantine_batch(batch: IncomingBatch, verdict: Verdict) -> None:
    """Move the de-identified copy of a refused batch to the quarantine, with the verdict."""
    target, staging = Path("data/quarantine", batch.name), staging_folder(batch.name)
    shutil.rmtree(target, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    if staging.exists():
        pixel_cache.drop(staging)
        lesion_grid.write_grids(staging / lesion_grid.NAME, {})
        shutil.move(staging, target)
    target.mkdir(exist_ok=True)
    json_files.write_json(target / "verdict.json", verdict.to_dict())
    ledger.append(EventKind.BATCH_QUARANTINED, batch.name, {"task": batch.task.name, "digest": batch.digest})
