"""Which files a model version consists of: their SHA-256 in the ledger, and the comparison with what is found."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lineage.errors import Fault
from lineage.fingerprint import file_sha256, tree
from lineage.paths import home
from lineage.record import ledger

log = logging.getLogger(__name__)

KIND = "model.artifacts"  # of subject task/version; the newest event counts, a withdrawal adds one
RELEASED = {"graph": "graph.onnx", "head": "head.npz"}  # what the manifest of a release has hashes of
CALIBRATION = ("temperature", "threshold", "precision", "prevalence")


def record(task: str, version: str, hashes: Mapping[str, str], reason: str) -> None:
    """Write down which files a version consists of: SHA-256 by file name. Nothing is added where that is known."""
    if recorded(task, version) != hashes:
        ledger.append(KIND, f"{task}/{version}", {"files": hashes, "reason": reason})


def recorded(task: str, version: str) -> dict[str, str] | None:
    """The SHA-256 of a version's files; None for a version that was judged before they were recorded."""
    events = ledger.events(KIND, f"{task}/{version}", limit=1)
    return dict(events[0].payload["files"]) if events else None


def changed(hashes: Mapping[str, str], folder: Path) -> dict[str, str | None]:
    """The files of a folder that differ from their recorded hashes: their SHA-256, None for one that is missing."""
    found = {name: file_sha256(folder / name) if (folder / name).is_file() else None for name in hashes}
    return {name: value for name, value in found.items() if value != hashes[name]}


def check(task: str, version: str, folder: Path) -> None:
    """Fault that names the first file which is not what the training gate judged.

    A version that was judged before hashes were recorded gets them now: see `_adopt`. One without a verdict has none.
    """
    hashes = recorded(task, version)
    if hashes is None:
        if ledger.events("verdict", f"{task}/{version}", limit=1):
            _adopt(task, version, folder)
        return
    for name, value in changed(hashes, folder).items():
        fact = f"its SHA-256 is {value[:12]}, judged was {hashes[name][:12]}" if value else "it is missing"
        raise Fault(
            f"{task}/{version}: {name} in MLflow is not the file that the training gate judged ({fact}). The version "
            "is not used; bring the file back from a backup"
        )


def _adopt(task: str, version: str, folder: Path) -> None:
    """Record the files of a version that was judged before hashes were recorded, once, at its next use.

    A release that holds the version says what its graph and its linear layer were, and how it was calibrated: Fault
    where they differ. Without a release there is nothing to compare with, and the log says so.
    """
    compared = ""
    for release, facts in _releases(task, version):
        compared = f", compared with release {release}"
        expected = {name: facts["hashes"][stem] for stem, name in RELEASED.items() if stem in facts.get("hashes", {})}
        names = list(changed(expected, folder)) + ([] if _same_calibration(folder, facts) else ["calibration.json"])
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
    record(task, version, tree(folder), f"judged before hashes were recorded; as found at the next use{compared}")


def _same_calibration(folder: Path, facts: Mapping[str, Any]) -> bool:
    path = folder / "calibration.json"
    calibration = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return all(calibration.get(key) == facts[key] for key in CALIBRATION if key in facts)


def _releases(task: str, version: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The releases that hold the version, and what their manifest says of it; the ledger knows the manifest's hash."""
    for event in [event for kind in ("release.built", "shadow.built") for event in ledger.events(kind)]:
        path = home() / "releases" / event.subject / "manifest.json"
        holds = str(event.payload.get("tasks", {}).get(task)) == version
        if holds and path.is_file() and file_sha256(path) == event.payload.get("manifest_sha256"):
            facts = json.loads(path.read_text(encoding="utf-8")).get("tasks", {}).get(task)
            if facts:
                yield event.subject, facts
