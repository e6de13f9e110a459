"""SHA-256 of the files of each model version: recorded in the ledger and compared with the files in MLflow."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lineage.errors import Fault
from lineage.fingerprint import file_sha256, hash_folder
from lineage.paths import home
from lineage.record import ledger
from lineage.record.events import EventKind

log = logging.getLogger(__name__)

RELEASED = {"graph": "graph.onnx", "head": "head.npz"}  # the files with hashes in a release's manifest
CALIBRATION = ("temperature", "threshold", "precision", "prevalence")


def record_hashes(task: str, version: str, hashes: Mapping[str, str], reason: str) -> None:
    """Record the files of a version (SHA-256 by file name). Nothing is added if the same hashes are recorded.

    The newest event of a version counts; a withdrawal adds one.
    """
    if recorded_hashes(task, version) != hashes:
        ledger.append(EventKind.MODEL_FILES, f"{task}/{version}", {"files": hashes, "reason": reason})


def recorded_hashes(task: str, version: str) -> dict[str, str] | None:
    """The recorded SHA-256 of a version's files; None for a version that was judged before hashes were recorded."""
    events = ledger.events(EventKind.MODEL_FILES, f"{task}/{version}", limit=1)
    return dict(events[0].payload["files"]) if events else None


def changed_files(hashes: Mapping[str, str], folder: Path) -> dict[str, str | None]:
    """The files of a folder that differ from their recorded hashes: their SHA-256, None for one that is missing."""
    current_hashes = {name: file_sha256(folder / name) if (folder / name).is_file() else None for name in hashes}
    return {name: value for name, value in current_hashes.items() if value != hashes[name]}


def check(task: str, version: str, folder: Path) -> None:
    """Compare a version's files with the recorded hashes. Fault with the name of the first file that differs.

    For a version that was judged before hashes were recorded they are recorded now (`_record_unrecorded`). A version
    without a verdict has none.
    """
    hashes = recorded_hashes(task, version)
    if hashes is None:
        if ledger.events(EventKind.VERDICT, f"{task}/{version}", limit=1):
            _record_unrecorded(task, version, folder)
        return
    for name, value in changed_files(hashes, folder).items():
        fact = f"its SHA-256 is {value[:12]}, judged was {hashes[name][:12]}" if value else "it is missing"
        raise Fault(
            f"{task}/{version}: {name} in MLflow is not the file that the training gate judged ({fact}). The version "
            "is not used; bring the file back from a backup"
        )


def _record_unrecorded(task: str, version: str, folder: Path) -> None:
    """Record the files of a version that was judged before hashes were recorded, at its next use.

    The files are first compared with every release that contains the version: graph, linear layer and calibration.
    Fault if they differ. Without a release no comparison is possible; the log message then names none.
    """
    compared = ""
    for release, facts in _releases(task, version):
        compared = f", compared with release {release}"
        expected = {name: facts["hashes"][stem] for stem, name in RELEASED.items() if stem in facts.get("hashes", {})}
        names = list(changed_files(expected, folder)) + (
            [] if _same_calibration(folder, facts) else ["calibration.json"]
        )
        if names:
            raise Fault(
                f"{task}/{version}: {names[0]} in MLflow is not that of release {release}. The version is not "
                "used; bring the file back from a backup"
            )
    log.warning(
        "%s/%s was judged before the hashes of its files were recorded; they are recorded now, as found%s",
        task,
        version,
        compared,
    )
    record_hashes(
        task, version, hash_folder(folder), f"judged before hashes were recorded; as found at the next use{compared}"
    )


def _same_calibration(folder: Path, facts: Mapping[str, Any]) -> bool:
    path = folder / "calibration.json"
    calibration = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return all(calibration.get(key) == facts[key] for key in CALIBRATION if key in facts)


def _releases(task: str, version: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The releases that contain the version, with its facts in their manifest, if the ledger confirms its hash."""
    for event in [event for kind in (EventKind.RELEASE_BUILT, EventKind.SHADOW_BUILT) for event in ledger.events(kind)]:
        path = home() / "releases" / event.subject / "manifest.json"
        holds = str(event.payload.get("tasks", {}).get(task)) == version
        if holds and path.is_file() and file_sha256(path) == event.payload.get("manifest_sha256"):
            facts = json.loads(path.read_text(encoding="utf-8")).get("tasks", {}).get(task)
            if facts:
                yield event.subject, facts
