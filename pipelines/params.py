"""Settings from `params.yaml`, as frozen dataclasses: the only module that reads that file.

An unknown or missing key is a Fault. A key whose field has a default may be missing, for files of an older version.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import yaml

from data.record import MaskMeaning, PixelSettings, Pooling, Task
from data.settings import IngestSettings, SplitSettings
from lineage.errors import Fault
from lineage.fingerprint import digest
from monitoring.settings import MonitoringSettings
from serving.settings import ServingSettings
from training.settings import CalibrateSettings, EvaluateSettings, FitSettings, PromotionSettings

NAME = "params.yaml"
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
    sections = {field.name for field in dataclasses.fields(Params)} - {"digest", "fits"}
    obsolete = {name for name in OBSOLETE if not record.get(name)}
    _check_keys(set(record) - obsolete, sections, "")
    tasks = {name: _read_task(name, facts) for name, facts in record["tasks"].items()}
    task_fits = {name: facts[FIT] for name, facts in record["tasks"].items() if FIT in facts}
    fits = {name: _read_fit(name, record[FIT], facts) for name, facts in task_fits.items()}
    hints = typing.get_type_hints(Params)
    values = {name: _fill(hints[name], record[name], name) for name in sections - {"tasks"}}
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


def _read_task(name: str, facts: Any) -> Task:
    if not isinstance(facts, Mapping):
        raise Fault(f"{NAME}: tasks.{name} must be a mapping of facts")
    task_facts = {key: value for key, value in facts.items() if key != FIT}
    task: Task = _fill(Task, {"name": name, **task_facts}, f"tasks.{name}")
    if unknown := set(task.positive) - set(task.classes):
        raise Fault(f"{NAME}: tasks.{name}.positive names {sorted(unknown)}, which is not among its classes")
    if not task.positive or len(task.classes) < 2:
        raise Fault(f"{NAME}: tasks.{name} needs at least two classes and one positive class")
    invalid_classes = [name for name in task.lesion_free if name not in task.classes or name in task.positive]
    if invalid_classes or (task.lesion_free and task.mask is not MaskMeaning.LESION):
        raise Fault(f"{NAME}: tasks.{name}.lesion_free is for `mask: lesion`, and may name negative classes only")
    return task


def _read_fit(name: str, shared: Any, overrides: Any) -> FitSettings:
    """The fit settings of a task; `strategy` and `warm` are the same for all, since the loop pins all parents."""
    where = f"tasks.{name}.{FIT}"
    if not isinstance(overrides, Mapping):
        raise Fault(f"{NAME}: {where} must be a mapping of settings that override {FIT}, not {overrides!r}")
    for key in ("strategy", "warm"):
        if key in overrides:
            raise Fault(f"{NAME}: {where}.{key} can't differ between tasks; set {FIT}.{key}")
    settings: FitSettings = _fill(FitSettings, _merge(shared, overrides), where)
    return settings


def _merge(shared: Any, overrides: Any) -> Any:
    """Merge `overrides` into `shared`, recursively for mappings."""
    if not isinstance(shared, Mapping) or not isinstance(overrides, Mapping):
        return overrides
    return {**shared, **{key: _merge(shared.get(key), value) for key, value in overrides.items()}}


def _check_keys(keys: set[str], fields: set[str], where: str, optional: frozenset[str] = frozenset()) -> None:
    prefix = f"{where}." if where else ""
    if unknown := sorted(keys - fields):
        raise Fault(f"{NAME}: unknown key {prefix}{unknown[0]}; known here: {', '.join(sorted(fields)) or 'none'}")
    if missing := sorted(fields - keys - optional):
        raise Fault(f"{NAME}: missing key {prefix}{missing[0]}; the shipped {NAME} shows its default")


def _fill(target_type: Any, value: Any, where: str) -> Any:
    if not dataclasses.is_dataclass(target_type):
        return _convert(target_type, value, where)
    value = {} if value is None else value
    if not isinstance(value, Mapping):
        raise Fault(f"{NAME}: {where} must be a mapping, not {value!r}")
    fields = dataclasses.fields(target_type)
    _check_keys(
        set(value), {field.name for field in fields}, where, frozenset(filter(None, map(_name_if_default, fields)))
    )
    hints = typing.get_type_hints(target_type)
    values = {name: _fill(hints[name], entry, f"{where}.{name}") for name, entry in value.items()}
    return typing.cast("type[Any]", target_type)(**values)


def _name_if_default(field: dataclasses.Field[Any]) -> str:
    """The name of a field with a default; empty for a field without."""
    return field.name if (field.default, field.default_factory) != (dataclasses.MISSING, dataclasses.MISSING) else ""


def _convert(target_type: Any, value: Any, where: str) -> Any:
    """Convert a YAML value to the type of its field. Fault if it does not fit."""
    origin, inner = typing.get_origin(target_type), typing.get_args(target_type)
    if origin in (types.UnionType, typing.Union):
        return None if value is None else _convert(next(k for k in inner if k is not type(None)), value, where)
    try:
        if origin is tuple:
            element_types = [inner[0]] * len(value) if inner[-1] is Ellipsis else list(inner)
            return tuple(_convert(k, v, where) for k, v in zip(element_types, value, strict=True))
        if isinstance(target_type, type) and issubclass(target_type, Enum):
            return target_type(value)
        if target_type is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
    except (TypeError, ValueError) as error:
        raise Fault(f"{NAME}: {where} has the unusable value {value!r}") from error
    expected_type = origin or target_type
    if expected_type is not Any and (
        not isinstance(value, expected_type) or (isinstance(value, bool) and expected_type is not bool)
    ):
        raise Fault(f"{NAME}: {where} must be {getattr(expected_type, '__name__', expected_type)}, not {value!r}")
    return value


__all__ = ["NAME", "ChangePlan", "Params", "PixelSettings", "Pooling", "ScheduleSettings", "load", "raw"]
