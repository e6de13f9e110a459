"""What a killed run left behind, finished or undone before anything else is done to the workspace."""

from __future__ import annotations

import io
import logging
import shutil
from pathlib import Path
from typing import Any

import pandas as pd

from data.batch import withdrawal
from data.dataset import cohorts
from lineage import json_files, paths
from lineage.errors import Fault
from lineage.record import ledger
from pipelines import params
from pipelines.models.retrain_requests import ask_for_retraining
from pipelines.recovery import recorded_admissions
from pipelines.withdrawal import withdraw
from pipelines.workspace import dvc, git, stale_locks

log = logging.getLogger(__name__)


def settle() -> None:
    """Mend locks, undo what no commit knows, tell the ledger what a commit knows and it does not, finish withdrawals.

    Call it while holding the lock `workspace`. Fault where git lost what the ledger names, since undoing would delete
    the rest of it, and where a cohort table was changed by hand: it can only grow.
    """
    stale_locks.mend(Path.cwd())
    recorded_admissions.check()
    check_cohorts()
    for undone in dvc.recover(Path.cwd()):
        log.warning("undone after an interruption: %s", undone)
    shutil.rmtree(paths.home() / "staging", ignore_errors=True)
    known = {event.subject for event in ledger.events(kind="batch.admitted")}
    for path in sorted(Path("data/batches").glob("*/*/record.json")):
        if path.parent.name not in known:
            dvc.push(batch=path.parent)
            announce(json_files.read_json(path), dvc.admission(path.parent))
            log.warning("admitted before an interruption, and told to the ledger now: %s", path.parent.name)
    for begun in withdraw.unfinished():
        log.warning("the withdrawal %s was interrupted; it is finished now", begun.subject[:12])
        withdraw.finish(begun)


def announce(record: dict[str, Any], version: str) -> None:
    """Write an admission down; enough new labels of a task with a model ask for its retraining."""
    threshold = params.load().monitoring.retrain_labels
    if ledger.events(kind="model.promoted", subject=record["task"]) and record["units"] >= threshold:
        reason = f"{record['units']} newly labelled units in batch {record['batch']}"
        ask_for_retraining(record["task"], f"volume/{record['task']}/{version}", reason)
    ledger.append("batch.admitted", record["batch"], record | {"data_version": version})


def check_cohorts() -> None:
    """Fault that names the first old assignment which somebody changed, here or in a commit of their own."""
    admitted = {event.payload["task"]: event.payload["data_version"] for event in ledger.events(kind="batch.admitted")}
    for task, version in admitted.items():
        path = Path("data/cohorts", f"{task}.csv")
        if git.unchanged(str(path), version):
            continue
        before = _table(str(path), version)
        for now, where in ((_table(str(path), "HEAD"), "a commit"), (_here(path), "the file")):
            wrong = withdrawal.changed_row(before, now)
            if wrong:
                raise Fault(
                    f"{path}: {where} changed an old assignment ({wrong}); it never changes: bring it back with "
                    f"`git checkout {version[:12]} -- {path}` and commit it"
                )


def _table(path: str, version: str) -> pd.DataFrame:
    frame = io.StringIO(git.committed(path, version) or ",".join(cohorts.COHORTS))
    return pd.read_csv(frame, dtype=str, keep_default_na=False)


def _here(path: Path) -> pd.DataFrame:
    """The table as it lies there; a half-written row at its end counts for nothing."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    width = len(cohorts.COHORTS)
    cells = [line.split(",") for line in lines[1:]]
    return pd.DataFrame([row for row in cells if len(row) == width], columns=list(cohorts.COHORTS), dtype=str)
