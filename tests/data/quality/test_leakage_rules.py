"""Copies, near-duplicates and torn patients by hand-made tables: who stays out, and under which reason."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.ndimage import gaussian_filter

from data.quality.leakage import Findings, check
from data.quality.shortcuts import GREYS, NUMBERS
from data.scan.slice_features import FACTS
from data.scan.thumbnail import SIDE, encoded
from data.settings import IngestSettings

SETTINGS = IngestSettings("scan", 0.2, 1, 0.97, 0.98)
NOBODY = pd.DataFrame()


@lru_cache(maxsize=64)
def thumbnail(seed: int, change: float = 0.0) -> str:
    """A smooth picture of its own; `change` mixes another one in: 0.02 is nearly the same, 1.0 nothing alike."""
    one, other = (
        gaussian_filter(np.random.default_rng(number).normal(size=(SIDE, SIDE)), 2) for number in (seed, seed + 1000)
    )
    mixed = (1 - change) * one + change * other
    return encoded(np.rint((mixed - mixed.min()) / np.ptp(mixed) * 63).astype(np.uint8))


def unit(name: str, patient: str, picture: int, label: str = "benign", **cells: Any) -> dict[str, Any]:
    """One slice; its pixels are `picture` bit for bit unless `pixels` says otherwise."""
    change = cells.pop("change", 0.0)
    row: dict[str, Any] = {
        "unit_id": name,
        "file": f"{name}.dcm",
        "sha256": name,
        "label": label,
        "patient": patient,
        "cluster": patient,
        "pixels_blake3": f"{picture} {change}",
        "thumbnail": thumbnail(picture, change),
        "std": 1.0,
        "site": "",
        "scanner": "",
    }
    return row | dict.fromkeys((*NUMBERS, *GREYS), 1.0) | dict.fromkeys(FACTS, "") | cells


def checked(*units: dict[str, Any], admitted: tuple[dict[str, Any], ...] = ()) -> Findings:
    return check(pd.DataFrame(list(units)), pd.DataFrame(list(admitted)), SETTINGS)


def test_different_pictures_of_different_patients_are_no_finding() -> None:
    findings = checked(*(unit(f"u{number}", f"P{number}", number) for number in range(6)))
    assert findings.failing == {} and findings.warnings == [] and list(findings.errors) == []
    assert findings.figures == {
        "exact_copies": 0,
        "near_duplicates": 0,
        "patient_overlaps": 0,
        "mixed_clusters": 0,
        "patient_contradictions": 0,
        "shortcut_accuracy": None,
        "clusters": 6,
    }


@pytest.mark.parametrize(
    ("sexes", "count"),
    [(["F", "M"], 1), (["M", "M", "F"], 1), (["F", "F"], 0), (["F", ""], 0), (["M", "O"], 0), (["", ""], 0)],
)
def test_a_patient_of_both_sexes_travels_with_a_warning(sexes: list[str], count: int) -> None:
    findings = checked(
        *(unit(f"u{number}", "P1", number, sex=sex) for number, sex in enumerate(sexes)),
        unit("other", "P2", 50, sex="M"),
        unit("another", "P3", 51, sex="F"),
    )
    assert findings.failing == {}
    warnings = [text for text in findings.warnings if "both sexes" in text]
    assert warnings == ["patients of both sexes, who may be two people: 1"] * count


def test_an_empty_batch_has_no_finding() -> None:
    empty = pd.DataFrame([unit("a", "P1", 1)]).iloc[:0]
    findings = check(empty, NOBODY, SETTINGS)
    assert findings.failing == {} and findings.figures["clusters"] == 0


def test_of_several_copies_the_first_row_stays() -> None:
    findings = checked(unit("b", "P1", 1), unit("a", "P1", 1), unit("d", "P2", 1), unit("c", "P1", 2))
    assert findings.failing == {"a": ["exact copy: b"], "d": ["exact copy of another patient's scan: b"]}
    assert findings.figures["exact_copies"] == 2 and findings.figures["near_duplicates"] == 0


def test_every_copy_of_an_admitted_scan_stays_out_once() -> None:
    admitted = (unit("old", "P1", 1), unit("older", "P1", 1))
    findings = checked(unit("a", "P1", 1), unit("b", "P2", 1), unit("c", "P3", 2), admitted=admitted)
    reason = ["copy of an admitted scan: old"]
    assert findings.failing == {"a": reason, "b": reason}


@pytest.mark.parametrize("admitted", [(), (unit("old", "P1", 1, "malignant"),)])
def test_copies_with_two_labels_all_stay_out(admitted: tuple[dict[str, Any], ...]) -> None:
    new = [unit("a", "P1", 1), unit("b", "P1", 1)] + ([] if admitted else [unit("c", "P2", 1, "malignant")])
    findings = checked(*new, admitted=admitted)
    reason = ["the same picture has two labels: benign, malignant"]
    assert findings.failing == {row["unit_id"]: reason for row in new}


def test_labels_of_other_pictures_are_no_contradiction() -> None:
    admitted = (unit("old", "P9", 7, "malignant"),)
    assert checked(unit("a", "P1", 1), unit("b", "P2", 2, "normal"), admitted=admitted).failing == {}


def test_nearly_the_same_picture_of_another_patient_stays_out_as_the_later_one() -> None:
    findings = checked(unit("b", "P2", 1), unit("a", "P1", 1, change=0.02))
    assert findings.failing == {"a": ["near-duplicate of another patient's scan: b"]}
    assert findings.figures["near_duplicates"] == 1
    assert checked(unit("b", "P1", 1), unit("a", "P1", 1, change=0.02)).failing == {}, "slices of one patient are alike"
    assert checked(unit("b", "P2", 1), unit("a", "P1", 1, change=0.9)).failing == {}


@pytest.mark.parametrize(("limit", "out"), [(0.9, True), (0.9999, False)])
def test_how_alike_is_too_alike_is_a_setting(limit: float, out: bool) -> None:
    settings = IngestSettings("scan", 0.2, 1, limit, 0.98)
    units = pd.DataFrame([unit("b", "P2", 1), unit("a", "P1", 1, change=0.1)])
    assert bool(check(units, NOBODY, settings).failing) is out


def test_a_near_duplicate_of_an_admitted_scan_stays_out_wherever_it_stands() -> None:
    others = [unit(f"u{number}", f"P{number}", number) for number in range(10, 14)]
    findings = checked(unit("a", "P1", 1, change=0.02), *others, admitted=(unit("z", "P0", 2), unit("old", "P2", 1)))
    assert findings.failing == {"a": ["near-duplicate of another patient's scan: old"]}


def test_near_pictures_with_two_labels_both_stay_out() -> None:
    findings = checked(unit("a", "P1", 1), unit("b", "P2", 1, "malignant", change=0.02))
    reason = "nearly the same picture has another label: "
    assert findings.failing == {"a": [f"{reason}b"], "b": [f"{reason}a"]}
    admitted = checked(unit("b", "P2", 1, "malignant", change=0.02), admitted=(unit("a", "P1", 1),))
    assert admitted.failing == {"b": [f"{reason}a"]}


def test_of_the_earlier_slices_only_the_one_most_like_it_is_blamed() -> None:
    """The neighbours of a slice are alike as well; nothing contradicts their label."""
    volume = [unit(f"s{number}", "P1", 1, change=change) for number, change in enumerate((0.06, 0.02, 0.09))]
    findings = checked(*volume, unit("x", "P2", 1, "malignant", change=0.025))
    assert set(findings.failing) == {"s1", "x"}
    assert findings.failing["s1"] == ["nearly the same picture has another label: x"]


def test_another_label_weighs_more_than_a_near_duplicate() -> None:
    findings = checked(
        unit("a", "P1", 1), unit("b", "P2", 1, "malignant", change=0.02), unit("c", "P3", 1, change=0.01)
    )
    assert findings.failing["c"] in (
        ["nearly the same picture has another label: b"],
        ["nearly the same picture has another label: a"],
    )
    assert "another label" in findings.failing["b"][0]


def test_an_exact_copy_is_called_a_copy_and_not_also_a_near_duplicate() -> None:
    findings = checked(unit("a", "P1", 1), unit("b", "P2", 1), unit("c", "P3", 1, change=0.02))
    assert findings.failing["b"] == ["exact copy of another patient's scan: a"]
    assert findings.failing["c"][0].startswith("near-duplicate of another patient's scan: ")
    after = checked(unit("c", "P3", 1, change=0.02), unit("a", "P1", 1), unit("b", "P2", 1))
    assert after.failing == {
        "a": ["near-duplicate of another patient's scan: c"],
        "b": ["exact copy of another patient's scan: a"],
    }


@pytest.mark.parametrize("side", ["batch", "admitted"])
def test_blank_slices_are_copies_of_nobody(side: str) -> None:
    blank = unit("b", "P2", 1, std=0.0)
    if side == "batch":
        assert checked(unit("a", "P1", 1), blank).failing == {}
    else:
        assert checked(unit("a", "P1", 1), admitted=(blank,)).failing == {}


def test_a_patient_in_two_groups_stays_out_whole() -> None:
    units = [unit("a", "P1", 1, cluster="G1"), unit("b", "P1", 2, cluster="G2"), unit("c", "P2", 3, cluster="G2")]
    findings = checked(*units)
    assert findings.failing == {name: ["patient in two groups: P1 is in 2"] for name in ("a", "b")}
    assert findings.figures["patient_overlaps"] == 2


def test_a_patient_in_another_group_than_before_stays_out() -> None:
    admitted = (unit("old", "P1", 9, cluster="G0"), unit("older", "P1", 8, cluster="G9"), unit("o", "P7", 7))
    findings = checked(unit("a", "P1", 1, cluster="G1"), unit("b", "P2", 2), admitted=admitted)
    assert findings.failing == {"a": ["patient in two groups: P1 is in 3"]}
    same = (unit("old", "P1", 9, cluster="G1"), unit("older", "P1", 8, cluster="G1"))
    assert checked(unit("a", "P1", 1, cluster="G1"), unit("b", "P1", 2, cluster="G1"), admitted=same).failing == {}
    torn_before = (unit("old", "P5", 9, cluster="G1"), unit("older", "P5", 8, cluster="G2"))
    assert checked(unit("a", "P1", 1), admitted=torn_before).failing == {}, "who is not in this batch is no reason"


def test_all_reasons_of_a_unit_are_named() -> None:
    findings = checked(unit("a", "P1", 1, cluster="G1"), unit("b", "P1", 1, cluster="G2"))
    assert findings.failing["b"] == ["exact copy of another patient's scan: a", "patient in two groups: P1 is in 2"]


WARNING = "clusters that hold files with different labels (each stays on one side): "


@pytest.mark.parametrize(
    ("files", "labels", "mixed"),
    [
        (("x", "y"), ("benign", "malignant"), 1),
        (("x", "y"), ("benign", "benign"), 0),
        (("x", "x"), ("benign", "malignant"), 0),  # slices of one volume
        (("x", "x", "y"), ("benign", "malignant", "normal"), 0),
        (("x", "x", "y", "z"), ("benign", "malignant", "normal", "benign"), 0),
    ],
)
def test_a_cluster_of_files_with_different_labels_travels_with_a_warning(
    files: tuple[str, ...], labels: tuple[str, ...], mixed: int
) -> None:
    pairs = enumerate(zip(files, labels, strict=True))
    units = [unit(f"u{at}", "P1", at, label, file=file) for at, (file, label) in pairs]
    findings = checked(*units, unit("other", "P2", 99))
    assert findings.failing == {} and findings.figures["mixed_clusters"] == mixed
    assert findings.warnings == ([f"{WARNING}{mixed}"] if mixed else [])


def test_every_mixed_cluster_counts() -> None:
    units = [unit(f"u{at}", f"P{at // 2}", at, ("benign", "malignant")[at % 2]) for at in range(6)]
    findings = checked(*units, unit("plain", "P9", 9))
    assert findings.figures["mixed_clusters"] == 3 and findings.warnings == [f"{WARNING}3"]


def test_admitted_units_of_before_may_lack_columns() -> None:
    """Manifests that an earlier version wrote have no columns for the signs of a person."""
    old = {name: value for name, value in unit("old", "P1", 1).items() if not name.startswith("header_")}
    assert checked(unit("a", "P1", 1), admitted=(old,)).failing == {"a": ["copy of an admitted scan: old"]}


def test_one_person_of_the_headers_under_two_ids_stays_out() -> None:
    findings = checked(
        unit("a", "P1", 1, header_patient="h"), unit("b", "P2", 2, header_patient="h"), unit("c", "P3", 3)
    )
    assert set(findings.failing) == {"a", "b"} and findings.figures["patient_contradictions"] == 1
    before = checked(unit("a", "P1", 1, header_patient="h"), admitted=(unit("old", "P2", 2, header_patient="h"),))
    assert set(before.failing) == {"a"} and before.figures["patient_contradictions"] == 1


def test_what_the_headers_leave_open_travels_with_the_batch() -> None:
    everybody = [unit(f"u{at}", f"P{at}", at, header_frame="the same") for at in range(5)]
    findings = checked(*everybody)
    assert findings.failing == {} and len(findings.warnings) == 1 and "frame of reference" in findings.warnings[0]


def test_rows_that_slipped_keep_the_batch_out() -> None:
    slipped = [
        unit(f"u{at}", f"P{at}", at, header_patient=f"h{(at + shift) % 4}", sha256=f"{at}{shift}")
        for at in range(4)
        for shift in (0, 1)
    ]
    slipped = [row | {"unit_id": f"{row['unit_id']}.{number}"} for number, row in enumerate(slipped)]
    assert checked(*slipped).errors
