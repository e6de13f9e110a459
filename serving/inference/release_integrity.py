"""Whether the files of a release are those that were built: its folder, its manifest, and its Bento in the store."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lineage import fingerprint, paths
from lineage.errors import Fault
from lineage.record import database, ledger
from serving.inference.manifest import MANIFEST, read_manifest

log = logging.getLogger(__name__)

FILES = "files"  # SHA-256 by path: in a manifest those of the release, in the ledger's row those of the Bento
BUILD_EVENTS = ("release.built", "shadow.built")  # the events that name the manifest's SHA-256 and the Bento's files
TASK_FILES = {"graph.onnx": "graph", "head.npz": "head"}  # what a manifest without `files` has hashes of
ADVICE = "it is not served; restore a backup, or go back with `oncoloop rollback`"


def bento_folder(tag: str) -> Path:
    """The folder of a built Bento in the local store."""
    name, _, version = tag.partition(":")
    return paths.home() / "bentoml" / "bentos" / name / version


def files(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a release folder but its manifest, by its path inside it."""
    return {name: value for name, value in fingerprint.hash_folder(folder).items() if name != MANIFEST}


def check_release(folder: Path) -> None:
    """Fault that names the first file which differs from the manifest, or a manifest that the ledger does not know.

    A ledger without a row of this release, or one that can't be read here, leaves the comparison with the manifest.
    """
    manifest = read_manifest(folder)
    for name, expected in _expected(manifest).items():
        path = folder / name
        found = fingerprint.file_sha256(path) if path.is_file() else ""
        if found != expected:
            raise Fault(f"release {manifest['release']}: {path} {_fact(found, expected)}; {ADVICE}")
    known = {str(row["manifest_sha256"]) for row in _rows(manifest["release"]) if "manifest_sha256" in row}
    found = fingerprint.file_sha256(folder / MANIFEST)
    if known and found not in known:
        raise Fault(
            f"release {manifest['release']}: {folder / MANIFEST} has the SHA-256 {found[:12]}, which the "
            f"ledger does not name; {ADVICE}"
        )


def check_bento(tag: str) -> None:
    """Fault that names the first file of a Bento which was changed, lost or added since the release was built."""
    folder, release = bento_folder(tag), tag.partition(":")[2]
    rows = [row for row in _rows(release) if row.get("bento") == tag]
    listings = [row[FILES] for row in rows if FILES in row]
    if listings and (found := fingerprint.hash_folder(folder)) not in listings:
        expected = listings[-1]
        name = next(name for name in sorted({*expected, *found}) if expected.get(name) != found.get(name))
        raise Fault(f"{tag}: {folder / name} {_fact(found.get(name, ''), expected.get(name, ''))}; {ADVICE}")
    packed = folder / "src" / "release"
    if (name := read_manifest(packed)["release"]) != release:
        raise Fault(f"{tag}: {packed / MANIFEST} is that of release {name}; {ADVICE}")
    check_release(packed)


def _expected(manifest: Mapping[str, Any]) -> dict[str, str]:
    """The hashes that a manifest has; one of before `files` names graph and linear layer alone."""
    if FILES in manifest:
        return dict(manifest[FILES])
    hashes = {task: facts.get("hashes", {}) for task, facts in manifest["tasks"].items()}
    return {
        f"{task}/{file}": known[stem]
        for task, known in hashes.items()
        for file, stem in TASK_FILES.items()
        if stem in known
    }


def _rows(release: str) -> list[dict[str, Any]]:
    """What the ledger says of a release as it was built; nothing where there is no ledger to read."""
    if not database.exists():
        log.warning("there is no ledger at hand: the manifest of release %s is compared with nothing", release)
        return []
    return [event.payload for kind in BUILD_EVENTS for event in ledger.events(kind, release)]


def _fact(found: str, expected: str) -> str:
    if not expected:
        return "is no file of the release"
    return f"has the SHA-256 {found[:12]}, released was {expected[:12]}" if found else "is missing"
