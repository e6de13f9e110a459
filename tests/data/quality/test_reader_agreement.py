from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest

from data.quality.reader_agreement import measure
from data.record import Task


def table(*readings: dict[str, str], truth: str = "reader") -> pd.DataFrame:
    """Each argument is one scan: reader -> label."""
    rows = [
        {"file_name": f"{number}.png", "slice": "", "labeller": who, "label": label, "truth": truth}
        for number, scan in enumerate(readings)
        for who, label in scan.items()
    ]
    return pd.DataFrame(rows)


def two(a: str, b: str) -> dict[str, str]:
    return {"ann": a, "bob": b}


def test_cohens_kappa_of_two_readers_is_that_of_the_textbook(lung: Task) -> None:
    """20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no: agreement 0.70, by chance 0.50, kappa 0.40."""
    scans = [two("malignant", "malignant")] * 20 + [two("malignant", "normal")] * 5
    scans += [two("normal", "malignant")] * 10 + [two("normal", "normal")] * 15
    found = measure(table(*scans), lung)
    assert found is not None
    assert (found.readers, found.units, found.statistic) == (2, 50, "Cohen's")
    assert found.agreed == pytest.approx(0.7) and found.kappa == pytest.approx(0.4)
    assert "kappa 0.40, not more than moderate" in found.warnings()[0]


def test_fleiss_kappa_of_three_readers(lung: Task) -> None:
    """Three agree on two scans, two of three on two others: P = 2/3, chance = 5/9 (8 normal, 4 malignant of 12)."""
    all_normal = dict.fromkeys(("ann", "bob", "cleo"), "normal")
    mixed = {"ann": "malignant", "bob": "malignant", "cleo": "normal"}
    most = {"ann": "normal", "bob": "malignant", "cleo": "malignant"}
    found = measure(table(all_normal, all_normal, mixed, most), lung)
    chance = (8 / 12) ** 2 + (4 / 12) ** 2
    observed = (1 + 1 + 1 / 3 + 1 / 3) / 4
    assert found is not None and found.statistic == "Fleiss'"
    assert found.kappa == pytest.approx((observed - chance) / (1 - chance), abs=1e-4)
    assert found.agreed == 0.5 and set(found.pairs) == {"ann, bob", "ann, cleo", "bob, cleo"}


def test_fleiss_rests_on_the_units_with_the_usual_number_of_readers(lung: Task) -> None:
    full = {"ann": "normal", "bob": "normal", "cleo": "malignant"}
    found = measure(table(full, full, two("normal", "malignant")), lung)
    assert found is not None and (found.units, found.rated) == (3, 2)


def test_readers_who_agree_on_all_and_a_single_label_are_told_apart(lung: Task) -> None:
    perfect = measure(table(two("normal", "normal"), two("benign", "benign")), lung)
    assert perfect is not None and perfect.kappa == 1.0 and perfect.warnings() == []
    one = measure(table(two("normal", "normal"), two("normal", "normal")), lung)
    assert one is not None and one.kappa is None and one.agreed == 1.0 and one.warnings() == []


def test_stages_one_apart_count_for_less_than_stages_two_apart(lung: Task) -> None:
    stages = replace(lung, ordered=True)
    agree = [two(name, name) for name in lung.classes * 3]
    near = measure(table(*agree, two("normal", "benign")), stages)
    far = measure(table(*agree, two("normal", "malignant")), stages)
    assert near is not None and far is not None and near.kappa is not None and far.kappa is not None
    assert near.kappa > far.kappa


def test_nobody_is_measured_by_pathology_or_alone(lung: Task) -> None:
    assert measure(table(two("normal", "malignant"), truth="pathology"), lung) is None
    assert measure(table({"ann": "normal"}, {"bob": "normal"}), lung) is None
    assert measure(table({"": "normal", "bob": "normal"}), lung) is None
