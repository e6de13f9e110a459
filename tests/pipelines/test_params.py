"""params.yaml: the shipped file loads; a wrong key or value is named."""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
import yaml

from data.core_types import MaskMeaning, Modality
from data.ranges import Range
from lineage.errors import Fault
from pipelines import params

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def text() -> str:
    return (ROOT / "params.yaml").read_text(encoding="utf-8")


def load(folder: Path, text: str) -> params.Params:
    (folder / "params.yaml").write_text(text, encoding="utf-8")
    return params.load(folder)


def test_the_shipped_settings_load(tmp_path: Path, text: str) -> None:
    settings = load(tmp_path, text)
    assert settings.task("lung-ct").modality is Modality.CT
    assert settings.task("lung-ct").pixels.window == (-400.0, 1500.0)
    assert settings.task("brain-mr").pixels.window is None
    assert settings.fit.augment.flip is True
    assert settings.promotion.approval == "required"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("patience: 15", "patiance: 8", "unknown key fit.patiance"),
        ("  engine: openvino", "", "missing key serving.engine"),
        ("epochs: 30", "epochs: many", "fit.epochs must be int, not 'many'"),
        ("flip: true", "flip: 1", "fit.augment.flip must be bool"),
        ("modality: MR", "modality: PET", "tasks.brain-mr.modality must be CT or MR, not 'PET'"),
        ("positive: [malignant]", "positive: [worse]", "names ['worse']"),
        ("size: 128, window: [50, 400]", "size: 128, window: [50]", "tasks.pancreas-ct.pixels.window"),
        ("lesion_free: [normal]", "lesion_free: [malignant]", "tasks.lung-ct.lesion_free is for `mask: lesion`"),
        ("mask: positive", "mask: positive\n    lesion_free: [normal]", "tasks.pancreas-ct.lesion_free is for"),
        ("mask: positive", "mask: tumour", "tasks.pancreas-ct.mask must be lesion or positive, not 'tumour'"),
        ("tasks:", "tasks: [", "is not valid YAML"),
        ("split:", "splitt:", "unknown key splitt"),
        ("    unit: slice", "    unit: slice\n    fit: {patiance: 8}", "unknown key tasks.lung-ct.fit.patiance"),
        ("    unit: slice", "    unit: slice\n    fit: {augment: {flip: 1}}", "tasks.lung-ct.fit.augment.flip must be"),
        ("    unit: slice", "    unit: slice\n    fit: 8", "tasks.lung-ct.fit must be a mapping"),
        ("    unit: slice", "    unit: slice\n    fit: {strategy: warm}", "tasks.lung-ct.fit.strategy can't differ"),
        (
            "    unit: slice",
            "    unit: slice\n    fit: {epochs: 0}",
            "tasks.lung-ct.fit.epochs must be at least 1, not 0",
        ),
        ("    unit: slice", "    unit: slice\n    name: lung", "unknown key tasks.lung-ct.name"),
        ("epochs: 30", "epochs: 30.0", "fit.epochs must be int, not 30.0"),
        ("epochs: 30", "epochs: true", "fit.epochs must be int, not True"),
        ("learning_rate: 0.002", "learning_rate: '0.002'", "fit.learning_rate must be float, not '0.002'"),
        ("learning_rate: 0.002", "learning_rate: .nan", "fit.learning_rate must be a finite number, not nan"),
        ("  test: 0.30", "  test: 1.5", "split.test must be above 0 and below 1, not 1.5"),
        ("  test: 0.30", "  test: 0.8", "split.test and split.validation must be below 1 together, not 0.8 + 0.2"),
        ("level: 0.95", "level: 95", "calibrate.level must be above 0 and below 1, not 95"),
        ("window_hours: 168", "window_hours: 0", "monitoring.window_hours must be above 0 and at most 1000000, not 0"),
        ("window: [-400, 1500]", "window: [-400, 0]", "tasks.lung-ct.pixels.window[1] must be above 0, not 0"),
        ("window: [-400, 1500]", "window: [1, 2, 3]", "tasks.lung-ct.pixels.window has the unusable value [1, 2, 3]"),
        ("rule: topk, k: 3", "rule: topk, k: 0", "tasks.lung-ct.pooling.k must be at least 1 for the rule topk, not 0"),
        ("[small, medium, large]", "[small, small, large]", "tasks.lung-stage.classes repeats a class"),
        ("approval: required", "approval: no", "promotion.approval must be required or automatic, not False"),
        ("engine: openvino", "engine: tensorrt", "serving.engine must be openvino or onnxruntime, not 'tensorrt'"),
        ("backbone: small", "backbone: big", "must be small, resnet50, vgg16 or efficientnetv2b0, not 'big'"),
        ("body_parts: [BRAIN, HEAD]", "body_parts: BRAIN", "tasks.brain-mr.body_parts must be a list, not 'BRAIN'"),
        ("parents: {}", "parents: {lung-ct: {folder: 1}}", "fit.warm.parents.lung-ct.folder must be str, not 1"),
        ("parents: {}", "parent: {}", "unknown key fit.warm.parent; known here: learning_rate, parents, replay"),
        ('note: ""', "note: 2026-01-31", "tasks.lung-ct.note must be str"),
        ("calibrate:", "calibrate: 5\nx:", "unknown key x"),
        ("  workers: 2", "  workers: 2\n  keep_scans: true", "serving.keep_scans can't be True: no scan is stored"),
    ],
)
def test_a_wrong_key_or_value_is_named(tmp_path: Path, text: str, old: str, new: str, message: str) -> None:
    assert old in text
    with pytest.raises(Fault, match=re.escape(message)):
        load(tmp_path, text.replace(old, new, 1))


