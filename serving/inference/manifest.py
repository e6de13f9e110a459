"""Read and check the manifest of a release."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from lineage.errors import Fault

MANIFEST = "manifest.json"
WARMUP = "warmup"
TASK_KEYS = (
    "title",
    "modality",
    "body_parts",
    "classes",
    "positive",
    "pixels",
    "pooling",
    "temperature",
    "threshold",
    "precision",
    "outlier_distance",
    "version",
    "note",
    "prevalence",
    "conformal",
)
UnknownSites = Literal["withhold", "answer"]
Engine = Literal["openvino", "onnxruntime"]
SERVING_KEYS = ("engine", "abstain_below", "max_upload_mb")
SITE_KEYS = ("unknown_sites", "site")  # that releases of earlier versions lack


def read_manifest(folder: Path) -> dict[str, Any]:
    """The checked manifest of a release folder. Raises Fault if it is absent or lacks a required key."""
    path = folder / MANIFEST
    if not path.is_file():
        raise Fault(f"{path}: there is no manifest; this is not a release folder")
    manifest: dict[str, Any] = json.loads(path.read_text())
    check_manifest(manifest, str(path))
    return manifest


def check_manifest(manifest: dict[str, Any], name: str) -> None:
    """Raise Fault for the first key that serving requires and the manifest lacks."""
    for key in ("release", "tasks", "serving"):
        if not manifest.get(key):
            raise Fault(f"{name}: the manifest lacks {key!r}; build the release again")
    for key in SERVING_KEYS:
        if key not in manifest["serving"]:
            raise Fault(f"{name}: the manifest lacks serving.{key}; build the release again")
    for task, facts in manifest["tasks"].items():
        for key in TASK_KEYS:
            if key not in facts:
                raise Fault(f"{name}: the manifest lacks tasks.{task}.{key}; build the release again")
