"""params.yaml: the shipped file loads; a wrong key or value is named."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from data.record import MaskMeaning, Modality
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
        ("modality: MR", "modality: PET", "tasks.brain-mr.modality has the unusable value 'PET'"),
        ("positive: [malignant]", "positive: [worse]", "names ['worse']"),
        ("size: 128, window: [50, 400]", "size: 128, window: [50]", "tasks.pancreas-ct.pixels.window"),
        ("lesion_free: [normal]", "lesion_free: [malignant]", "tasks.lung-ct.lesion_free is for `mask: lesion`"),
        ("mask: positive", "mask: positive\n    lesion_free: [normal]", "tasks.pancreas-ct.lesion_free is for"),
        ("mask: positive", "mask: tumour", "tasks.pancreas-ct.mask has the unusable value 'tumour'"),
        ("tasks:", "tasks: [", "is not valid YAML"),
        ("split:", "splitt:", "unknown key splitt"),
        ("    unit: slice", "    unit: slice\n    fit: {patiance: 8}", "unknown key tasks.lung-ct.fit.patiance"),
        ("    unit: slice", "    unit: slice\n    fit: {augment: {flip: 1}}", "tasks.lung-ct.fit.augment.flip must be"),
        ("    unit: slice", "    unit: slice\n    fit: 8", "tasks.lung-ct.fit must be a mapping"),
        ("    unit: slice", "    unit: slice\n    fit: {strategy: warm}", "tasks.lung-ct.fit.strategy can't differ"),
    ],
)
def test_a_wrong_key_or_value_is_named(tmp_path: Path, text: str, old: str, new: str, message: str) -> None:
    assert old in text
    with pytest.raises(Fault, match=message.replace("[", r"\[").replace("]", r"\]")):
        load(tmp_path, text.replace(old, new, 1))


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
    with pytest.raises(Fault, match=r"tasks\.lung-ct\.field_of_view has the unusable value 'part'"):
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