Outside = tuple[tuple[str, ...], Any, str]  # the keys of a setting, a value that it refuses, and what it accepts


def refused_values(kind: Any, keys: tuple[str, ...]) -> Iterator[Outside]:
    """Values outside of the range of each number, and an unknown word for each choice, of a type."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        for name, hint in typing.get_type_hints(kind, include_extras=True).items():
            yield from refused_values(hint, (*keys, name))
    elif origin is typing.Annotated and isinstance(limits := kind.__metadata__[0], Range):
        step = 1 if parts[0] is int else 0.001
        yield from ((keys, limit, str(limits)) for limit in (limits.above, limits.below) if limit is not None)
        yield from ((keys, limits.least - step, str(limits)) for _ in range(limits.least is not None))
        yield from ((keys, limits.most + step, str(limits)) for _ in range(limits.most is not None))
    elif origin is typing.Literal:
        yield keys, "unknown", parts[-1]
    elif isinstance(kind, type) and issubclass(kind, Enum):
        yield keys, "unknown", list(kind)[-1].value


def sections() -> Iterator[Outside]:
    for name, hint in typing.get_type_hints(params.Params).items():
        keys = ("tasks", "lung-ct") if name == "tasks" else (name,)
        yield from refused_values(typing.get_args(hint)[1] if name == "tasks" else hint, keys)


REFUSED = list(sections())


@pytest.mark.parametrize(
    ("keys", "value", "accepted"), REFUSED, ids=[f"{'.'.join(keys)}={value}" for keys, value, _ in REFUSED]
)
def test_a_value_out_of_its_range_or_choices_is_refused(
    tmp_path: Path, text: str, keys: tuple[str, ...], value: Any, accepted: str
) -> None:
    record = yaml.safe_load(text)
    entry = record
    for key in keys[:-1]:
        entry = entry[key]
    entry[keys[-1]] = value
    with pytest.raises(Fault) as refusal:
        load(tmp_path, yaml.safe_dump(record))
    message = str(refusal.value)
    assert message.startswith(f"params.yaml: {'.'.join(keys)} must be ") and message.endswith(f", not {value!r}")
    assert accepted in message


def test_every_number_and_every_choice_is_among_the_refused_values(text: str) -> None:
    names = {".".join(keys) for keys, _, _ in REFUSED}
    numbers = {name for name, value in leaves(yaml.safe_load(text)) if type(value) in (int, float)}
    tasks = ("tasks.pancreas-ct", "tasks.lung-stage", "tasks.brain-mr")
    assert {name for name in numbers - names if not name.startswith(tasks)} == {"split.seed"}
    choices = ("serving.engine", "promotion.approval", "fit.strategy", "fit.sampling", "fit.precision", "fit.backbone")
    assert {*choices, "ingest.quarantine", "evaluate.precision", "tasks.lung-ct.cluster"} <= names


def leaves(record: dict[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """The dotted keys and the values of a file."""
    for key, value in record.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("  workers: 2", "  workers: 2\n  keep_scans: false"),  # a key of 0.1.0
        ("split:\n", "prepare:\nsplit:\n"),
        ("mask_weight: 0 ", "mask_weight: 1 "),
        ("patience: 15", "patience: 0"),
        ("floor_auroc: 0.60", "floor_auroc: 0"),
        ("room_baseline: 0.03", "room_baseline: 1"),
        ("abstain_below: 0.5", "abstain_below: 0"),
        ("outlier_quantile: 0.995", "outlier_quantile: 1"),
        ("rule: topk, k: 3", "rule: mean, k: 0"),
        ("weights: none", "weights: weights/plain.weights.h5"),
    ],
)
def test_a_value_at_a_limit_and_an_older_key_are_accepted(tmp_path: Path, text: str, old: str, new: str) -> None:
    assert old in text
    assert load(tmp_path, text.replace(old, new, 1))


@pytest.mark.parametrize("name", ["warm", "shadow"])
def test_an_empty_section_has_its_defaults(tmp_path: Path, text: str, name: str) -> None:
    record = yaml.safe_load(text)
    section = "fit" if name == "warm" else "promotion"
    record[section][name] = None
    assert load(tmp_path, yaml.safe_dump(record)) == replace(
        load(tmp_path, text), digest=load(tmp_path, yaml.safe_dump(record)).digest
    )


@dataclass(frozen=True)
class NewerSettings:
    """A section to which a later version added `limit` and `names`."""

    rate: float
    limit: int = 4
    names: tuple[str, ...] = field(default_factory=tuple)


@pytest.mark.parametrize(
    ("section", "outcome"),
    [
        ("{rate: 1}", NewerSettings(1.0)),
        ("{rate: 1, limit: 5}", NewerSettings(1.0, 5)),
        ("{limit: 5}", "missing key schedule.rate"),
        ("{rate: 1, limits: 5}", "unknown key schedule.limits"),
        ("{rate: 1, limit: many}", "schedule.limit must be int"),
    ],
)
def test_a_key_missing_in_an_older_file_has_its_default(
    tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch, section: str, outcome: NewerSettings | str
) -> None:
    monkeypatch.setitem(params.Params.__annotations__, "schedule", NewerSettings)
    changed = re.sub(r"(?m)^schedule:\n(  .*\n)+", f"schedule: {section}\n", text)
    if isinstance(outcome, str):
        with pytest.raises(Fault, match=outcome):
            load(tmp_path, changed)
    else:
        assert load(tmp_path, changed).schedule == outcome


def test_masks_keep_their_meaning_in_an_older_file_without_the_keys(tmp_path: Path, text: str) -> None:
    lines = [line for line in text.splitlines() if not line.strip().startswith(("mask:", "lesion_free:"))]
    tasks = load(tmp_path, "\n".join(lines)).tasks
    assert {task.mask for task in tasks.values()} == {MaskMeaning.POSITIVE}
    assert tasks["lung-ct"].contradicted == ("normal",) and tasks["lung-stage"].contradicted == ()
    shipped = load(tmp_path, text).tasks
    assert {name: task.mask.value for name, task in shipped.items()} == {
        "lung-ct": "lesion",
        "pancreas-ct": "positive",
        "lung-stage": "lesion",
        "brain-mr": "positive",
    }
    assert {name: task.contradicted for name, task in shipped.items()} == {
        name: task.contradicted for name, task in tasks.items()
    }


def test_a_task_overrides_the_shared_fit_settings(tmp_path: Path, text: str) -> None:
    override = "    unit: slice\n    fit: {epochs: 90, augment: {rotation: 5}}"
    settings = load(tmp_path, text.replace("    unit: slice", override, 1))
    assert settings.fit_of("lung-ct") == replace(
        settings.fit, epochs=90, augment=replace(settings.fit.augment, rotation=5.0)
    )
    assert settings.fit_of("brain-mr") == settings.fit == load(tmp_path, text).fit


def test_a_task_states_whether_its_pictures_are_crops(tmp_path: Path, text: str) -> None:
    assert load(tmp_path, text).task("lung-ct").field_of_view == "body", "the default"
    changed = text.replace("    unit: slice", "    unit: slice\n    field_of_view: crop", 1)
    assert load(tmp_path, changed).task("lung-ct").field_of_view == "crop"
    with pytest.raises(Fault, match=r"tasks\.lung-ct\.field_of_view must be body or crop, not 'part'"):
        load(tmp_path, changed.replace("field_of_view: crop", "field_of_view: part"))


def test_the_empty_section_of_an_older_file_is_ignored(tmp_path: Path, text: str) -> None:
    assert load(tmp_path, text + "prepare: {}\n").tasks == load(tmp_path, text).tasks
    with pytest.raises(Fault, match="unknown key prepare; known here"):
        load(tmp_path, text + "prepare: {limit: 4}\n")


def test_a_folder_without_settings_is_no_workspace(tmp_path: Path) -> None:
    with pytest.raises(Fault, match="oncoloop init"):
        params.load(tmp_path)


def test_an_unknown_task_is_a_fault_that_lists_the_known_ones(tmp_path: Path, text: str) -> None:
    with pytest.raises(Fault, match="known: lung-ct, pancreas-ct, lung-stage, brain-mr"):
        load(tmp_path, text).task("liver-ct")


def test_the_digest_depends_on_the_values_and_not_on_the_layout(tmp_path: Path, text: str) -> None:
    first = load(tmp_path, text).digest
    assert load(tmp_path, text + "\n# a remark\n").digest == first
    assert load(tmp_path, text.replace("epochs: 30", "epochs: 31")).digest != first
