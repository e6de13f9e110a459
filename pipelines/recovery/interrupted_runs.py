"""Crash recovery: an interrupted run is finished or undone before anything else changes the workspace."""

from __future__ import annotations

import io
import logging
import shutil
from pathlib import Path
from typing import Any

import pandas as pd

from data.batch import withdrawn_rows
from data.dataset import cohorts
from lineage import json_files, paths
from lineage.errors import Fault
from lineage.record import ledger
from lineage.record.events import EventKind
from pipelines import params
from pipelines.models.retrain_requests import ask_for_retraining
from pipelines.recovery import recorded_admissions
from pipelines.withdrawal import withdraw
from pipelines.workspace import dvc, git, stale_locks

log = logging.getLogger(__name__)


def recover_workspace() -> None:
    """Remove stale locks, undo uncommitted changes, record committed admissions, and finish withdrawals.

    Call it while holding the lock `workspace`. Fault if git lost what the ledger names, since undoing would delete
    the rest of it. Fault if an old row of a cohort table was changed: such a table only grows.
    """
    stale_locks.remove_stale_locks(Path.cwd())
    recorded_admissions.check_git_history()
    check_cohorts()
    for change in dvc.recover(Path.cwd()):
        log.warning("undone after an interruption: %s", change)
    shutil.rmtree(paths.home() / "staging", ignore_errors=True)
    admitted = {event.subject for event in ledger.events(kind=EventKind.BATCH_ADMITTED)}
    for path in sorted(Path("data/batches").glob("*/*/record.json")):
        if path.parent.name not in admitted:
            dvc.push(batch=path.parent)
            record_admission(json_files.read_json(path), dvc.admission_commit(path.parent))
            log.warning("committed before an interruption, and recorded in the ledger now: %s", path.parent.name)
    for start_event in withdraw.unfinished_withdrawals():
        log.warning("the withdrawal %s was interrupted; it is finished now", start_event.subject[:12])
        withdraw.finish_withdrawal(start_event)


def record_admission(record: dict[str, Any], version: str) -> None:
    """Record an admission in the ledger. Enough new labels of a task with a model also request its retraining."""
    threshold = params.load().monitoring.retrain_labels
    if ledger.events(kind=EventKind.MODEL_PROMOTED, subject=record["task"]) and record["units"] >= threshold:
        reason = f"{record['units']} newly labelled units in batch {record['batch']}"
        ask_for_retraining(record["task"], f"volume/{record['task']}/{version}", reason)
    ledger.append(EventKind.BATCH_ADMITTED, record["batch"], record | {"data_version": version})


def check_cohorts() -> None:
    """Fault that names the first changed row of a cohort table, in the working folder or in a commit."""
    newest_versions = {
        event.payload["task"]: event.payload["data_version"] for event in ledger.events(kind=EventKind.BATCH_ADMITTED)
    }
    for task, version in newest_versions.items():
        path = Path("data/cohorts", f"{task}.csv")
        if git.is_unchanged(str(path), version):
            continue
        admitted_table = _committed_table(str(path), version)
        for table, culprit in ((_committed_table(str(path), "HEAD"), "a commit"), (_working_table(path), "the file")):
            change = withdrawn_rows.changed_row(admitted_table, table)
            if change:
                raise Fault(
                    f"{path}: {culprit} changed an old assignment ({change}); it never changes: bring it back with "
                    f"`git checkout {version[:12]} -- {path}` and commit it"
                )


def _committed_table(path: str, version: str) -> pd.DataFrame:
    content = io.StringIO(git.committed_text(path, version) or ",".join(cohorts.COHORTS))
    return pd.read_csv(content, dtype=str, keep_default_na=False)


def _working_table(path: Path) -> pd.DataFrame:
    """The table in the working folder, without a half-written row at its end."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    width = len(cohorts.COHORTS)
    rows = [line.split(",") for line in lines[1:]]
    return pd.DataFrame([row for row in rows if len(row) == width], columns=list(cohorts.COHORTS), dtype=str)
