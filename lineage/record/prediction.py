"""One prediction: its fields with type, unit and meaning. The response, its schema and the journal follow from these.

A new field is written here and nowhere else. A field that the journal stores also needs a migration.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import lru_cache
from types import NoneType
from typing import Annotated, Any, Literal, NamedTuple, TypedDict, get_args, get_origin, get_type_hints

from lineage.record.verdict import Verdict


@dataclass(frozen=True)
class About:
    """The meaning of a field and its unit; `response` is its name in the response, if that differs.

    `sent_as` is the type in the response, if that differs. `schema` holds what JSON Schema says beyond the type.
    `is_long` marks a text without a limit of its length.
    """

    meaning: str
    unit: str = ""
    response: str = ""
    sent_as: Any = None
    schema: tuple[tuple[str, Any], ...] = ()
    is_long: bool = False


class SliceScore(TypedDict):
    """One slice of a case."""

    index: Annotated[int, About("The position in the scan, from 0.")]
    score: Annotated[float, About("The slice's own probability of the positive classes.", unit="0 to 1")]
    counted: Annotated[
        bool,
        About("The slice was pooled: it is within the limits of distance and likeness, or no slice is."),
    ]


class LeftOutFile(NamedTuple):
    """A file of the upload that is not a slice of the scan."""

    file: Annotated[str, About("The name of the file.")]
    reason: Annotated[str, About("What the file is.")]


class SentVerdict(TypedDict):
    """The verdict of the serving gate in the response."""

    outcome: Annotated[Literal["pass", "inconclusive"], About("Inconclusive: the answer is withheld.")]
    reasons: Annotated[list[str], About("The reasons to withhold the answer, then warnings.")]
    figures: Annotated[Mapping[str, Any], About("The figures that the gate compares with its thresholds.")]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the response and the journal have in common: hashes, numbers and the small map; no pixels and no names."""

    id: Annotated[str, About("The id of the row in the journal, for `oncoloop trace`.")]
    at: Annotated[str, About("The time of the answer, UTC.", schema=(("format", "date-time"),))]
    task: Annotated[str, About("The name of the task.")]
    release: Annotated[str, About("The name of the release that answered.")]
    version: Annotated[str, About("The version of the model.")]
    cluster: Annotated[str, About("The patient's pseudonym, empty if unknown; the journal stores only its hash.")]
    inputs: Annotated[Sequence[str], About("SHA-256 of each file, in the order of the upload.")]
    description: Annotated[
        Mapping[str, float | str], About("Figures and facts of the map's slice, see `data.scan.slice_features`.")
    ]
    embedding: Annotated[Sequence[float], About("The descriptor's vector of the map's slice.")]
    probabilities: Annotated[
        Sequence[float],
        About("The calibrated probability of each class.", unit="0 to 1", sent_as=Mapping[str, float]),
    ]
    answer: Annotated[str | None, About("A class; null if the release abstains.")]
    score: Annotated[float | None, About("The case's probability of the positive classes.", "0 to 1", sent_as=float)]
    slices: Annotated[Sequence[SliceScore], About("Each slice that is not blank, in the order of the scan.")]
    map: Annotated[str, About("PNG in base64: the heat map of the shown slice.", is_long=True)]
    engine: Annotated[Mapping[str, Any], About("The inference engine: its name, version and precision.")]
    duration_ms: Annotated[float, About("The time from upload to answer, without the transfer.", unit="ms")]


@dataclass(frozen=True, kw_only=True)
class JournalRow(Answer):
    """One prediction as the journal stores it, answered or withheld."""

    actor: Annotated[str, About("The account that sent the request.")]
    outcome: Annotated[str, About("The outcome of the serving gate.")]
    reasons: Annotated[Sequence[str], About("The reasons of the serving gate to withhold the answer, then warnings.")]
    shadows: Annotated[
        str, About("The id of the live answer that a shadow release repeated; empty for an answer to a user.")
    ] = ""


@dataclass(frozen=True, kw_only=True)
class Prediction(Answer):
    """One prediction as serving computes it. The map covers the smallest square that contains the centred slice."""

    title: Annotated[str, About("The question of the task.")]
    classes: Annotated[Sequence[str], About("The classes of the task, in the order of the probabilities.")]
    threshold: Annotated[
        float, About("The operating point: a case with this score or more is positive.", unit="0 to 1")
    ]
    verdict: Annotated[Verdict, About("The verdict of the serving gate.", sent_as=SentVerdict)]
    map_class: Annotated[str, About("The class whose evidence the heat map shows.")]
    shown_slice: Annotated[int, About("The index of the slice that the map belongs to.", response="shown")]
    shape: Annotated[tuple[int, int], About("Rows and columns of the slice.", unit="pixels")]
    left_out: Annotated[
        Sequence[LeftOutFile],
        About("Files that are not slices of the scan, and what they are. The journal stores no names, so not these."),
    ]
    note: Annotated[str, About("The intended use, and limits of the model.")]


# The response lists its fields, in their order: a field that is not listed is not sent.
RESPONSE_FIELDS = (
    *("id", "at", "task", "title", "release", "version", "answer", "score", "threshold", "probabilities", "verdict"),
    *("map", "map_class", "slices", "shown_slice", "shape", "inputs", "left_out", "engine", "note", "duration_ms"),
)


@dataclass(frozen=True)
class Field:
    """One field of a type: its name, Python type, meaning, and default (`dataclasses.MISSING` without one)."""

    name: str
    type: Any
    about: About
    default: Any = MISSING

    @property
    def is_optional(self) -> bool:
        """Whether the value may be None."""
        return NoneType in get_args(self.type)

    @property
    def plain_type(self) -> Any:
        """The type of a value that is not None."""
        members = [member for member in get_args(self.type) if member is not NoneType]
        return members[0] if self.is_optional else self.type

    @property
    def is_json(self) -> bool:
        """Whether the journal stores the value as JSON text."""
        return self.plain_type not in (str, float)


@lru_cache
def fields_of(record: type) -> tuple[Field, ...]:
    """The fields of a type of this module in their order. TypeError for a field without an `About`."""
    hints = get_type_hints(record, include_extras=True)
    defaults = {field.name: field.default for field in fields(record)} if is_dataclass(record) else {}
    return tuple(_field(name, hint, defaults.get(name, MISSING)) for name, hint in hints.items())


def _field(name: str, hint: Any, default: Any) -> Field:
    if get_origin(hint) is not Annotated:
        raise TypeError(f"the field {name} has no description; annotate it with `About`")
    plain_type, about = get_args(hint)
    return Field(name, plain_type, about, default)


def response_fields() -> dict[str, Field]:
    """Key in the response -> field of `Prediction`, in the order of the response."""
    by_name = {field.name: field for field in fields_of(Prediction)}
    return {by_name[name].about.response or name: by_name[name] for name in RESPONSE_FIELDS}
