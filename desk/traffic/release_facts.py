"""Facts about a release for the pages, from its manifest below `releases/`."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import dataclass, field
from typing import Any

from data.core_types import Pooling
from desk.traffic import targets
from lineage import paths

log = logging.getLogger(__name__)

DEFAULT_UPLOAD_MB = 64.0


@dataclass(frozen=True)
class TaskFacts:
    """What a page shows of one task's model in one release. Fields are empty if the manifest is missing."""

    name: str
    title: str
    classes: tuple[str, ...] = ()
    positive: tuple[str, ...] = ()
    threshold: float | None = None
    pooling: Pooling | None = None
    prevalence: float = 0.5
    version: str = ""
    data_version: str = ""
    note: str = ""
    metrics: dict[str, Any] = field(default_factory=dict)
    baselines: dict[str, Any] = field(default_factory=dict)
    baseline_note: str = ""
    verdict: str = ""
    approved_by: str = ""
    approval_reason: str = ""
    checks_sites: bool = True  # whether it answers accepted sites only; releases of earlier versions do not check

    @property
    def uses_phantoms(self) -> bool:
        """Whether the model was trained on synthetic studies only."""
        return "phantom" in self.note.lower()


def manifest(release: str) -> dict[str, Any] | None:
    """The manifest of a release; None if it is missing or cannot be read."""
    if not re.fullmatch(r"[\w.-]{1,100}", release) or release.startswith("."):
        return None
    path = paths.home() / "releases" / release / "manifest.json"
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        log.warning("%s cannot be read: %s", path, error)
        return None
    return content


def task_facts(release: str, task: str) -> TaskFacts:
    """The manifest's entry of one task."""
    entry = ((manifest(release) or {}).get("tasks") or {}).get(task)
    if entry is None:
        return TaskFacts(task, task)
    return TaskFacts(
        name=task,
        title=entry["title"],
        classes=tuple(entry["classes"]),
        positive=tuple(entry["positive"]),
        threshold=float(entry["threshold"]),
        pooling=Pooling(**entry["pooling"]) if "prevalence" in entry else None,
        prevalence=float(entry.get("prevalence", 0.5)),
        version=str(entry["version"]),
        data_version=str(entry.get("data_version", "")),
        note=entry.get("note") or "",
        metrics=entry.get("metrics") or {},
        baselines=entry.get("baselines") or {},
        baseline_note=entry.get("baseline_note") or "",
        verdict=entry.get("verdict", ""),
        approved_by=entry.get("approved_by", ""),
        approval_reason=entry.get("approval_reason", ""),
        checks_sites="sites" in entry,
    )


def live_tasks() -> list[TaskFacts]:
    """The tasks of the live release."""
    target = targets.live()
    content = manifest(target.release) if target else None
    return [task_facts(content["release"], task) for task in content["tasks"]] if content else []


def accepted_sites(release: str) -> dict[str, list[dict[str, Any]] | None]:
    """The accepted sites of each task in a release's manifest; None for a task whose release checks no sites."""
    content = manifest(release) or {}
    return {task: entry.get("sites") for task, entry in (content.get("tasks") or {}).items()}


def upload_limit_mb(release: str) -> float:
    """The megabytes that one request may send to a release."""
    content = manifest(release)
    return float(content["serving"]["max_upload_mb"]) if content else DEFAULT_UPLOAD_MB
