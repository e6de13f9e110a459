"""Settings from `params.yaml`, as frozen dataclasses: the only module that reads that file.

An unknown or missing key is a Fault. A key whose field has a default may be missing, for files of an older version.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from data.core_types import MaskMeaning, PixelSettings, Pooling, Task
from data.settings import IngestSettings, SplitSettings
from lineage.errors import Fault
from lineage.fingerprint import digest
from monitoring.settings import MonitoringSettings
from pipelines.settings_validation import NAME, check_keys, read_section
from serving.settings import ServingSettings
from training.settings import CalibrateSettings, EvaluateSettings, FitSettings, PromotionSettings

OBSOLETE = ("prepare",)  # empty sections of older files, which had no effect
FIT = "fit"  # the section, and the key with the overrides of a task


@dataclass(frozen=True)
class ScheduleSettings:
    """Cron lines of the Prefect deployments."""

    ingest: str
    retrain: str
    watch: str


@dataclass(frozen=True)
class ChangePlan:
    """Changes that need no new approval of the product, in the terms of a predetermined change control plan."""

    intended_use: str
    modifications: str
    protocol: str
    owner: str


@dataclass(frozen=True)
class Params:
    """All settings that change results. `fit` applies to every task, except for overrides in the task's own `fit`."""

    tasks: dict[str, Task]
    ingest: IngestSettings
    split: SplitSettings
    fit: FitSettings
    calibrate: CalibrateSettings
    evaluate: EvaluateSettings
    promotion: PromotionSettings
    serving: ServingSettings
    monitoring: MonitoringSettings
    schedule: ScheduleSettings
    change_plan: ChangePlan
    digest: str
    fits: Mapping[str, FitSettings]

    def task(self, name: str) -> Task:
        """A task by its name. Fault for an unknown name."""
        if name not in self.tasks:
            raise Fault(f"there is no task {name!r} in {NAME}; known: {', '.join(self.tasks)}")
        return self.tasks[name]

    def fit_of(self, task: str) -> FitSettings:
        """The fit settings of a task: `fit` with the overrides of the task."""
        return self.fits.get(task, self.fit)


def load(folder: Path | None = None) -> Params:
    """Read `params.yaml` of a workspace (default: the current folder)."""
    record = raw(folder)
    hints = typing.get_type_hints(Params)
    sections = {name: hint for name, hint in hints.items() if name not in ("digest", "fits")}
    check_keys({name: value for name, value in record.items() if value or name not in OBSOLETE}, sections)
    if not isinstance(record["tasks"], Mapping):
        raise Fault(f"{NAME}: tasks must be a mapping, not {record['tasks']!r}")
    content = record | {"serving": _without_keep_scans(record["serving"])}
    values = {name: read_section(hint, content[name], name) for name, hint in sections.items() if name != "tasks"}
    _check_split(values["split"])
    tasks = {name: _read_task(name, facts) for name, facts in record["tasks"].items()}
    task_fits = {name: facts[FIT] for name, facts in record["tasks"].items() if FIT in facts}
    fits = {name: _read_fit(name, record[FIT], facts) for name, facts in task_fits.items()}
    return Params(tasks=tasks, digest=digest(record), fits=fits, **values)


def raw(folder: Path | None = None) -> dict[str, Any]:
    """The content of the file as plain values. Fault if it is missing, not valid YAML, or empty."""
    path = (folder or Path.cwd()) / NAME
    if not path.is_file():
        raise Fault(f"no {NAME} in {path.parent}: this is not a workspace; make one with `oncoloop init DIR`")
    try:
        record = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise Fault(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(record, dict):
        raise Fault(f"{path} contains no settings; copy the shipped {NAME} again")
    return record


def _check_split(split: SplitSettings) -> None:
    if split.test + split.validation >= 1:
        raise Fault(
            f"{NAME}: split.test and split.validation must be below 1 together, not {split.test:g} + "
            f"{split.validation:g}; the rest is for training"
        )


def _read_task(name: str, facts: Any) -> Task:
    where = f"tasks.{name}"
    if not isinstance(facts, Mapping):
        raise Fault(f"{NAME}: {where} must be a mapping of facts")
    if "name" in facts:
        raise Fault(f"{NAME}: unknown key {where}.name; the key under `tasks` is the name of the task")
    task: Task = read_section(Task, {"name": name} | {key: value for key, value in facts.items() if key != FIT}, where)
    if unknown := set(task.positive) - set(task.classes):
        raise Fault(f"{NAME}: {where}.positive names {sorted(unknown)}, which is not among its classes")
    if not task.positive or len(set(task.classes)) < 2:
        raise Fault(f"{NAME}: {where} needs at least two classes and one positive class")
    if len(set(task.classes)) < len(task.classes):
        raise Fault(f"{NAME}: {where}.classes repeats a class; each class occurs once")
    if task.pooling.rule == "topk" and task.pooling.k < 1:
        raise Fault(f"{NAME}: {where}.pooling.k must be at least 1 for the rule topk, not {task.pooling.k}")
    invalid_classes = [name for name in task.lesion_free if name not in task.classes or name in task.positive]
    if invalid_classes or (task.lesion_free and task.mask is not MaskMeaning.LESION):
        raise Fault(f"{NAME}: {where}.lesion_free is for `mask: lesion`, and may name negative classes only")
    return task


def _read_fit(name: str, shared: Any, overrides: Any) -> FitSettings:
    """The fit settings of a task; `strategy` and `warm` are the same for all, since the loop pins all parents."""
    where = f"tasks.{name}.{FIT}"
    if not isinstance(overrides, Mapping):
        raise Fault(f"{NAME}: {where} must be a mapping of settings that override {FIT}, not {overrides!r}")
    for key in ("strategy", "warm"):
        if key in overrides:
            raise Fault(f"{NAME}: {where}.{key} can't differ between tasks; set {FIT}.{key}")
    settings: FitSettings = read_section(FitSettings, _merge(shared, overrides), where)
    return settings


def _merge(shared: Any, overrides: Any) -> Any:
    """Merge `overrides` into `shared`, recursively for mappings."""
    if not isinstance(shared, Mapping) or not isinstance(overrides, Mapping):
        return overrides
    return {**shared, **{key: _merge(shared.get(key), value) for key, value in overrides.items()}}


def _without_keep_scans(serving: Any) -> Any:
    """The section `serving` without a key of 0.1.0. Fault if it asks for what no version does: to store scans."""
    if not isinstance(serving, Mapping) or "keep_scans" not in serving:
        return serving
    if serving["keep_scans"] is not False:
        raise Fault(f"{NAME}: serving.keep_scans can't be {serving['keep_scans']!r}: no scan is stored; remove the key")
    return {key: value for key, value in serving.items() if key != "keep_scans"}


__all__ = ["NAME", "ChangePlan", "Params", "PixelSettings", "Pooling", "ScheduleSettings", "load", "raw"]
