"""The rules of a slice on real pictures: inverted chests fail, crops pass."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from data.core_types import FieldOfView, Modality, PixelSettings, Scan, Task, ValueUnit
from data.phantom import study as phantom_study
from data.scan import read, slice_rules
from data.scan.slice_features import describe, field_of_view


def failing(task: Task, scan: Scan) -> set[str]:
    """The meanings of the errors that the first slice of the scan has."""
    rules = slice_rules.scan_rules(task.modality, task.body_parts, task.pixels.window, task.field_of_view)
    failures = slice_rules.failed_rules(describe(scan.pixels[0], scan), rules)
    return {rules[index].meaning for index in failures if rules[index].error}


def test_every_inverted_chest_fails_and_no_other(real_data: Path, lung: Task) -> None:
    for path in sorted((real_data / "lung-ct-iq-oth-nccd" / "images").glob("*/*"))[::12]:
        scan = read.read_scan(path.name, path.read_bytes())
        inverted = replace(scan, pixels=255 - scan.pixels)
        assert failing(lung, scan) == set()
        assert "inverted, air is white" in failing(lung, inverted), path.name


def test_no_crop_of_a_nodule_is_refused(real_data: Path, lung: Task) -> None:
    folder = real_data / "lung-nodules-lidc"
    table = pd.read_csv(folder / "nodules.csv")
    crops = replace(lung, field_of_view=FieldOfView.CROP)
    brightest = table[table["patient"].isin(["LIDC-IDRI-0129", "LIDC-IDRI-0526", "LIDC-IDRI-0811"])]
    for row in pd.concat([table.iloc[::10], brightest]).itertuples():
        scan = read.read_scan("crop.png", (folder / str(row.file)).read_bytes())
        assert failing(crops, scan) == set(), row.file
        if row.label != "indeterminate":
            assert failing(lung, scan) == set(), "in a task that does not declare its pictures as crops"


@pytest.mark.parametrize(
    ("side", "spacing", "units", "expected"),
    [
        (512, 0.7, ValueUnit.HU, FieldOfView.BODY),
        (512, 0.35, ValueUnit.HU, FieldOfView.CROP),
        (250, 1.0, ValueUnit.HU, FieldOfView.BODY),
        (249, 1.0, ValueUnit.HU, FieldOfView.CROP),
        (128, 0.0, ValueUnit.HU, FieldOfView.BODY),
        (256, 0.9, ValueUnit.RAW, FieldOfView.BODY),
    ],
)
def test_the_field_of_view_of_a_ct_depends_on_its_size_in_mm(
    side: int, spacing: float, units: ValueUnit, expected: FieldOfView
) -> None:
    scan = Scan("s", np.zeros((1, side, 512), np.float32), units, Modality.CT, (3.0, spacing, 0.7))
    assert field_of_view(scan) is expected
    assert field_of_view(replace(scan, spacing=None)) is FieldOfView.BODY


@pytest.mark.parametrize(
    ("body_part", "meanings"),
    [
        ("chest", []),
        ("", []),
        ("CHESTABDOMEN", ["body part holds more than the task's"]),
        ("BRAIN", ["body part is none of CHEST, LUNG"]),
    ],
)
def test_a_body_part_of_the_task_passes_more_warns_and_another_fails(
    body_part: str, meanings: list[str], lung: Task
) -> None:
    rules = [
        rule
        for rule in slice_rules.scan_rules(lung.modality, lung.body_parts, None, lung.field_of_view)
        if rule.arguments.get("column") == "body_part"
    ]
    failures = slice_rules.failed_rules({"body_part": body_part}, rules)
    assert [rules[index].meaning for index in failures] == meanings


@pytest.mark.parametrize("least", [-200, -250, -500])
def test_a_clipped_ct_fails_if_the_task_window_shows_air(least: int, lung: Task) -> None:
    """Data sets prepared for nnU-Net and others hold HU from -200 to 300: lungs and air have one grey value."""
    study = phantom_study.make_study(lung, phantom_study.usual_scanner(lung), 5, 0, "malignant")
    pixels, pixel = study.slice(0, 2)
    unclipped = Scan("s", pixels[None].astype(np.float32), ValueUnit.HU, Modality.CT, (3.0, pixel, pixel))
    abdomen = replace(lung, pixels=PixelSettings(128, (50, 400)))
    for scan in (
        replace(unclipped, pixels=unclipped.pixels.clip(least, 300)),
        replace(unclipped, pixels=unclipped.pixels / 2),
    ):
        assert failing(lung, scan) == {"wrong window, no air in HU"}
        assert failing(abdomen, scan) == set()
    assert failing(lung, unclipped) == set()
