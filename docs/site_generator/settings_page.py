"""Reference: every key of params.yaml, from the frozen settings classes and the shipped file with its comments."""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Iterator
from enum import Enum
from typing import TYPE_CHECKING, Any

import yaml

from site_generator import markdown
from site_generator.source import ROOT

if TYPE_CHECKING:
    from data.ranges import Range

TASK = "TASK"  # stands for the name of any task
EXAMPLE = "lung-ct"  # the shipped task whose values the page shows
DERIVED = ("digest", "fits", "name")  # fields that no key of the file fills
INTRODUCTION = """# Settings

`params.yaml` of a workspace holds everything that changes results. The file is hashed, logged to MLflow and cited in
every verdict. An unknown key is refused, and so is a number out of its range or a word that is no choice. A key may be
missing only if the table shows a default for it.

*Shipped* is the value in the `params.yaml` that `oncoloop init` copies. *Comment* is the comment of that file.
"""


@dataclasses.dataclass(frozen=True)
class Key:
    """One key: dotted name, type, default of the class ("" if it must be set), shipped value, comment."""

    name: str
    kind: Any
    default: str
    shipped: str
    comment: str

    @property
    def unit(self) -> str:
        """The unit of the value; empty for text and switches."""
        return next((limits.unit for limits in ranges(self.kind) if limits.unit), "")

    @property
    def range(self) -> str:
        """The limits of a number in words; of a list those of its values."""
        texts = [str(limits) for limits in ranges(self.kind)]
        if len(texts) < 2:
            return "".join(texts)
        return ", ".join(f"value {number}: {text}" for number, text in enumerate(texts, start=1) if text)


def ranges(kind: Any) -> list[Range]:
    """The ranges in a type; of a list those of its values, in order."""
    from data.ranges import Range

    if typing.get_origin(kind) is typing.Annotated:
        return [entry for entry in kind.__metadata__ if isinstance(entry, Range)]
    return [limits for part in typing.get_args(kind) for limits in ranges(part)]


def page() -> str:
    """The page of all settings, one section for each section of the file."""
    from pipelines import params

    hints = typing.get_type_hints(params.Params)
    parts = [INTRODUCTION]
    every = keys()
    for section in (field.name for field in dataclasses.fields(params.Params) if field.name not in DERIVED):
        kind = hints[section]
        if section == "tasks":
            kind = typing.get_args(kind)[1]
        rows = [_row(key) for key in every if key.name.split(".")[0] == section]
        parts.append(f"## {section}\n\n{_described(kind)}\n")
        parts.append(
            markdown.table(("key", "type", "unit", "range", "default", "shipped", "comment"), rows) if rows else ""
        )
    return "\n".join(parts)


def keys() -> list[Key]:
    """Every key of params.yaml, in the order of the settings classes; tasks as `tasks.TASK`."""
    from pipelines import params

    text = (ROOT / params.NAME).read_text(encoding="utf-8")
    shipped, remarks = yaml.safe_load(text), comments(text)
    hints = typing.get_type_hints(params.Params)
    entries: list[Key] = []
    for field in dataclasses.fields(params.Params):
        if field.name == "tasks":
            task = typing.get_args(hints["tasks"])[1]
            entries += _keys(task, f"tasks.{TASK}", f"tasks.{EXAMPLE}", shipped, remarks)
            entries.append(Key(f"tasks.{TASK}.fit", dict, "{}", "", "what this task sets otherwise than `fit`"))
        elif field.name not in DERIVED:
            entries += _keys(hints[field.name], field.name, field.name, shipped, remarks)
    return entries


def comments(text: str) -> dict[str, str]:
    """The comment behind each key of a YAML file, by the dotted name of the key."""
    remarks_by_key: dict[str, str] = {}
    path: list[tuple[int, str]] = []
    for line in text.splitlines():
        key = re.match(r"( *)([\w-]+):", line)
        if not key:
            if path and (remark := re.search(r"\s#\s*(.*)$", line)):
                last = re.findall(r"(\w+):", line.partition("#")[0])
                remarks_by_key[".".join([*(name for _, name in path), *last[-1:]])] = remark[1]
            continue
        indent = len(key[1])
        path = [*(step for step in path if step[0] < indent), (indent, key[2])]
        if remark := re.search(r"\s#\s*(.*)$", line):
            remarks_by_key[".".join(name for _, name in path)] = remark[1]
    return remarks_by_key


def _keys(kind: Any, name: str, where: str, shipped: Any, remarks: dict[str, str]) -> Iterator[Key]:
    hints = typing.get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        if field.name in DERIVED:
            continue
        inner, path = hints[field.name], f"{where}.{field.name}"
        if dataclasses.is_dataclass(inner):
            yield from _keys(inner, f"{name}.{field.name}", path, shipped, remarks)
            continue
        yield Key(f"{name}.{field.name}", inner, _default(field), _shipped(shipped, path), remarks.get(path, ""))


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        return _shown(field.default)
    return "{}" if field.default_factory is not dataclasses.MISSING else ""


def _shipped(record: Any, path: str) -> str:
    for part in path.split("."):
        if not isinstance(record, dict) or part not in record:
            return ""
        record = record[part]
    return _shown(record)


def _shown(value: Any) -> str:
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(str, value))}]"
    return "null" if value is None else str(value) or '""'


def _row(key: Key) -> tuple[str, ...]:
    return (
        markdown.code(key.name),
        _type(key.kind),
        key.unit,
        key.range,
        markdown.code(key.default),
        markdown.code(key.shipped),
        markdown.text(key.comment),
    )


def _type(kind: Any) -> str:
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return _type(inner[0])
    if origin is typing.Literal:
        return " or ".join(markdown.code(word) for word in inner)
    if origin in (types.UnionType, typing.Union):
        return " or ".join("null" if part is type(None) else _type(part) for part in inner)
    if origin is tuple:
        return f"list of {_type(inner[0])}"
    if isinstance(kind, type) and issubclass(kind, Enum):
        return " or ".join(markdown.code(member.value) for member in kind)
    names = {str: "text", int: "whole number", float: "number", bool: "true or false"}
    return names.get(kind, "mapping")


def _described(kind: Any) -> str:
    import inspect

    return "\n\n".join(markdown.text(part) for part in (inspect.getdoc(kind) or "").split("\n\n"))
