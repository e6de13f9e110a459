"""A batch that corrects labels of admitted scans: the same door, the same gate, a version of its own."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd

from data.batch import label_corrections, manifest, metadata_table
from data.quality import gate, suite
from data.quality.leakage import Findings
from data.record import Task
from data.settings import IngestSettings
from lineage import json_files, paths
from lineage.errors import Fault
from lineage.record.verdict import Verdict
from pipelines.recovery import interrupted_runs
from pipelines.workspace import dvc, git


def bring(source: Path, target: Path, task: Task) -> dict[str, Any] | None:
    """Make a batch in the inbox out of a folder whose metadata.csv corrects admitted scans; None for any other folder.

    Returns the record of it, as an import does. Fault for another task's corrections, or scans beside them.
    """
    if not (source / metadata_table.NAME).is_file():
        return None
    table = metadata_table.metadata(source)
    if not metadata_table.corrects(table):
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


def examine(name: str, source: Path, task: Task, settings: IngestSettings) -> tuple[Verdict, pd.DataFrame, str]:
    """The verdict, the corrections that may be admitted, and the page: the suite sees the units as they will be."""
    folder = Path("data/batches", task.name)
    found = label_corrections.check(metadata_table.metadata(source), folder, task, settings.disagreement)
    some = dataclasses.replace(settings, min_clusters_per_class=0)  # classes of a few corrections say nothing
    validation = suite.validate(found.manifest, task, some, paths.place("gx"), name)
    total = len(found.rows) + len(found.refused)
    verdict, failing = gate.admit(name, validation, Findings({}, [], {}), found.refused, total, settings)
    return verdict, found.without(failing), str(validation.page)


def admit(name: str, task: Task, digest: str, rows: pd.DataFrame, arrived: str) -> str:
    """Write and commit the corrections, beside an empty manifest; no cohort changes. Killed, it is mended as any is."""
    staging, target = paths.place("staging", name), Path("data/batches", task.name, name)
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
        "received": arrived,
    }
    json_files.write_json(staging / "record.json", record)
    target.parent.mkdir(parents=True, exist_ok=True)
    staging.rename(target)
    dvc.add(target)
    version = git.commit(["data"], f"Correct {len(rows)} labels of {task.name} by {name}")
    dvc.push(batch=target)
    interrupted_runs.announce(record, version)
    return version
