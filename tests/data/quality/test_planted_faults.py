"""A small seeded sample of bench/data/planted_faults.py; and the real data sets, if present."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from bench.data.planted_faults import agreement, brain, lung, lung_faults, run


def test_only_planted_faults_are_found(home: Path) -> None:
    """4 faults of each kind among 40 valid scans; 50 among 600 with ONCOLOOP_SOAK."""
    clean_count, fault_count = (600, 50) if os.environ.get("ONCOLOOP_SOAK") else (40, 4)
    table = run(clean_count, fault_count, 5, home.parent)
    exact_kinds = (
        "exact copy",
        "conflicting labels",
        "patient overlap",
        "wrong modality",
        "wrong window",
        "blank or truncated",
    )
    assert {kind: table[kind]["recall"] for kind in exact_kinds} == dict.fromkeys(exact_kinds, 1.0)
    fuzzy_results = [result for kind, result in table.items() if kind not in (*exact_kinds, "all")]
    assert len(fuzzy_results) == 3 and all(
        result["recall"] >= 0.95 and result["precision"] >= 0.99 for result in fuzzy_results
    )
    assert table["all"]["planted"] == 11 * fault_count and table["all"]["precision"] >= 0.99


def test_agreement_counts_pairs() -> None:
    known_groups, derived_groups = np.array([0, 0, 0, 1, 1]), np.array([5, 5, 6, 6, 7])
    assert agreement(known_groups, derived_groups) == {
        "known_groups": 2,
        "derived_groups": 3,
        "pair_precision": 0.5,
        "pair_recall": 0.25,
        "adjusted_rand": pytest.approx(-0.0417, abs=0.2),
    }


@pytest.mark.skipif(not os.environ.get("ONCOLOOP_SOAK"), reason="a minute on real scans: ONCOLOOP_SOAK=1")
def test_the_exact_copies_of_the_real_lung_set_are_found(home: Path, real_data: Path) -> None:
    figures = lung(real_data, home.parent)
    assert figures["extra_copies"] == 28 and figures["near_duplicates_between_groups"] == 0
    assert figures["pair_precision"] > 0.95 and figures["pair_recall"] > 0.8


@pytest.mark.skipif(not os.environ.get("ONCOLOOP_SOAK"), reason="half a minute on real scans: ONCOLOOP_SOAK=1")
def test_faults_planted_on_real_pictures_are_found(home: Path, real_data: Path) -> None:
    table = lung_faults(real_data, home.parent, 50, 11)
    assert table["exact copy"]["recall"] == table["conflicting labels"]["recall"] == 1.0
    assert all(result["recall"] >= 0.95 and result["precision"] >= 0.99 for result in table.values())


@pytest.mark.skipif(not os.environ.get("ONCOLOOP_SOAK"), reason="half a minute on real scans: ONCOLOOP_SOAK=1")
def test_groups_of_single_brain_pictures_are_called_unreliable(home: Path, real_data: Path) -> None:
    """The groups are pure, but most pictures of a patient are in different groups: the import must warn."""
    figures = brain(real_data, home.parent)
    assert figures["known_groups"] == 7 and figures["near_duplicates_between_patients"] == 0
    assert figures["pair_precision"] > 0.8 and 0.15 < figures["pair_recall"] < 0.5
    assert figures["import_says"].startswith("the groups are unreliable")
