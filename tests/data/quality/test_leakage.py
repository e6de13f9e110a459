from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest

from data.batch.manifest import Indexed
from data.quality.leakage import check
from data.quality.shortcuts import GREYS, NUMBERS
from data.settings import IngestSettings

NOTHING = pd.DataFrame()


@pytest.fixture
def sound(indexed: Indexed) -> pd.DataFrame:
    return indexed.manifest


def planted(manifest: pd.DataFrame, copy_of: int, **cells: str) -> pd.DataFrame:
    """The manifest and, as its last row, a copy of one unit with other cells."""
    row = manifest.iloc[[copy_of]].assign(unit_id="planted", file="scans/planted.dcm", **cells)
    return pd.concat([manifest, row], ignore_index=True)


def test_a_sound_batch_has_no_findings(sound: pd.DataFrame, ingest: IngestSettings) -> None:
    found = check(sound, NOTHING, ingest)
    assert found.failing == {} and found.warnings == []
    assert found.figures["clusters"] == 6 and found.figures["exact_copies"] == 0


def test_of_exact_copies_in_a_cluster_the_first_stays(sound: pd.DataFrame, ingest: IngestSettings) -> None:
    found = check(planted(sound, 3), NOTHING, ingest)
    assert found.failing == {"planted": [f"exact copy: {sound['unit_id'][3]}"]}


def test_a_copy_under_another_patient_fails(sound: pd.DataFrame, ingest: IngestSettings) -> None:
    found = check(planted(sound, 3, cluster="P-other", patient="P-other"), NOTHING, ingest)
    assert found.failing == {"planted": [f"exact copy of another patient's scan: {sound['unit_id'][3]}"]}


def test_of_one_picture_with_two_labels_neither_stays(sound: pd.DataFrame, ingest: IngestSettings) -> None:
    other = "benign" if sound["label"][3] != "benign" else "normal"
    found = check(planted(sound, 3, label=other), NOTHING, ingest)
    assert set(found.failing) == {"planted", sound["unit_id"][3]}
    assert all("two labels" in reasons[0] for reasons in found.failing.values())


def test_what_was_admitted_before_is_not_admitted_again(sound: pd.DataFrame, ingest: IngestSettings) -> None:
    found = check(sound.iloc[2:4], sound, ingest)
    assert set(found.failing) == set(sound["unit_id"][2:4])
    assert found.failing[sound["unit_id"][2]] == [f"copy of an admitted scan: {sound['unit_id'][2]}"]
    relabelled = check(sound.iloc[2:4].assign(label="other"), sound, ingest)
    assert all("two labels" in reasons[0] for reasons in relabelled.failing.values())


def test_near_duplicates_fail_between_clusters_only(sound: pd.DataFrame, ingest: IngestSettings) -> None:
    again = {"pixels_blake3": "f" * 64}
    assert check(planted(sound, 3, **again), NOTHING, ingest).failing == {}
    foreign = again | {"cluster": "P-other", "patient": "P-other"}
    found = check(planted(sound, 3, **foreign), NOTHING, ingest)
    assert found.failing == {"planted": [f"near-duplicate of another patient's scan: {sound['unit_id'][3]}"]}
    with_known = check(planted(sound, 3, **foreign).tail(1), sound, ingest)
    assert with_known.failing == found.failing
    two = check(planted(sound, 3, label="other", **foreign), NOTHING, ingest)
    assert set(two.failing) == {"planted", sound["unit_id"][3]}


def test_blank_slices_are_copies_of_nobody(sound: pd.DataFrame, ingest: IngestSettings) -> None:
    blank = sound.assign(std=0.0, pixels_blake3="0" * 64)
    assert check(blank, blank, ingest).failing == {}


def test_a_patient_in_two_groups_cannot_be_kept_on_one_side(sound: pd.DataFrame, ingest: IngestSettings) -> None:
    patient = sound["patient"][0]
    units = list(sound.loc[sound["patient"] == patient, "unit_id"])
    moved = sound.assign(cluster=sound["cluster"].where(sound.index != 0, "G-other"))
    found = check(moved, NOTHING, ingest)
    assert sorted(found.failing) == sorted(units)
    assert "patient in two groups" in found.failing[units[0]][0]
    known = sound.assign(cluster="G-before", pixels_blake3="x", std=0.0)
    assert set(check(sound, known, ingest).failing) == set(sound["unit_id"])


def test_a_group_of_files_with_two_labels_travels_with_a_warning(sound: pd.DataFrame, ingest: IngestSettings) -> None:
    other = "benign" if sound["label"][0] != "benign" else "normal"
    mixed = check(sound.assign(label=sound["label"].where(sound.index != 0, other)), NOTHING, ingest)
    assert mixed.failing == {} and mixed.figures["mixed_clusters"] == 1
    assert "each stays on one side" in mixed.warnings[0]
    volumes = sound.assign(file=sound["cluster"], label=sound["label"].where(sound.index != 0, other))
    assert check(volumes, NOTHING, ingest).warnings == []  # slices of one volume may well differ


def test_a_header_that_tells_the_label_is_named(sound: pd.DataFrame, ingest: IngestSettings) -> None:
    many = pd.concat(
        [sound.assign(unit_id=sound["unit_id"] + str(n), cluster=sound["cluster"] + str(n)) for n in range(3)],
        ignore_index=True,
    ).assign(std=0.0, **dict.fromkeys((*NUMBERS, *GREYS), 1.0), thumbnail="")
    betrayed = many.assign(kernel=["SHARP" if label == "malignant" else label for label in many["label"]])
    found = check(betrayed, NOTHING, replace(ingest, shortcut_accuracy=0.95))
    assert found.figures["shortcut_accuracy"] == 1.0
    assert "kernel" in found.warnings[0] and "may stand for its source" in found.warnings[0]
    assert check(many, NOTHING, ingest).warnings == []
