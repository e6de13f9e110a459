"""Build one release from the champions of all tasks: an immutable folder, and the Bento made from it."""

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
    environment,
    serve_command,
    start,
    start_checked,
    wait_ready,
)
from serving.descriptor import encoder_graph
from serving.inference import outlier, release_integrity
from serving.inference.manifest import MANIFEST, SERVING_KEYS, SITE_KEYS, WARMUP, check_manifest, read_manifest
from serving.inference.predict import Prediction, Upload, predict
from serving.inference.release import DESCRIPTOR, GRAPH, HEAD, KIND, REFERENCE, compile_release

log = logging.getLogger(__name__)
__all__ = ["Server", "assemble", "build", "check", "serve_command", "start", "start_checked", "wait_ready"]

LOCK, LICENCES = "release.lock", "LICENSES"
PACKED_PACKAGES = (  # packages in a release: only those that serving needs
    "lineage/top-level",
    "lineage/record",
    "data/top-level",
    "data/scan",
    "data/deidentify",
    "serving",
)
CODE = (".py", ".lock", ".txt", ".mako", ".ini")
TOLERANCE = {"float32": 0.0005, "bfloat16": 0.03}  # of a probability, between two kinds of CPU
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

    `sources` gives the folder of each task's `graph.onnx`, `head.npz` and `reference.npz`. `warmups` are (file
    name, bytes, task), de-identified; `predict` computes their expected answers here. A release is written
    completely or not at all. It never changes: the same release again leaves the folder as it is, a different
    release of the same name raises a Fault.
    """
    release_manifest = _release_manifest(dict(manifest), sources)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".release-") as draft:
        draft_folder = Path(draft) / folder.name
        for task, source in sources.items():
            _copy_task(source, draft_folder / task, release_manifest["tasks"][task])
        if any(facts.get("checks_kind") for facts in release_manifest["tasks"].values()):
            encoder_graph.write_graph(draft_folder / DESCRIPTOR)
        if folder.exists():
            return _check_existing(folder, release_manifest, release_integrity.file_hashes(draft_folder))
        _write_manifest(draft_folder / MANIFEST, release_manifest | {WARMUP: []})
        warmup_answers = _answer_warmups(draft_folder, warmups)
        _write_manifest(
            draft_folder / MANIFEST,
            release_manifest
            | {WARMUP: warmup_answers, release_integrity.FILES: release_integrity.file_hashes(draft_folder)},
        )
        draft_folder.rename(folder)
    return folder


def build(release_folder: Path) -> str:
    """Build the Bento of a release folder offline and return its tag. The same release gives the same Bento."""
    release = read_manifest(release_folder)["release"]
    tag = f"{NAME}:{release}"
    packed = release_integrity.bento_folder(tag) / "src" / "release"
    if packed.is_dir():
        _check_existing(packed, read_manifest(release_folder))
        release_integrity.check_bento(tag)
        return tag
    with tempfile.TemporaryDirectory(dir=paths.state_path("run", "build").parent, prefix="bento-") as context:
        _write_build_context(Path(context), release_folder)
        command = [sys.executable, "-m", "bentoml", "build", "-f", "bentofile.yaml", "--version", release, context]
        process = subprocess.run(command, cwd=context, env=environment(), capture_output=True, text=True, check=False)
    if process.returncode or not packed.is_dir():
        raise Fault(f"BentoML could not build {tag}: {_last_line(process.stderr or process.stdout)}")
    log.info("built %s", tag)
    return tag


def _release_manifest(manifest: dict[str, Any], sources: Mapping[str, Path]) -> dict[str, Any]:
    check_manifest(manifest, "release")
    if set(sources) != set(manifest["tasks"]):
        raise Fault(f"the manifest has the tasks {sorted(manifest['tasks'])}, but the files are for {sorted(sources)}")
    code = fingerprint.digest(fingerprint.describe_code(PACKED_PACKAGES)["files"])
    serving = {
        key: manifest["serving"][key] for key in (*SERVING_KEYS, *SITE_KEYS, "workers") if key in manifest["serving"]
    }
    return manifest | {"serving": serving, "code": code}


def _check_existing(folder: Path, manifest_to_write: dict[str, Any], files: Mapping[str, str] | None = None) -> Path:
    """Return an existing release folder. Raises Fault if its models, settings or these files differ."""

    def identity_digest(manifest: dict[str, Any]) -> str:
        ignored = (WARMUP, "created", release_integrity.FILES)
        return fingerprint.digest({key: manifest[key] for key in manifest if key not in ignored})

    if identity_digest(read_manifest(folder)) != identity_digest(json.loads(json.dumps(manifest_to_write))):
        raise Fault(f"{folder} holds another release of this name; a release never changes, so use a new name")
    for name, sha256 in (files or {}).items():
        if not (folder / name).is_file() or fingerprint.file_sha256(folder / name) != sha256:
            raise Fault(
                f"{folder / name} differs from the file of {manifest_to_write['release']}; "
                f"move {folder} away and build it again"
            )
    release_integrity.check_release(folder)
    return folder


def _copy_task(source: Path, target: Path, facts: dict[str, Any]) -> None:
    target.mkdir(parents=True)
    for name in (GRAPH, HEAD, REFERENCE, *([KIND] if facts.get("checks_kind") else [])):
        if not (source / name).is_file():
            raise Fault(f"{source / name} is missing; fit and evaluate the task again")
        if name == REFERENCE:
            outlier.copy_anonymous(source / name, target / name)  # a release contains no patient names
        else:
            shutil.copyfile(source / name, target / name)
    approved = facts.get("hashes", {}).get("graph")
    if approved and approved != fingerprint.file_sha256(target / GRAPH):
        raise Fault(f"{source / GRAPH} is not the approved graph: its SHA-256 differs from {approved}")


def _answer_warmups(folder: Path, warmups: Sequence[tuple[str, bytes, str]]) -> list[dict[str, Any]]:
    """Copy the warm-up scans into the release, and return this release's answers to them."""
    (folder / WARMUP).mkdir()
    release = compile_release(folder)
    answers = []
    for number, (name, content, task) in enumerate(warmups):
        file_name = f"{number:02d}-{Path(name).name}"
        (folder / WARMUP / file_name).write_bytes(content)
        answers.append({"file": file_name, **_expected_answer(predict(release, [Upload(file_name, content)], task))})
    return answers


def _expected_answer(answer: Prediction) -> dict[str, Any]:
    return {
        "task": answer.task,
        "probabilities": dict(zip(answer.classes, answer.probabilities, strict=True)),
        "answer": answer.answer,
        "outcome": answer.verdict.outcome.value,
        "tolerance": TOLERANCE.get(answer.engine["precision"], max(TOLERANCE.values())),
    }


def _write_build_context(context: Path, release_folder: Path) -> None:
    """Write what goes into the Bento: the code of its packages, the release, its lock and the licences."""
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


def _write_manifest(path: Path, manifest: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(manifest, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip()[:300] if lines else "no reason given"
