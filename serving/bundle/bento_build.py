"""The champions of all tasks to one release: a folder that never changes, and the Bento built from it."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lineage import fingerprint, paths
from lineage.errors import Fault
from serving.bundle import licences
from serving.bundle.bento_server import (
    NAME,
    Server,
    check,
    check_and_keep,
    environment,
    serve_command,
    start,
    wait_ready,
)
from serving.inference import outlier, release_integrity
from serving.inference.manifest import MANIFEST, SERVING_KEYS, WARMUP, check_manifest, read_manifest
from serving.inference.predict import Prediction, Upload, predict
from serving.inference.release import GRAPH, HEAD, REFERENCE, compile_release

log = logging.getLogger(__name__)
__all__ = ["Server", "assemble", "build", "check", "check_and_keep", "serve_command", "start", "wait_ready"]

LOCK, LICENCES = "release.lock", "LICENSES"
PACKED_PACKAGES = (  # packages of a release: those that answer, and no other
    "lineage/top-level",
    "lineage/record",
    "data/top-level",
    "data/scan",
    "data/deidentify",
    "serving",
)
CODE = (".py", ".lock", ".txt", ".mako", ".ini")
TOLERANCE = {"float32": 0.0005, "bfloat16": 0.03}  # of a probability, on another CPU than the one that wrote it
BENTOFILE = f"""\
service: serving.http.service:Oncoloop
name: {NAME}
description: "file:README.md"
include: ["**/*"]
python:
  requirements_txt: serving/{LOCK}
  lock_packages: false
