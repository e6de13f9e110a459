"""`code.json`: the fingerprint of the code that each DVC stage uses."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from lineage import fingerprint
from pipelines.workspace.workspace import shipped_file

NAME = "code.json"


def write_code_snapshot(folder: Path) -> dict[str, object]:
    """Write `code.json` of a worktree: SHA-256 of the files of each package named in `dvc.yaml`, and of the lock."""
    record: dict[str, object] = {
        name: fingerprint.describe_code((name,))["files"] for name in packages_of(folder / "dvc.yaml")
    }
    record["lock"] = fingerprint.file_sha256(shipped_file("requirements.lock"))
    (folder / NAME).write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return record


def packages_of(pipeline: Path) -> list[str]:
    """The packages that the stages of a `dvc.yaml` depend on, sorted."""
    stages = yaml.safe_load(pipeline.read_text(encoding="utf-8"))["stages"].values()
    parameters = [entry for stage in stages for entry in stage.get("params", []) if isinstance(entry, dict)]
    return sorted({name for entry in parameters for name in entry.get(NAME, [])} - {"lock"})
