"""Check that the files of a release are unchanged: its folder, its manifest, and its Bento in the store."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lineage import fingerprint, paths
from lineage.errors import Fault
from lineage.record import database, ledger
from lineage.record.events import EventKind
from serving.inference.manifest import MANIFEST, read_manifest

log = logging.getLogger(__name__)

FILES = "files"  # SHA-256 by path: of the release's files in a manifest, of the Bento's files in the ledger
# Events with the manifest's SHA-256 and the Bento's files.
BUILD_EVENTS = (EventKind.RELEASE_BUILT, EventKind.SHADOW_BUILT)
TASK_FILES = {"graph.onnx": "graph", "head.npz": "head"}  # the hashes in a manifest without `files`
ADVICE = "it is not served; restore a backup, or return to the previous release with `oncoloop rollback`"


def bento_folder(tag: str) -> Path:
    """The folder of a built Bento in the local store."""
    name, _, version = tag.partition(":")
    return paths.home() / "bentoml" / "bentos" / name / version


def file_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a release folder except its manifest, by relative path."""
    return {name: value for name, value in fingerprint.hash_folder(folder).items() if name != MANIFEST}


def check_release(folder: Path) -> None:
    """Raise Fault for the first file that differs from the manifest, or for a manifest that the ledger does not list.

    If there is no ledger, or no row of this release in it, only the manifest is compared.
    """
    manifest = read_manifest(folder)
    for name, expected in _expected_hashes(manifest).items():
        path = folder / name
        sha256 = fingerprint.file_sha256(path) if path.is_file() else ""
        if sha256 != expected:
            raise Fault(f"release {manifest['release']}: {path} {_mismatch(sha256, expected)}; {ADVICE}")
    recorded = {str(row["manifest_sha256"]) for row in _build_records(manifest["release"]) if "manifest_sha256" in row}
    sha256 = fingerprint.file_sha256(folder / MANIFEST)
    if recorded and sha256 not in recorded:
        raise Fault(
            f"release {manifest['release']}: {folder / MANIFEST} has the SHA-256 {sha256[:12]}, which the "
            f"ledger does not list; {ADVICE}"
        )


def check_bento(tag: str) -> None:
    """Raise Fault for the first file of a Bento that was changed, removed or added since the release was built."""
    folder, release = bento_folder(tag), tag.partition(":")[2]
    records = [row for row in _build_records(release) if row.get("bento") == tag]
    listings = [row[FILES] for row in records if FILES in row]
    if listings and (hashes := fingerprint.hash_folder(folder)) not in listings:
        expected = listings[-1]
        name = next(name for name in sorted({*expected, *hashes}) if expected.get(name) != hashes.get(name))
        raise Fault(f"{tag}: {folder / name} {_mismatch(hashes.get(name, ''), expected.get(name, ''))}; {ADVICE}")
    packed = folder / "src" / "release"
    if (name := read_manifest(packed)["release"]) != release:
        raise Fault(f"{tag}: {packed / MANIFEST} belongs to release {name}; {ADVICE}")
    check_release(packed)


def _expected_hashes(manifest: Mapping[str, Any]) -> dict[str, str]:
    """The hashes in a manifest; an old one without `files` has only those of graph and linear layer."""
    if FILES in manifest:
        return dict(manifest[FILES])
    hashes_by_task = {task: facts.get("hashes", {}) for task, facts in manifest["tasks"].items()}
    return {
        f"{task}/{file}": hashes[stem]
        for task, hashes in hashes_by_task.items()
        for file, stem in TASK_FILES.items()
        if stem in hashes
    }


def _build_records(release: str) -> list[dict[str, Any]]:
    """The ledger's records of a release's build; empty without a ledger."""
    if not database.exists():
        log.warning("there is no ledger here, so the manifest of release %s cannot be compared with it", release)
        return []
    return [event.payload for kind in BUILD_EVENTS for event in ledger.events(kind, release)]


def _mismatch(sha256: str, expected: str) -> str:
    if not expected:
        return "is not a file of the release"
    return f"has the SHA-256 {sha256[:12]}, but {expected[:12]} was released" if sha256 else "is missing"
