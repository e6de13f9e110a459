"""params.yaml -> frozen settings. The only place where that file is read; an unknown or missing key is named.

A key whose field has a default may be missing: files of an older version lack what came later."""

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
FIT = "fit"  # the section, and what a task sets otherwise


@dataclass(frozen=True)
class PrepareSettings:
    """The stage `prepare` has no settings of its own yet: a task's `pixels` decide what it packs."""


@dataclass(frozen=True)
class ScheduleSettings:
    """Cron lines of the Prefect deployments."""

    ingest: str
    retrain: str
    watch: str


@dataclass(frozen=True)
class ChangePlan:
    """What may change without a new approval of the product, in the words of a predetermined change control plan."""

    intended_use: str
    modifications: str
    protocol: str
    owner: str


@dataclass(frozen=True)
class Params:
    """All that changes results. `fit` holds for every task that does not say otherwise in a `fit` of its own."""

    tasks: dict[str, Task]
    ingest: IngestSettings
    split: SplitSettings
    prepare: PrepareSettings
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
        """The task of that name; Fault lists the known ones."""
        if name not in self.tasks:
            raise Fault(f"there is no task {name!r} in {NAME}; known: {', '.join(self.tasks)}")
        return self.tasks[name]

    def fit_of(self, task: str) -> FitSettings:
        """How the network of a task is fitted: `fit`, and what the task's own `fit` sets otherwise."""
        return self.fits.get(task, self.fit)


def load(folder: Path | None = None) -> Params:
    """Read `params.yaml` of a workspace (default: the current folder)."""
    record = raw(folder)
    sections = {field.name for field in dataclasses.fields(Params)} - {"digest", "fits"}
    _match(set(record), sections, "")
    tasks = {name: _task(name, facts) for name, facts in record["tasks"].items()}
    own = {name: facts[FIT] for name, facts in record["tasks"].items() if FIT in facts}
    fits = {name: _fit(name, record[FIT], facts) for name, facts in own.items()}
    hints = typing.get_type_hints(Params)
    filled = {name: _fill(hints[name], record[name], name) for name in sections - {"tasks"}}
    return Params(tasks=tasks, digest=digest(record), fits=fits, **filled)


def raw(folder: Path | None = None) -> dict[str, Any]:
    """The file's plain content."""
    path = (folder or Path.cwd()) / NAME
    if not path.is_file():
        raise Fault(f"no {NAME} in {path.parent}: this is not a workspace; make one with `oncoloop init DIR`")
    try:
        record = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise Fault(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(record, dict):
        raise Fault(f"{path} holds no settings; copy the shipped {NAME} again")
    return record


def _task(name: str, facts: Any) -> Task:
    if not isinstance(facts, Mapping):
        raise Fault(f"{NAME}: tasks.{name} must be a mapping of facts")
    asked = {key: value for key, value in facts.items() if key != FIT}
    task: Task = _fill(Task, {"name": name, **asked}, f"tasks.{name}")
    if unknown := set(task.positive) - set(task.classes):
        raise Fault(f"{NAME}: tasks.{name}.positive names {sorted(unknown)}, which is not among its classes")
    if not task.positive or len(task.classes) < 2:
        raise Fault(f"{NAME}: tasks.{name} needs at least two classes and one positive class")
    odd = [name for name in task.lesion_free if name not in task.classes or name in task.positive]
    if odd or (task.lesion_free and task.mask is not MaskMeaning.LESION):
        raise Fault(f"{NAME}: tasks.{name}.lesion_free is for `mask: lesion`, and names negative classes alone")
    return task


def _fit(name: str, shared: Any, own: Any) -> FitSettings:
    """The settings of a task's fit; `warm` holds for all tasks, since the loop pins the parents of all at once."""
    where = f"tasks.{name}.{FIT}"
    if not isinstance(own, Mapping):
        raise Fault(f"{NAME}: {where} must be a mapping of what the task sets otherwise than {FIT}, not {own!r}")
    for key in ("strategy", "warm"):
        if key in own:
            raise Fault(f"{NAME}: {where}.{key} can't differ between tasks; set {FIT}.{key}")
    filled: FitSettings = _fill(FitSettings, _merged(shared, own), where)
    return filled


def _merged(shared: Any, own: Any) -> Any:
    """`own` over `shared`, mapping by mapping."""
    if not isinstance(shared, Mapping) or not isinstance(own, Mapping):
        return own
    return {**shared, **{key: _merged(shared.get(key), value) for key, value in own.items()}}


def _match(given: set[str], known: set[str], where: str, optional: frozenset[str] = frozenset()) -> None:
    prefix = f"{where}." if where else ""
    if unknown := sorted(given - known):
        raise Fault(f"{NAME}: unknown key {prefix}{unknown[0]}; known here: {', '.join(sorted(known)) or 'none'}")
    if missing := sorted(known - given - optional):
        raise Fault(f"{NAME}: missing key {prefix}{missing[0]}; the shipped {NAME} shows its default")


def _fill(kind: Any, value: Any, where: str) -> Any:
    if not dataclasses.is_dataclass(kind):
        return _value(kind, value, where)
    value = {} if value is None else value
    if not isinstance(value, Mapping):
        raise Fault(f"{NAME}: {where} must be a mapping, not {value!r}")
    fields = dataclasses.fields(kind)
    _match(set(value), {field.name for field in fields}, where, frozenset(filter(None, map(_defaulted, fields))))
    hints = typing.get_type_hints(kind)
    filled = {name: _fill(hints[name], entry, f"{where}.{name}") for name, entry in value.items()}
    return typing.cast("type[Any]", kind)(**filled)


def _defaulted(field: dataclasses.Field[Any]) -> str:
    """The name of a field that has a default; empty for one that must be set."""
    return field.name if (field.default, field.default_factory) != (dataclasses.MISSING, dataclasses.MISSING) else ""


def _value(kind: Any, value: Any, where: str) -> Any:
    """One YAML value in the type that the settings ask for."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return None if value is None else _value(next(k for k in inner if k is not type(None)), value, where)
    try:
        if origin is tuple:
            kinds = [inner[0]] * len(value) if inner[-1] is Ellipsis else list(inner)
            return tuple(_value(k, v, where) for k, v in zip(kinds, value, strict=True))
        if isinstance(kind, type) and issubclass(kind, Enum):
            return kind(value)
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
    except (TypeError, ValueError) as error:
        raise Fault(f"{NAME}: {where} has the unusable value {value!r}") from error
    plain = origin or kind
    if plain is not Any and (not isinstance(value, plain) or (isinstance(value, bool) and plain is not bool)):
        raise Fault(f"{NAME}: {where} must be {getattr(plain, '__name__', plain)}, not {value!r}")
    return value


__all__ = ["NAME", "ChangePlan", "Params", "PixelSettings", "Pooling", "ScheduleSettings", "load", "raw"]
