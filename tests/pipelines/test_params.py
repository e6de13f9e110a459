"""params.yaml: what is shipped loads; what is wrong is named."""

from __future__ import annotations

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
    found = load(tmp_path, text)
    assert found.task("lung-ct").modality is Modality.CT
    assert found.task("lung-ct").pixels.window == (-400.0, 1500.0)
    assert found.task("brain-mr").pixels.window is None
    assert found.fit.augment.flip is True
    assert found.promotion.approval == "required"


@pytest.mark.parametrize(
    ("old", "new", "named"),
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
def test_what_is_wrong_is_named(tmp_path: Path, text: str, old: str, new: str, named: str) -> None:
    assert old in text
    with pytest.raises(Fault, match=named.replace("[", r"\[").replace("]", r"\]")):
        load(tmp_path, text.replace(old, new, 1))


@dataclass(frozen=True)
class Newer:
    """Settings of a section to which a later version added `limit` and `names`."""

    rate: float
    limit: int = 4
    names: tuple[str, ...] = field(default_factory=tuple)


@pytest.mark.parametrize(
    ("section", "outcome"),
    [
        ("{rate: 1}", Newer(1.0)),
        ("{rate: 1, limit: 5}", Newer(1.0, 5)),
        ("{limit: 5}", "missing key prepare.rate"),
        ("{rate: 1, limits: 5}", "unknown key prepare.limits"),
        ("{rate: 1, limit: many}", "prepare.limit must be int"),
    ],
)
def test_a_key_that_an_older_file_lacks_has_its_default(
    tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch, section: str, outcome: Newer | str
) -> None:
    monkeypatch.setitem(params.Params.__annotations__, "prepare", Newer)
    changed = text.replace("prepare: {}", f"prepare: {section}")
    if isinstance(outcome, str):
        with pytest.raises(Fault, match=outcome):
            load(tmp_path, changed)
    else:
        assert load(tmp_path, changed).prepare == outcome


def test_an_older_file_says_nothing_of_masks_and_keeps_their_meaning(tmp_path: Path, text: str) -> None:
    kept = [line for line in text.splitlines() if not line.strip().startswith(("mask:", "lesion_free:"))]
    tasks = load(tmp_path, "\n".join(kept)).tasks
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


def test_a_task_is_fitted_as_it_says_itself_and_else_as_all_are(tmp_path: Path, text: str) -> None:
    own = "    unit: slice\n    fit: {epochs: 90, augment: {rotation: 5}}"
    found = load(tmp_path, text.replace("    unit: slice", own, 1))
    assert found.fit_of("lung-ct") == replace(found.fit, epochs=90, augment=replace(found.fit.augment, rotation=5.0))
    assert found.fit_of("brain-mr") == found.fit == load(tmp_path, text).fit


def test_a_task_says_whether_its_pictures_are_crops(tmp_path: Path, text: str) -> None:
    assert load(tmp_path, text).task("lung-ct").field_of_view == "body", "as before there was a choice"
    said = text.replace("    unit: slice", "    unit: slice\n    field_of_view: crop", 1)
    assert load(tmp_path, said).task("lung-ct").field_of_view == "crop"
    with pytest.raises(Fault, match=r"tasks\.lung-ct\.field_of_view has the unusable value 'part'"):
        load(tmp_path, said.replace("field_of_view: crop", "field_of_view: part"))


def test_a_folder_without_settings_is_no_workspace(tmp_path: Path) -> None:
    with pytest.raises(Fault, match="oncoloop init"):
        params.load(tmp_path)


def test_an_unknown_task_lists_the_known(tmp_path: Path, text: str) -> None:
    with pytest.raises(Fault, match="known: lung-ct, pancreas-ct, lung-stage, brain-mr"):
        load(tmp_path, text).task("liver-ct")


def test_the_digest_follows_the_values_not_the_layout(tmp_path: Path, text: str) -> None:
    first = load(tmp_path, text).digest
    assert load(tmp_path, text + "\n# a remark\n").digest == first
    assert load(tmp_path, text.replace("epochs: 30", "epochs: 31")).digest != first
