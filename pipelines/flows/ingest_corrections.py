"""Import, examination and admission of a batch that corrects labels of admitted scans."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd

from data.batch import label_corrections, manifest, metadata_table
from data.batch.incoming_batch import IncomingBatch
from data.core_types import Task
from data.quality import gate, suite
from data.quality.leakage import Findings
from data.settings import IngestSettings
from lineage import json_files, paths
from lineage.errors import Fault
from lineage.record.verdict import Verdict
from pipelines.recovery import interrupted_runs
from pipelines.workspace import dvc, git


def import_corrections(source: Path, target: Path, task: Task) -> dict[str, Any] | None:
    """Copy a folder whose metadata.csv corrects admitted scans into the inbox. None for any other folder.

    Returns its import record. Fault if the rows correct scans of another task, or if the folder also holds scans.
    """
    if not (source / metadata_table.NAME).is_file():
        return None
    table = metadata_table.read_metadata(source)
    if not metadata_table.is_correction_batch(table):
        return None
    if table["task"].iloc[0] != task.name:
        raise Fault(
            f"{source / metadata_table.NAME}: its rows correct no scans of {task.name}; name their task with --task"
        )
    record = {"layout": "corrections", "rows": len(table), "files": int(table["file_name"].nunique())}
    part = target.with_name(f".{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    shutil.copyfile(source / metadata_table.NAME, part / metadata_table.NAME)
    (part / "import.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    part.rename(target)
    return record


def examine_corrections(batch: IncomingBatch, settings: IngestSettings) -> tuple[Verdict, pd.DataFrame, str]:
    """Check corrections with the same suite and gate as scans, on the units as they will be after the correction.

    Returns the verdict, the rows that may be admitted, and the path of the validation page.
    """
    name, task = batch.name, batch.task
    folder = Path("data/batches", task.name)
    checked = label_corrections.check_corrections(batch.table, folder, task, settings.disagreement)
    relaxed = dataclasses.replace(settings, min_clusters_per_class=0)  # few corrections need not cover every class
    validation = suite.validate(checked.manifest, task, relaxed, paths.state_path("gx"), name)
    total = len(checked.rows) + len(checked.refused)
    verdict, failing = gate.admit(name, validation, Findings((), [], {}), checked.refused, total, settings)
    return verdict, checked.without(failing), str(validation.page)


def admit_corrections(name: str, task: Task, digest: str, rows: pd.DataFrame, arrived_at: str) -> str:
    """Write and commit the corrections with an empty manifest. Returns the commit. No cohort changes.

    Recovery after a kill is that of any other batch.
    """
    staging, target = paths.state_path("staging", name), Path("data/batches", task.name, name)
    staging.mkdir(parents=True, exist_ok=True)
    rows.to_csv(staging / label_corrections.NAME, index=False, lineterminator="\n")
    pd.DataFrame(columns=list(manifest.COLUMNS)).to_csv(staging / "manifest.csv", index=False, lineterminator="\n")
    record = {
        "task": task.name,
        "batch": name,
        "digest": digest,
        "units": len(rows),
        "corrects": len(rows),
        "clusters": int(rows["patient"].nunique()),
        "received": arrived_at,
    }
    json_files.write_json(staging / "record.json", record)
    target.parent.mkdir(parents=True, exist_ok=True)
    staging.rename(target)
    dvc.add(target)
    version = git.commit(["data"], f"Correct {len(rows)} labels of {task.name} by {name}")
    dvc.push(batch=target)
    interrupted_runs.record_admission(record, version)
    return version
