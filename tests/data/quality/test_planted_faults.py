"""A small seeded sample of bench/data/planted_faults.py, and the real lung set where it is present."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from bench.data.planted_faults import agreement, brain, lung, lung_faults, run


def test_planted_faults_are_found_and_nothing_else(home: Path) -> None:
    """4 of each kind among 40 sound ones; 50 among 600 with ONCOLOOP_SOAK."""
    clean, each = (600, 50) if os.environ.get("ONCOLOOP_SOAK") else (40, 4)
    table = run(clean, each, 5, home.parent)
    exact = (
        "exact copy",
        "conflicting labels",
        "patient overlap",
        "wrong modality",
        "wrong window",
        "blank or truncated",
    )
    assert {kind: table[kind]["recall"] for kind in exact} == dict.fromkeys(exact, 1.0)
    fuzzy = [one for kind, one in table.items() if kind not in (*exact, "all")]
    assert len(fuzzy) == 3 and all(one["recall"] >= 0.95 and one["precision"] >= 0.99 for one in fuzzy)
    assert table["all"]["planted"] == 11 * each and table["all"]["precision"] >= 0.99


def test_agreement_counts_pairs() -> None:
    known, derived = np.array([0, 0, 0, 1, 1]), np.array([5, 5, 6, 6, 7])
    assert agreement(known, derived) == {
        "known_groups": 2,
        "derived_groups": 3,
        "pair_precision": 0.5,
        "pair_recall": 0.25,
        "adjusted_rand": pytest.approx(-0.0417, abs=0.2),
    }


@pytest.mark.skipif(not os.environ.get("ONCOLOOP_SOAK"), reason="a minute on real scans: ONCOLOOP_SOAK=1")
def test_the_extra_copies_of_the_real_lung_set(home: Path, real_data: Path) -> None:
    found = lung(real_data, home.parent)
    assert found["extra_copies"] == 28 and found["near_duplicates_between_groups"] == 0
    assert found["pair_precision"] > 0.95 and found["pair_recall"] > 0.8


@pytest.mark.skipif(not os.environ.get("ONCOLOOP_SOAK"), reason="half a minute on real scans: ONCOLOOP_SOAK=1")
def test_faults_planted_on_real_pictures_are_found(home: Path, real_data: Path) -> None:
    table = lung_faults(real_data, home.parent, 50, 11)
    assert table["exact copy"]["recall"] == table["conflicting labels"]["recall"] == 1.0
    assert all(one["recall"] >= 0.95 and one["precision"] >= 0.99 for one in table.values())


@pytest.mark.skipif(not os.environ.get("ONCOLOOP_SOAK"), reason="half a minute on real scans: ONCOLOOP_SOAK=1")
def test_groups_of_single_brain_pictures_are_called_unreliable(home: Path, real_data: Path) -> None:
    """What is joined is of one patient, but most of a patient is not joined: import has to say so."""
    found = brain(real_data, home.parent)
    assert found["known_groups"] == 7 and found["near_duplicates_between_patients"] == 0
    assert found["pair_precision"] > 0.8 and 0.15 < found["pair_recall"] < 0.5
    assert found["import_says"].startswith("the groups are unreliable")
