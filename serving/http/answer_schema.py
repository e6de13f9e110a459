"""The JSON Schema of an answer, derived from the fields of a prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from lineage.record.prediction import Field, fields_of, response_fields

Json = dict[str, Any]
PLAIN_TYPES: dict[Any, Json] = {
    str: {"type": "string"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    int: {"type": "integer", "minimum": 0},  # all whole numbers of an answer are positions and sizes
}


def answer_schema() -> Json:
    """The schema of the response. The response always has every field."""
    return _object({key: _field_schema(field) for key, field in response_fields().items()})


def _object(properties: Json) -> Json:
    return {"type": "object", "required": list(properties), "properties": properties}


def _field_schema(field: Field) -> Json:
    about = field.about
    description = f"{about.meaning} Unit: {about.unit}." if about.unit else about.meaning
    sent_type = field.type if about.sent_as is None else about.sent_as
    return _type_schema(sent_type) | dict(about.schema) | {"description": description}


def _type_schema(kind: Any) -> Json:
    """The schema of a Python type. TypeError for a type that an answer has not used so far."""
    if kind in PLAIN_TYPES:
        return PLAIN_TYPES[kind]
    origin, arguments = get_origin(kind), get_args(kind)
    if NoneType in arguments:
        (plain_type,) = (argument for argument in arguments if argument is not NoneType)
        schema = _type_schema(plain_type)
        return schema | {"type": [schema["type"], "null"]}
    if origin is Literal:
        return {"type": "string", "enum": list(arguments)}
    if origin is tuple:
        length = dict.fromkeys(("minItems", "maxItems"), len(arguments))
        return {"type": "array", "items": _type_schema(arguments[0])} | length
    if origin in (Sequence, list):
        return {"type": "array", "items": _type_schema(arguments[0])}
    if origin is Mapping:
        return {"type": "object"} | (
            {} if arguments[1] is Any else {"additionalProperties": _type_schema(arguments[1])}
        )
    if isinstance(kind, type) and hasattr(kind, "__annotations__"):
        return _object({field.name: _field_schema(field) for field in fields_of(kind)})
    raise TypeError(f"an answer cannot have the type {kind}; add its schema here")