"""


def assemble(
    folder: Path,
    manifest: Mapping[str, Any],
    sources: Mapping[str, Path],
    warmups: Sequence[tuple[str, bytes, str]] = (),
) -> Path:
    """Write a release folder: manifest, each task's graph, linear layer and reference, and the warm-up scans.

    `sources` gives the folder of each task's `graph.onnx`, `head.npz` and `reference.npz`; `warmups` are (file
    name, bytes, task), de-identified; their expected answers are computed here by `predict`. A release is written
    whole or not at all, and never changed: the same release again is left as it is, another one under its name
    is a Fault.
    """
    wanted = _checked(dict(manifest), sources)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".release-") as draft:
        draft_folder = Path(draft) / folder.name
        for task, source in sources.items():
            _copy_task(source, draft_folder / task, wanted["tasks"][task])
        if folder.exists():
            return _same(folder, wanted, release_integrity.files(draft_folder))
        _write(draft_folder / MANIFEST, wanted | {WARMUP: []})
        expected = _warm_up(draft_folder, warmups)
        _write(
            draft_folder / MANIFEST,
            wanted | {WARMUP: expected, release_integrity.FILES: release_integrity.files(draft_folder)},
        )
        draft_folder.rename(folder)
    return folder


def build(release_folder: Path) -> str:
    """Build the Bento of a release folder, offline, and give its tag. The same release again gives the same Bento."""
    release = read_manifest(release_folder)["release"]
    tag = f"{NAME}:{release}"
    packed = release_integrity.bento_folder(tag) / "src" / "release"
    if packed.is_dir():
        _same(packed, read_manifest(release_folder))
        release_integrity.check_bento(tag)
        return tag
    with tempfile.TemporaryDirectory(dir=paths.state_path("run", "build").parent, prefix="bento-") as context:
        _context(Path(context), release_folder)
        command = [sys.executable, "-m", "bentoml", "build", "-f", "bentofile.yaml", "--version", release, context]
        done = subprocess.run(command, cwd=context, env=environment(), capture_output=True, text=True, check=False)
    if done.returncode or not packed.is_dir():
        raise Fault(f"{tag} could not be built: {_last_line(done.stderr or done.stdout)}")
    log.info("built %s", tag)
    return tag


def _checked(manifest: dict[str, Any], sources: Mapping[str, Path]) -> dict[str, Any]:
    check_manifest(manifest, "release")
    if set(sources) != set(manifest["tasks"]):
        raise Fault(f"the manifest has the tasks {sorted(manifest['tasks'])}, but the files are of {sorted(sources)}")
    if manifest["serving"]["keep_scans"]:
        raise Fault("serving.keep_scans: this version keeps no scans; set it to false in params.yaml")
    code = fingerprint.digest(fingerprint.describe_code(PACKED_PACKAGES)["files"])
    kept = {key: manifest["serving"][key] for key in (*SERVING_KEYS, "workers") if key in manifest["serving"]}
    return manifest | {"serving": kept, "code": code}


def _same(folder: Path, wanted: dict[str, Any], files: Mapping[str, str] | None = None) -> Path:
    """The folder that is there, if it is of the same models and settings, and holds these files as they should be."""

    def identity(manifest: dict[str, Any]) -> str:
        beside = (WARMUP, "created", release_integrity.FILES)
        return fingerprint.digest({key: manifest[key] for key in manifest if key not in beside})

    if identity(read_manifest(folder)) != identity(json.loads(json.dumps(wanted))):
        raise Fault(f"{folder} holds another release of this name; a release is never changed, give it a new name")
    for name, value in (files or {}).items():
        if not (folder / name).is_file() or fingerprint.file_sha256(folder / name) != value:
            raise Fault(
                f"{folder / name} is not the file of {wanted['release']}; move {folder} away and build it again"
            )
    release_integrity.check_release(folder)
    return folder


def _copy_task(source: Path, target: Path, facts: dict[str, Any]) -> None:
    target.mkdir(parents=True)
    for name in (GRAPH, HEAD, REFERENCE):
        if not (source / name).is_file():
            raise Fault(f"{source / name} is missing; fit and evaluate the task again")
        if name == REFERENCE:
            outlier.copy_anonymous(source / name, target / name)  # a release names nobody
        else:
            shutil.copyfile(source / name, target / name)
    approved = facts.get("hashes", {}).get("graph")
    if approved and approved != fingerprint.file_sha256(target / GRAPH):
        raise Fault(f"{source / GRAPH} is not the approved graph: its SHA-256 is not {approved}")


def _warm_up(folder: Path, warmups: Sequence[tuple[str, bytes, str]]) -> list[dict[str, Any]]:
    """Keep the warm-up scans, and what this release answers for them."""
    (folder / WARMUP).mkdir()
    release = compile_release(folder)
    expected = []
    for number, (name, content, task) in enumerate(warmups):
        file = f"{number:02d}-{Path(name).name}"
        (folder / WARMUP / file).write_bytes(content)
        expected.append({"file": file, **_expected(predict(release, [Upload(file, content)], task))})
    return expected


def _expected(answer: Prediction) -> dict[str, Any]:
    return {
        "task": answer.task,
        "probabilities": dict(zip(answer.classes, answer.probabilities, strict=True)),
        "answer": answer.answer,
        "outcome": answer.verdict.outcome.value,
        "tolerance": TOLERANCE.get(answer.engine["precision"], max(TOLERANCE.values())),
    }


def _context(context: Path, release_folder: Path) -> None:
    """What goes into the Bento: the code of the packages that answer, the release, and its lock."""
    for package in PACKED_PACKAGES:
        for file in fingerprint.sources(package, CODE):
            target = context / file.relative_to(fingerprint.ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
    shutil.copytree(release_folder, context / "release")
    (context / "bentofile.yaml").write_text(BENTOFILE)
    (context / LICENCES).write_text(licences.text(fingerprint.ROOT / "serving" / LOCK), encoding="utf-8")
    manifest = read_manifest(release_folder)
    tasks = "\n".join(
        f"- {name}: {facts['title']}, version {facts['version']}" for name, facts in manifest["tasks"].items()
    )
    (context / "README.md").write_text(f"# Oncoloop {manifest['release']}\n\nResearch use only.\n\n{tasks}\n")


def _write(path: Path, manifest: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(manifest, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip()[:300] if lines else "no reason given"
