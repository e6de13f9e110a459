from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest

from data.batch.manifest import IndexedBatch
from data.quality.leakage import check_leakage
from data.quality.shortcuts import GREYS, NUMBERS
from data.settings import IngestSettings

NOTHING = pd.DataFrame()


@pytest.fixture
def valid_manifest(indexed: IndexedBatch) -> pd.DataFrame:
    return indexed.manifest


def with_planted_copy(manifest: pd.DataFrame, copy_of: int, **cells: str) -> pd.DataFrame:
    """The manifest and, as its last row, a copy of one unit with other cells."""
    row = manifest.iloc[[copy_of]].assign(unit_id="planted", file="scans/planted.dcm", **cells)
    return pd.concat([manifest, row], ignore_index=True)


def test_a_valid_batch_has_no_findings(valid_manifest: pd.DataFrame, ingest: IngestSettings) -> None:
    findings = check_leakage(valid_manifest, NOTHING, ingest)
    assert findings.failing == {} and findings.warnings == []
    assert findings.figures["clusters"] == 6 and findings.figures["exact_copies"] == 0


def test_the_first_of_exact_copies_in_a_cluster_stays(valid_manifest: pd.DataFrame, ingest: IngestSettings) -> None:
    findings = check_leakage(with_planted_copy(valid_manifest, 3), NOTHING, ingest)
    assert findings.failing == {"planted": [f"exact copy: {valid_manifest['unit_id'][3]}"]}


def test_a_copy_under_another_patient_fails(valid_manifest: pd.DataFrame, ingest: IngestSettings) -> None:
    findings = check_leakage(
        with_planted_copy(valid_manifest, 3, cluster="P-other", patient="P-other"), NOTHING, ingest
    )
    assert findings.failing == {"planted": [f"exact copy of another patient's scan: {valid_manifest['unit_id'][3]}"]}


def test_both_copies_of_a_picture_with_two_labels_fail(valid_manifest: pd.DataFrame, ingest: IngestSettings) -> None:
    other_label = "benign" if valid_manifest["label"][3] != "benign" else "normal"
    findings = check_leakage(with_planted_copy(valid_manifest, 3, label=other_label), NOTHING, ingest)
    assert set(findings.failing) == {"planted", valid_manifest["unit_id"][3]}
    assert all("two labels" in reasons[0] for reasons in findings.failing.values())


def test_copies_of_admitted_scans_fail(valid_manifest: pd.DataFrame, ingest: IngestSettings) -> None:
    findings = check_leakage(valid_manifest.iloc[2:4], valid_manifest, ingest)
    assert set(findings.failing) == set(valid_manifest["unit_id"][2:4])
    assert findings.failing[valid_manifest["unit_id"][2]] == [
        f"copy of an admitted scan: {valid_manifest['unit_id'][2]}"
    ]
    relabelled = check_leakage(valid_manifest.iloc[2:4].assign(label="other"), valid_manifest, ingest)
    assert all("two labels" in reasons[0] for reasons in relabelled.failing.values())


def test_near_duplicates_fail_between_clusters_only(valid_manifest: pd.DataFrame, ingest: IngestSettings) -> None:
    other_pixels = {"pixels_blake3": "f" * 64}
    assert check_leakage(with_planted_copy(valid_manifest, 3, **other_pixels), NOTHING, ingest).failing == {}
    foreign = other_pixels | {"cluster": "P-other", "patient": "P-other"}
    findings = check_leakage(with_planted_copy(valid_manifest, 3, **foreign), NOTHING, ingest)
    assert findings.failing == {
        "planted": [f"near-duplicate of another patient's scan: {valid_manifest['unit_id'][3]}"]
    }
    with_known = check_leakage(with_planted_copy(valid_manifest, 3, **foreign).tail(1), valid_manifest, ingest)
    assert with_known.failing == findings.failing
    conflicting = check_leakage(with_planted_copy(valid_manifest, 3, label="other", **foreign), NOTHING, ingest)
    assert set(conflicting.failing) == {"planted", valid_manifest["unit_id"][3]}


def test_blank_slices_are_not_compared(valid_manifest: pd.DataFrame, ingest: IngestSettings) -> None:
    blank = valid_manifest.assign(std=0.0, pixels_blake3="0" * 64)
    assert check_leakage(blank, blank, ingest).failing == {}


def test_a_patient_in_two_groups_fails(valid_manifest: pd.DataFrame, ingest: IngestSettings) -> None:
    patient = valid_manifest["patient"][0]
    units = list(valid_manifest.loc[valid_manifest["patient"] == patient, "unit_id"])
    regrouped = valid_manifest.assign(cluster=valid_manifest["cluster"].where(valid_manifest.index != 0, "G-other"))
    findings = check_leakage(regrouped, NOTHING, ingest)
    assert sorted(findings.failing) == sorted(units)
    assert "patient in two groups" in findings.failing[units[0]][0]
    admitted = valid_manifest.assign(cluster="G-before", pixels_blake3="x", std=0.0)
    assert set(check_leakage(valid_manifest, admitted, ingest).failing) == set(valid_manifest["unit_id"])


def test_a_group_of_files_with_two_labels_gives_a_warning(valid_manifest: pd.DataFrame, ingest: IngestSettings) -> None:
    other_label = "benign" if valid_manifest["label"][0] != "benign" else "normal"
    findings = check_leakage(
        valid_manifest.assign(label=valid_manifest["label"].where(valid_manifest.index != 0, other_label)),
        NOTHING,
        ingest,
    )
    assert findings.failing == {} and findings.figures["mixed_clusters"] == 1
    assert "each stays on one side" in findings.warnings[0]
    volumes = valid_manifest.assign(
        file=valid_manifest["cluster"], label=valid_manifest["label"].where(valid_manifest.index != 0, other_label)
    )
    assert check_leakage(volumes, NOTHING, ingest).warnings == []  # slices of one volume can differ


def test_a_header_that_predicts_the_label_gives_a_warning(valid_manifest: pd.DataFrame, ingest: IngestSettings) -> None:
    many = pd.concat(
        [
            valid_manifest.assign(
                unit_id=valid_manifest["unit_id"] + str(n), cluster=valid_manifest["cluster"] + str(n)
            )
            for n in range(3)
        ],
        ignore_index=True,
    ).assign(std=0.0, **dict.fromkeys((*NUMBERS, *GREYS), 1.0), thumbnail="")
    predictable = many.assign(kernel=["SHARP" if label == "malignant" else label for label in many["label"]])
    findings = check_leakage(predictable, NOTHING, replace(ingest, shortcut_accuracy=0.95))
    assert findings.figures["shortcut_accuracy"] == 1.0
    assert "kernel" in findings.warnings[0] and "may stand for its source" in findings.warnings[0]
    assert check_leakage(many, NOTHING, ingest).warnings == []
