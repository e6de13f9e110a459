"""A release of all champions: manifest, Bento, check with a real server, and the choice of the one to serve."""

from __future__ import annotations

import dataclasses
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.core_types import Task
from data.deidentify import deidentify_file
from data.phantom import batch
from data.phantom import study as phantom_study
from lineage import current_state, fingerprint, json_files, mlflow_registry, paths, site_hash
from lineage.record import ledger
from lineage.record.database import now
from lineage.record.events import EventKind
from lineage.record.verdict import Verdict
from pipelines.models import site_entries, site_sources
from pipelines.params import Params
from serving.bundle import bento_build
from serving.inference import outlier, release_integrity
from serving.inference.manifest import SERVING_KEYS
from serving.inference.release import KIND
from training.promotion import gate_checks

SITES = "sites"  # key of the facts of a built release
GRAPH_FILES = ("graph.onnx", "head.npz", "reference.npz")


@dataclass(frozen=True)
class BuiltRelease:
    """A release on disk and in the Bento store."""

    id: str
    tag: str
    folder: Path
    tasks: dict[str, str]
    sites: dict[str, Any]  # the decisions and settings of sites that it was built with

    def facts(self) -> dict[str, Any]:
        """The payload of its ledger event."""
        digest = fingerprint.file_sha256(self.folder / "manifest.json")
        files = fingerprint.hash_folder(release_integrity.bento_folder(self.tag))
        facts = {"bento": self.tag, "tasks": self.tasks, "manifest_sha256": digest, release_integrity.FILES: files}
        return facts | {SITES: self.sites}


def build(settings: Params, champions: dict[str, str]) -> BuiltRelease:
    """Assemble the release folder of these versions and build its Bento."""
    sites = site_state(settings, champions)
    site_sources.write_names()
    sources = {task: mlflow_registry.download(task, version) for task, version in champions.items()}
    tasks = {task: manifest_entry(settings, task, version, sources[task]) for task, version in champions.items()}
    serving = {key: getattr(settings.serving, key) for key in SERVING_KEYS}
    serving |= {"unknown_sites": settings.serving.unknown_sites, "site": site_hash.hash_site(settings.serving.site)}
    code = fingerprint.describe_code(bento_build.PACKED_PACKAGES)["files"]
    name = fingerprint.digest({"tasks": tasks, "serving": serving, "code": code})[:12]
    folder = paths.state_path("releases", name)
    manifest = {"release": name, "created": now(), "tasks": tasks, "serving": serving}
    bento_build.assemble(folder, manifest, sources, [warm_up_scan(settings.task(task)) for task in champions])
    tag = bento_build.build(folder)
    return BuiltRelease(name, tag, folder, champions, sites)


def site_state(settings: Params, champions: dict[str, str]) -> dict[str, Any]:
    """The decisions on sites of these versions and the settings of sites; if they change, a new release is due."""
    return {
        "decisions": current_state.site_decisions(champions),
        "unknown_sites": settings.serving.unknown_sites,
        "own": site_hash.hash_site(settings.serving.site),
    }


def warm_up_scan(task: Task) -> tuple[str, bytes, str]:
    """A de-identified synthetic scan of the task's modality. Returns file name, bytes and task name."""
    organ = task.organ if task.organ in phantom_study.DRAWINGS else {"CT": "pancreas", "MR": "brain"}[task.modality]
    phantom_task = dataclasses.replace(task, organ=organ)
    study = phantom_study.make_study(phantom_task, phantom_study.usual_scanner(phantom_task), 1, 1, task.positive[0])
    with tempfile.TemporaryDirectory(dir=paths.state_path("staging", "x").parent.parent) as folder:
        row = batch.write_study(Path(folder), study, task.name)[0]
        content = (Path(folder) / row["file_name"]).read_bytes()
    suffix, clean = deidentify_file.deidentify_file(row["file_name"], content, row)
    return f"warm-up{suffix}", clean, task.name


def manifest_entry(settings: Params, name: str, version: str, source: Path) -> dict[str, Any]:
    """The manifest's entry of one task: all that serving needs, and the facts of the model for people who ask."""
    task: Task = settings.task(name)
    calibration = json_files.read_json(source / "calibration.json")
    metrics = json_files.read_json(source / "metrics.json")
    tags = mlflow_registry.tags(name, version)
    approval = _approval(name, version)
    task_fields = dataclasses.asdict(task)
    site_calibration = {
        "temperature": calibration["temperature"],
        "threshold": calibration["threshold"],
        "conformal": site_entries.conformal_facts(calibration["conformal"]),
    }
    return {
        **{
            key: task_fields[key]
            for key in (
                "title",
                "organ",
                "modality",
                "body_parts",
                "classes",
                "positive",
                "unit",
                "ordered",
                "pixels",
                "pooling",
                "note",
                "field_of_view",
            )
        },
        **site_calibration,
        "sites": site_entries.accepted_sites(settings, name, version, source, site_calibration),
        "precision": calibration["precision"],
        "prevalence": calibration["prevalence"],
        "checks_kind": (source / KIND).is_file(),  # not in a version that was evaluated before there was this test
        "outlier_distance": outlier.distance_limit(source / "reference.npz", settings.serving.outlier_quantile),
        "metrics": metrics["test"],
        "baselines": _baselines(metrics),
        "baseline_note": baseline_note(metrics),
        "counts": metrics["counts"],
        "version": version,
        "run_id": tags["run_id"],
        "data_version": tags["data_version"],
        "hashes": {
            "lock": tags["lock_hash"],
            "params": tags["params_digest"],
            "code": tags["code_digest"],
            **{Path(file).stem: fingerprint.file_sha256(source / file) for file in GRAPH_FILES},
        },
        "change_plan": dataclasses.asdict(settings.change_plan),
        **approval,
    }


def _approval(task: str, version: str) -> dict[str, str]:
    """Who approved a version, and why. A version in shadow is not approved yet."""
    promotions = [
        event for event in ledger.events(EventKind.MODEL_PROMOTED, task) if str(event.payload["version"]) == version
    ]
    if promotions:
        facts = promotions[-1].payload
        return {"approved_by": promotions[-1].actor, "approval_reason": facts["reason"], "verdict": facts["outcome"]}
    verdicts = ledger.events(EventKind.VERDICT, f"{task}/{version}", limit=1)
    outcome = verdicts[0].payload["outcome"] if verdicts else ""
    reason = "not approved: it answers in shadow, seen by nobody"
    return {"approved_by": "", "approval_reason": reason, "verdict": outcome}


def _baselines(metrics: dict[str, Any]) -> dict[str, Any]:
    """AUROC of each simple baseline and the network's difference to it, on test patients; only those with figures."""
    comparisons = {"intensity": metrics.get("baseline")} | (metrics.get("baselines") or {})
    return {
        name: {key: entry[key] for key in ("auroc", "difference")}
        for name, entry in comparisons.items()
        if entry and "difference" in entry
    }


def baseline_note(metrics: dict[str, Any]) -> str:
    """One sentence for readers of an answer if a simple baseline may be as good as the model; else empty."""
    names = list(gate_checks.equal_baselines(metrics))
    if not names:
        return ""
    return f"On the test patients this model was not shown to be better than {' or '.join(names)} alone."


def check(built: BuiltRelease) -> Verdict:
    """Start a copy of the real server, send it the warm-up scans, and compare its answers with those of the build."""
    verdict = bento_build.check(built.tag, built.folder)
    reasons = verdict.reasons or ("the served Bento answers the warm-up scans as it did when it was built",)
    return dataclasses.replace(verdict, subject=built.id, reasons=reasons)
