"""A field of an answer is written once: the response, its schema and the journal have all fields of the type."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import pytest

from lineage.record import database, journal
from lineage.record.prediction import (
    About,
    Answer,
    JournalRow,
    LeftOutFile,
    Prediction,
    SentVerdict,
    SliceScore,
    fields_of,
)
from lineage.record.verdict import Outcome, Verdict
from serving.http.answer_schema import answer_schema
from serving.inference.predict import journal_row, to_json

NOT_SENT = {"cluster", "description", "embedding", "classes"}  # the classes are the keys of the probabilities
NOT_STORED = {"title", "classes", "threshold", "map_class", "shown_slice", "shape", "left_out", "note"}
STORED_ALONE = {"actor", "shadows", "outcome", "reasons"}
RENAMED = {"shown_slice": "shown"}

PREDICTION = Prediction(
    id="p-1",
    at="2026-01-31T12:00:00Z",
    task="lung-ct",
    release="r1",
    version="1",
    cluster="P0123456789ab",
    inputs=("ab" * 32,),
    description={"mean": 0.4},
    embedding=(0.5, -0.25),
    probabilities=(0.25, 0.75),
    answer="malignant",
    score=0.75,
    slices=(SliceScore(index=0, score=0.75, counted=True),),
    map="iVBOR",
    engine={"engine": "openvino"},
    duration_ms=2.5,
    title="Lung nodule",
    classes=("benign", "malignant"),
    threshold=0.5,
    verdict=Verdict("serving", "lung-ct", Outcome.PASS, ("warning: thick",), {"distance": 1.0}, {"distance": 2.0}),
    map_class="malignant",
    shown_slice=3,
    shape=(64, 48),
    left_out=(LeftOutFile("scout.dcm", "a localizer"),),
    note="Research use only.",
)


def field_names(kind: type) -> set[str]:
    """The names of the fields of a dataclass."""
    return {field.name for field in dataclasses.fields(kind)}


def test_a_response_has_every_field_of_a_prediction() -> None:
    expected = {RENAMED.get(name, name) for name in field_names(Prediction) - NOT_SENT}
    assert set(to_json(PREDICTION)) == expected


def test_the_schema_describes_every_field_of_a_response() -> None:
    schema = answer_schema()
    assert list(schema["properties"]) == schema["required"] == list(to_json(PREDICTION))
    assert all(entry["description"] for entry in schema["properties"].values())
    assert schema["properties"]["duration_ms"]["description"].endswith("Unit: ms.")


def test_the_journal_has_every_field_of_a_prediction(home: Path) -> None:
    stored_names = field_names(Prediction) - NOT_STORED - {"verdict"} | STORED_ALONE
    assert field_names(JournalRow) == stored_names
    assert {column.name for column in database.journal.columns} == stored_names | {"number"}
    row = journal_row(PREDICTION, "carla")
    journal.append(row)
    assert journal.get("p-1") == dataclasses.replace(row, cluster=journal.get("p-1").cluster)
    assert set(journal.rows().columns) == stored_names - {"description"} | {"d_mean"}


@pytest.mark.parametrize("kind", [Answer, JournalRow, Prediction, SliceScore, LeftOutFile, SentVerdict])
def test_every_field_has_a_one_line_description(kind: type) -> None:
    for field in fields_of(kind):
        assert field.about.meaning.endswith(".") and "\n" not in field.about.meaning, field.name


def test_a_field_without_a_description_is_an_error() -> None:
    bare = dataclasses.make_dataclass("Bare", [("id", str)])
    with pytest.raises(TypeError, match="the field id has no description"):
        fields_of(bare)


def test_a_type_without_a_schema_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    new = dataclasses.make_dataclass("New", [("raw", Annotated[bytes, About("Bytes.")])])
    monkeypatch.setattr("serving.http.answer_schema.response_fields", lambda: {"raw": fields_of(new)[0]})
    with pytest.raises(TypeError, match="bytes"):
        answer_schema()


def test_the_response_keeps_its_keys_their_order_and_their_forms() -> None:
    assert list(to_json(PREDICTION).items()) == [
        ("id", "p-1"),
        ("at", "2026-01-31T12:00:00Z"),
        ("task", "lung-ct"),
        ("title", "Lung nodule"),
        ("release", "r1"),
        ("version", "1"),
        ("answer", "malignant"),
        ("score", 0.75),
        ("threshold", 0.5),
        ("probabilities", {"benign": 0.25, "malignant": 0.75}),
        ("verdict", {"outcome": "pass", "reasons": ["warning: thick"], "figures": {"distance": 1.0}}),
        ("map", "iVBOR"),
        ("map_class", "malignant"),
        ("slices", [{"index": 0, "score": 0.75, "counted": True}]),
        ("shown", 3),
        ("shape", [64, 48]),
        ("inputs", ["ab" * 32]),
        ("left_out", [{"file": "scout.dcm", "reason": "a localizer"}]),
        ("engine", {"engine": "openvino"}),
        ("note", "Research use only."),
        ("duration_ms", 2.5),
    ]


@pytest.mark.parametrize(
    ("sent_type", "schema"),
    [
        (str | None, {"type": ["string", "null"]}),
        (Sequence[int], {"type": "array", "items": {"type": "integer", "minimum": 0}}),
    ],
)
def test_a_schema_follows_the_type(monkeypatch: pytest.MonkeyPatch, sent_type: Any, schema: dict[str, Any]) -> None:
    new = dataclasses.make_dataclass("New", [("value", Annotated[sent_type, About("A value.")])])
    monkeypatch.setattr("serving.http.answer_schema.response_fields", lambda: {"value": fields_of(new)[0]})
    assert answer_schema()["properties"]["value"] == schema | {"description": "A value."}
