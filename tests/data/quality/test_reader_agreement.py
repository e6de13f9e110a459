from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest

from data.core_types import Task
from data.quality.reader_agreement import measure_agreement


def table(*readings: dict[str, str], truth: str = "reader") -> pd.DataFrame:
    """A table of readings; each argument is one scan: reader -> label."""
    rows = [
        {"file_name": f"{number}.png", "slice": "", "labeller": reader, "label": label, "truth": truth}
        for number, scan in enumerate(readings)
        for reader, label in scan.items()
    ]
    return pd.DataFrame(rows)


def readings_of_two(a: str, b: str) -> dict[str, str]:
    return {"ann": a, "bob": b}


def test_cohens_kappa_of_two_readers_equals_the_textbook_value(lung: Task) -> None:
    """20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no: agreement 0.70, by chance 0.50, kappa 0.40."""
    scans = [readings_of_two("malignant", "malignant")] * 20 + [readings_of_two("malignant", "normal")] * 5
    scans += [readings_of_two("normal", "malignant")] * 10 + [readings_of_two("normal", "normal")] * 15
    agreement = measure_agreement(table(*scans), lung)
    assert agreement is not None
    assert (agreement.readers, agreement.units, agreement.statistic) == (2, 50, "Cohen's")
    assert agreement.agreed == pytest.approx(0.7) and agreement.kappa == pytest.approx(0.4)
    assert "kappa 0.40, not more than moderate" in agreement.warnings()[0]


def test_fleiss_kappa_of_three_readers_equals_the_formula(lung: Task) -> None:
    """Three agree on two scans, two of three on two others: P = 2/3, chance = 5/9 (8 normal, 4 malignant of 12)."""
    all_normal = dict.fromkeys(("ann", "bob", "cleo"), "normal")
    mixed = {"ann": "malignant", "bob": "malignant", "cleo": "normal"}
    mixed_other = {"ann": "normal", "bob": "malignant", "cleo": "malignant"}
    agreement = measure_agreement(table(all_normal, all_normal, mixed, mixed_other), lung)
    chance = (8 / 12) ** 2 + (4 / 12) ** 2
    observed = (1 + 1 + 1 / 3 + 1 / 3) / 4
    assert agreement is not None and agreement.statistic == "Fleiss'"
    assert agreement.kappa == pytest.approx((observed - chance) / (1 - chance), abs=1e-4)
    assert agreement.agreed == 0.5 and set(agreement.pairs) == {"ann, bob", "ann, cleo", "bob, cleo"}


def test_fleiss_uses_the_units_with_the_most_frequent_number_of_readers(lung: Task) -> None:
    full = {"ann": "normal", "bob": "normal", "cleo": "malignant"}
    agreement = measure_agreement(table(full, full, readings_of_two("normal", "malignant")), lung)
    assert agreement is not None and (agreement.units, agreement.rated) == (3, 2)


def test_perfect_agreement_differs_from_a_single_label(lung: Task) -> None:
    perfect = measure_agreement(table(readings_of_two("normal", "normal"), readings_of_two("benign", "benign")), lung)
    assert perfect is not None and perfect.kappa == 1.0 and perfect.warnings() == []
    single_label = measure_agreement(
        table(readings_of_two("normal", "normal"), readings_of_two("normal", "normal")), lung
    )
    assert (
        single_label is not None
        and single_label.kappa is None
        and single_label.agreed == 1.0
        and single_label.warnings() == []
    )


def test_adjacent_stages_disagree_less_than_distant_stages(lung: Task) -> None:
    stages = replace(lung, ordered=True)
    agreed_scans = [readings_of_two(name, name) for name in lung.classes * 3]
    adjacent = measure_agreement(table(*agreed_scans, readings_of_two("normal", "benign")), stages)
    distant = measure_agreement(table(*agreed_scans, readings_of_two("normal", "malignant")), stages)
    assert adjacent is not None and distant is not None and adjacent.kappa is not None and distant.kappa is not None
    assert adjacent.kappa > distant.kappa


def test_pathology_and_single_readings_give_no_agreement(lung: Task) -> None:
    assert measure_agreement(table(readings_of_two("normal", "malignant"), truth="pathology"), lung) is None
    assert measure_agreement(table({"ann": "normal"}, {"bob": "normal"}), lung) is None
    assert measure_agreement(table({"": "normal", "bob": "normal"}), lung) is None
