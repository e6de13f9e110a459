"""Settings from `params.yaml`, as frozen dataclasses: the only module that reads that file.

An unknown or missing key is a Fault. A key whose field has a default may be missing, for files of an older version.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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

if typing.TYPE_CHECKING:
    from pydantic import TypeAdapter
    from pydantic_core import ErrorDetails

NAME = "params.yaml"
FIT = "fit"  # the section, and the key with the overrides of a task
TYPE_WORDS = {  # by pydantic's name of an error
    "bool": "bool",
    "int": "int",
    "int_from_float": "int",
    "float": "float",
    "finite_number": "a finite number",
    "string": "str",
    "tuple": "a list",
    "dict": "a mapping",
    "dataclass": "a mapping",
}


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
    for name in sorted(record.keys() - sections.keys(), key=str):
        raise _unknown_key(str(name), sections)
    for name in sorted(sections.keys() - record.keys()):
        raise _missing_key(name)
    if not isinstance(record["tasks"], Mapping):
        raise Fault(f"{NAME}: tasks must be a mapping, not {record['tasks']!r}")
    tasks = {name: _read_task(name, facts) for name, facts in record["tasks"].items()}
    task_fits = {name: facts[FIT] for name, facts in record["tasks"].items() if FIT in facts}
    fits = {name: _read_fit(name, record[FIT], facts) for name, facts in task_fits.items()}
    content = record | {"serving": _without_keep_scans(record["serving"])}
    values = {name: _read(hint, content[name], name) for name, hint in sections.items() if name != "tasks"}
    split = values["split"]
    if split.test + split.validation >= 1:
        raise Fault(
            f"{NAME}: split.test and split.validation must be below 1 together, not {split.test:g} + "
            f"{split.validation:g}; the rest is for training"
        )
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
    where = f"tasks.{name}"
    if not isinstance(facts, Mapping):
        raise Fault(f"{NAME}: {where} must be a mapping of facts")
    if "name" in facts:
        raise Fault(f"{NAME}: unknown key {where}.name; the key under `tasks` is the name of the task")
    task: Task = _read(Task, {"name": name} | {key: value for key, value in facts.items() if key != FIT}, where)
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
    settings: FitSettings = _read(FitSettings, _merge(shared, overrides), where)
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


def _read(kind: Any, value: Any, where: str) -> Any:
    """A section as an instance of its dataclass. Fault for its first wrong key or value.

    The value passes pydantic as JSON, where a list is a tuple and a word is a member of an enumeration; all other types
    are strict.
    """
    from pydantic import ValidationError

    text = json.dumps({where: _plain(kind, value)}, default=lambda value: {type(value).__name__: [str(value)]})
    try:
        return _validator(kind).validate_json(text)[where]
    except ValidationError as error:
        raise _fault(kind, error.errors(include_url=False), where) from error


@functools.cache
def _validator(kind: Any) -> TypeAdapter[dict[str, Any]]:
    """The validator of sections of a kind by name; its configuration applies to the dataclasses in it too."""
    from pydantic import ConfigDict, TypeAdapter

    config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
    sections: Any = types.GenericAlias(dict, (str, kind))
    return TypeAdapter(sections, config=config)


def _plain(kind: Any, value: Any) -> Any:
    """The value with texts as keys, and `{}` where a section is empty."""
    is_section = dataclasses.is_dataclass(kind)
    if isinstance(value, Mapping):
        hints = typing.get_type_hints(kind) if is_section else {}
        return {str(key): _plain(hints.get(key), entry) for key, entry in value.items()}
    return {} if is_section and value is None else value


def _fault(kind: Any, errors: Sequence[ErrorDetails], where: str) -> Fault:
    """The Fault of one of pydantic's errors: an unknown key, which can explain a missing one; else the first."""
    order = ("unexpected_keyword_argument", "missing")
    error = min(errors, key=lambda error: order.index(error["type"]) if error["type"] in order else len(order))
    code, value, context = error["type"], error["input"], error.get("ctx", {})
    keys = error["loc"][1:]
    if code == "missing" and keys and isinstance(keys[-1], int):  # a list that is too short
        code, keys = "too_short", keys[:-1]
    name = where + "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys)
    if code == "unexpected_keyword_argument":
        return _unknown_key(name, _section(kind, keys[:-1]))
    if code == "missing":
        return _missing_key(name)
    allowed = TYPE_WORDS.get(code.removesuffix("_type")) or str(context.get("expected", context.get("error", "")))
    if not allowed:
        return Fault(f"{NAME}: {name} has the unusable value {value!r}")
    return Fault(f"{NAME}: {name} must be {allowed.replace(chr(39), '')}, not {value!r}")


def _section(kind: Any, keys: Sequence[int | str]) -> Mapping[str, Any]:
    """The fields below these keys of a dataclass, by name."""
    hints = typing.get_type_hints(kind)
    return _section(hints[str(keys[0])], keys[1:]) if keys else hints


def _unknown_key(name: str, fields: Mapping[str, Any]) -> Fault:
    return Fault(f"{NAME}: unknown key {name}; known here: {', '.join(sorted(fields)) or 'none'}")


def _missing_key(name: str) -> Fault:
    return Fault(f"{NAME}: missing key {name}; the shipped {NAME} shows its default")


__all__ = ["NAME", "ChangePlan", "Params", "PixelSettings", "Pooling", "ScheduleSettings", "load", "raw"]
