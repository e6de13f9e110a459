"""Leakage rules on synthetic tables: which copies, near-duplicates and divided patients fail, and with which reason."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.ndimage import gaussian_filter

from data.quality.findings import FindingKind
from data.quality.leakage import Findings, check_leakage
from data.quality.shortcuts import GREYS, NUMBERS
from data.scan.slice_features import FACTS
from data.scan.thumbnail import SIDE, encode_thumbnail
from data.settings import IngestSettings

SETTINGS = IngestSettings("scan", 0.2, 1, 0.97, 0.98)
NOBODY = pd.DataFrame()


@lru_cache(maxsize=64)
def thumbnail(seed: int, change: float = 0.0) -> str:
    """A smooth picture per seed.

    `change` mixes in another one: 0.02 gives a near-duplicate, 1.0 an unrelated picture.
    """
    picture, other_picture = (
        gaussian_filter(np.random.default_rng(number).normal(size=(SIDE, SIDE)), 2) for number in (seed, seed + 1000)
    )
    mixed = (1 - change) * picture + change * other_picture
    return encode_thumbnail(np.rint((mixed - mixed.min()) / np.ptp(mixed) * 63).astype(np.uint8))


def unit(name: str, patient: str, picture: int, label: str = "benign", **cells: Any) -> dict[str, Any]:
    """One slice with the pixels `picture`, changed by `change`."""
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


def check_units(*units: dict[str, Any], admitted: tuple[dict[str, Any], ...] = ()) -> Findings:
    return check_leakage(pd.DataFrame(list(units)), pd.DataFrame(list(admitted)), SETTINGS)


def test_different_pictures_of_different_patients_have_no_findings() -> None:
    findings = check_units(*(unit(f"u{number}", f"P{number}", number) for number in range(6)))
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
def test_a_patient_of_both_sexes_gives_a_warning(sexes: list[str], count: int) -> None:
    findings = check_units(
        *(unit(f"u{number}", "P1", number, sex=sex) for number, sex in enumerate(sexes)),
        unit("other", "P2", 50, sex="M"),
        unit("another", "P3", 51, sex="F"),
    )
    assert findings.failing == {}
    warnings = [text for text in findings.warnings if "both sexes" in text]
    assert warnings == ["patients of both sexes, who may be two people: 1"] * count


def test_an_empty_batch_has_no_finding() -> None:
    empty = pd.DataFrame([unit("a", "P1", 1)]).iloc[:0]
    findings = check_leakage(empty, NOBODY, SETTINGS)
    assert findings.failing == {} and findings.figures["clusters"] == 0


def test_the_first_row_of_several_copies_stays() -> None:
    findings = check_units(unit("b", "P1", 1), unit("a", "P1", 1), unit("d", "P2", 1), unit("c", "P1", 2))
    assert findings.failing == {"a": ["exact copy: b"], "d": ["exact copy of another patient's scan: b"]}
    assert findings.figures["exact_copies"] == 2 and findings.figures["near_duplicates"] == 0


def test_every_copy_of_an_admitted_scan_has_one_reason() -> None:
    admitted = (unit("old", "P1", 1), unit("older", "P1", 1))
    findings = check_units(unit("a", "P1", 1), unit("b", "P2", 1), unit("c", "P3", 2), admitted=admitted)
    reason = ["copy of an admitted scan: old"]
    assert findings.failing == {"a": reason, "b": reason}


@pytest.mark.parametrize("admitted", [(), (unit("old", "P1", 1, "malignant"),)])
def test_all_copies_with_two_labels_stay_out(admitted: tuple[dict[str, Any], ...]) -> None:
    new = [unit("a", "P1", 1), unit("b", "P1", 1)] + ([] if admitted else [unit("c", "P2", 1, "malignant")])
    findings = check_units(*new, admitted=admitted)
    reason = ["the same picture has two labels: benign, malignant"]
    assert findings.failing == {row["unit_id"]: reason for row in new}


def test_labels_of_other_pictures_do_not_conflict() -> None:
    admitted = (unit("old", "P9", 7, "malignant"),)
    assert check_units(unit("a", "P1", 1), unit("b", "P2", 2, "normal"), admitted=admitted).failing == {}


def test_the_later_near_duplicate_of_two_patients_stays_out() -> None:
    findings = check_units(unit("b", "P2", 1), unit("a", "P1", 1, change=0.02))
    assert findings.failing == {"a": ["near-duplicate of another patient's scan: b"]}
    assert findings.figures["near_duplicates"] == 1
    assert check_units(unit("b", "P1", 1), unit("a", "P1", 1, change=0.02)).failing == {}, (
        "slices of one patient are alike"
    )
    assert check_units(unit("b", "P2", 1), unit("a", "P1", 1, change=0.9)).failing == {}


@pytest.mark.parametrize(("limit", "is_out"), [(0.9, True), (0.9999, False)])
def test_the_likeness_of_near_duplicates_is_a_setting(limit: float, is_out: bool) -> None:
    settings = IngestSettings("scan", 0.2, 1, limit, 0.98)
    units = pd.DataFrame([unit("b", "P2", 1), unit("a", "P1", 1, change=0.1)])
    assert bool(check_leakage(units, NOBODY, settings).failing) is is_out


def test_a_near_duplicate_of_an_admitted_scan_stays_out_at_any_position() -> None:
    other_units = [unit(f"u{number}", f"P{number}", number) for number in range(10, 14)]
    findings = check_units(
        unit("a", "P1", 1, change=0.02), *other_units, admitted=(unit("z", "P0", 2), unit("old", "P2", 1))
    )
    assert findings.failing == {"a": ["near-duplicate of another patient's scan: old"]}


def test_both_near_duplicates_with_two_labels_stay_out() -> None:
    findings = check_units(unit("a", "P1", 1), unit("b", "P2", 1, "malignant", change=0.02))
    reason = "nearly the same picture has another label: "
    assert findings.failing == {"a": [f"{reason}b"], "b": [f"{reason}a"]}
    admitted = check_units(unit("b", "P2", 1, "malignant", change=0.02), admitted=(unit("a", "P1", 1),))
    assert admitted.failing == {"b": [f"{reason}a"]}


def test_only_the_most_similar_earlier_slice_stays_out() -> None:
    """The neighbouring slices are similar too, but their label has no conflict."""
    volume = [unit(f"s{number}", "P1", 1, change=change) for number, change in enumerate((0.06, 0.02, 0.09))]
    findings = check_units(*volume, unit("x", "P2", 1, "malignant", change=0.025))
    assert set(findings.failing) == {"s1", "x"}
    assert findings.failing["s1"] == ["nearly the same picture has another label: x"]


def test_a_label_conflict_replaces_the_reason_of_a_near_duplicate() -> None:
    findings = check_units(
        unit("a", "P1", 1), unit("b", "P2", 1, "malignant", change=0.02), unit("c", "P3", 1, change=0.01)
    )
    assert findings.failing["c"] in (
        ["nearly the same picture has another label: b"],
        ["nearly the same picture has another label: a"],
    )
    assert "another label" in findings.failing["b"][0]


def test_an_exact_copy_is_not_also_called_a_near_duplicate() -> None:
    findings = check_units(unit("a", "P1", 1), unit("b", "P2", 1), unit("c", "P3", 1, change=0.02))
    assert findings.failing["b"] == ["exact copy of another patient's scan: a"]
    assert findings.failing["c"][0].startswith("near-duplicate of another patient's scan: ")
    reordered = check_units(unit("c", "P3", 1, change=0.02), unit("a", "P1", 1), unit("b", "P2", 1))
    assert reordered.failing == {
        "a": ["near-duplicate of another patient's scan: c"],
        "b": ["exact copy of another patient's scan: a"],
    }


@pytest.mark.parametrize("side", ["batch", "admitted"])
def test_blank_slices_are_not_compared(side: str) -> None:
    blank = unit("b", "P2", 1, std=0.0)
    if side == "batch":
        assert check_units(unit("a", "P1", 1), blank).failing == {}
    else:
        assert check_units(unit("a", "P1", 1), admitted=(blank,)).failing == {}


def test_all_units_of_a_patient_in_two_groups_stay_out() -> None:
    units = [unit("a", "P1", 1, cluster="G1"), unit("b", "P1", 2, cluster="G2"), unit("c", "P2", 3, cluster="G2")]
    findings = check_units(*units)
    assert findings.failing == {name: ["patient in two groups: P1 is in 2"] for name in ("a", "b")}
    assert findings.figures["patient_overlaps"] == 2


def test_a_patient_in_another_group_than_the_admitted_one_stays_out() -> None:
    admitted = (unit("old", "P1", 9, cluster="G0"), unit("older", "P1", 8, cluster="G9"), unit("o", "P7", 7))
    findings = check_units(unit("a", "P1", 1, cluster="G1"), unit("b", "P2", 2), admitted=admitted)
    assert findings.failing == {"a": ["patient in two groups: P1 is in 3"]}
    same_group = (unit("old", "P1", 9, cluster="G1"), unit("older", "P1", 8, cluster="G1"))
    assert (
        check_units(unit("a", "P1", 1, cluster="G1"), unit("b", "P1", 2, cluster="G1"), admitted=same_group).failing
        == {}
    )
    in_two_admitted_groups = (unit("old", "P5", 9, cluster="G1"), unit("older", "P5", 8, cluster="G2"))
    assert check_units(unit("a", "P1", 1), admitted=in_two_admitted_groups).failing == {}, (
        "patients of other batches are no reason"
    )


def test_all_reasons_of_a_unit_are_reported() -> None:
    findings = check_units(unit("a", "P1", 1, cluster="G1"), unit("b", "P1", 1, cluster="G2"))
    assert findings.failing["b"] == ["exact copy of another patient's scan: a", "patient in two groups: P1 is in 2"]


WARNING = "clusters that contain files with different labels (each stays on one side): "


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
def test_a_cluster_of_files_with_different_labels_gives_a_warning(
    files: tuple[str, ...], labels: tuple[str, ...], mixed: int
) -> None:
    pairs = enumerate(zip(files, labels, strict=True))
    units = [unit(f"u{index}", "P1", index, label, file=file) for index, (file, label) in pairs]
    findings = check_units(*units, unit("other", "P2", 99))
    assert findings.failing == {} and findings.figures["mixed_clusters"] == mixed
    assert findings.warnings == ([f"{WARNING}{mixed}"] if mixed else [])


def test_every_mixed_cluster_is_counted() -> None:
    units = [unit(f"u{index}", f"P{index // 2}", index, ("benign", "malignant")[index % 2]) for index in range(6)]
    findings = check_units(*units, unit("plain", "P9", 9))
    assert findings.figures["mixed_clusters"] == 3 and findings.warnings == [f"{WARNING}3"]


def test_old_admitted_units_may_lack_columns() -> None:
    """Manifests of an earlier version have no columns for identity signs."""
    old = {name: value for name, value in unit("old", "P1", 1).items() if not name.startswith("header_")}
    assert check_units(unit("a", "P1", 1), admitted=(old,)).failing == {"a": ["copy of an admitted scan: old"]}


def test_one_person_of_the_headers_with_two_ids_stays_out() -> None:
    findings = check_units(
        unit("a", "P1", 1, header_patient="h"), unit("b", "P2", 2, header_patient="h"), unit("c", "P3", 3)
    )
    assert set(findings.failing) == {"a", "b"} and findings.figures["patient_contradictions"] == 1
    assert {finding.kind for finding in findings.findings} == {FindingKind.PERSON_WITH_TWO_PATIENTS}
    against_admitted = check_units(
        unit("a", "P1", 1, header_patient="h"), admitted=(unit("old", "P2", 2, header_patient="h"),)
    )
    assert set(against_admitted.failing) == {"a"} and against_admitted.figures["patient_contradictions"] == 1


@pytest.mark.parametrize(
    ("patients", "signs", "kind"),
    [
        (("P1", "P2"), ({"header_patient": "h"}, {"header_patient": "h"}), FindingKind.PERSON_WITH_TWO_PATIENTS),
        (("P1", "P1"), ({"header_patient": "h"}, {"header_patient": "i"}), FindingKind.PATIENT_OF_TWO_PERSONS),
        (("P1", "P1"), ({"header_person": "both h"}, {"header_person": "both i"}), FindingKind.PATIENT_OF_TWO_NAMES),
        (("P1", "P2"), ({"spelling": "s"}, {"spelling": "s"}), FindingKind.PATIENT_SPELT_TWICE),
        (("P1", "P2"), ({"group_spelling": "s"}, {"group_spelling": "s"}), FindingKind.GROUP_SPELT_TWICE),
    ],
)
def test_every_contradiction_of_patients_has_its_kind(
    patients: tuple[str, str], signs: tuple[dict[str, str], dict[str, str]], kind: FindingKind
) -> None:
    units = [unit(f"u{index}", patients[index], index, **signs[index]) for index in range(2)]
    assert {finding.kind for finding in check_units(*units, unit("c", "P3", 3)).findings} == {kind}


def test_an_ambiguous_header_sign_gives_a_warning() -> None:
    units = [unit(f"u{index}", f"P{index}", index, header_frame="the same") for index in range(5)]
    findings = check_units(*units)
    assert findings.failing == {} and len(findings.warnings) == 1 and "frame of reference" in findings.warnings[0]


def test_shifted_rows_keep_the_batch_out() -> None:
    rows = [
        unit(f"u{index}", f"P{index}", index, header_patient=f"h{(index + shift) % 4}", sha256=f"{index}{shift}")
        for index in range(4)
        for shift in (0, 1)
    ]
    rows = [row | {"unit_id": f"{row['unit_id']}.{number}"} for number, row in enumerate(rows)]
    assert check_units(*rows).errors
