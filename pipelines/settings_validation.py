"""Check a section of `params.yaml` against its dataclass with pydantic, and say in one sentence what is wrong."""

from __future__ import annotations

import dataclasses
import functools
import json
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from lineage.errors import Fault

if typing.TYPE_CHECKING:
    from pydantic import TypeAdapter
    from pydantic_core import ErrorDetails

NAME = "params.yaml"
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


def read_section(kind: Any, value: Any, where: str) -> Any:
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


def check_keys(record: Mapping[Any, Any], fields: Mapping[str, Any]) -> None:
    """Fault for the first unknown, else for the first missing key of the top level."""
    if unknown := sorted(map(str, record.keys() - fields.keys())):
        raise _unknown_key(unknown[0], fields)
    if missing := sorted(fields.keys() - record.keys()):
        raise _missing_key(missing[0])


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
