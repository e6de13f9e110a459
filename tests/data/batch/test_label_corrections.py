from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from data.batch import label_corrections, metadata_table
from data.batch import manifest as batch_manifest
from data.core_types import Task
from data.dataset import cohorts as dataset_cohorts
from data.dataset import shards
from data.settings import Disagreement, SplitSettings
from lineage.errors import Fault

HEADER = "file_name,patient_id,task,label,labeller,labelled_at,truth,slice,lesion_mm"
Send = Callable[..., label_corrections.Corrections]


@pytest.fixture
def admitted(indexed: batch_manifest.IndexedBatch, home: Path, lung: Task) -> Path:
    """The batch of six patients, admitted as data/batches/lung-ct/first."""
    target = home.parent / "data" / "batches" / "lung-ct" / "first"
    target.parent.mkdir(parents=True)
    shutil.copytree(home.parent / "staging" / "first", target)
    return target


@pytest.fixture
def send(admitted: Path, home: Path, lung: Task) -> Send:
    """A function that checks a batch of corrections and admits its accepted rows."""

    def send_rows(
        *rows: str, batch: str = "fix", rule: Disagreement = Disagreement.MAJORITY
    ) -> label_corrections.Corrections:
        source = home.parent / "inbox" / batch
        source.mkdir(parents=True)
        (source / "metadata.csv").write_text("\n".join([HEADER, *rows]) + "\n", encoding="utf-8")
        corrections = label_corrections.check_corrections(
            metadata_table.read_metadata(source), admitted.parent, lung, rule
        )
        if len(corrections.rows):
            (admitted.parent / batch).mkdir()
            corrections.rows.to_csv(admitted.parent / batch / label_corrections.NAME, index=False)
        return corrections

    return send_rows


def scan(admitted: Path, label: str) -> pd.Series[str]:
    manifest = batch_manifest.read_manifest(admitted / "manifest.csv")
    return manifest[manifest["label"] == label].iloc[0]


def row(sha256: str, label: str, at: str = "2025-05-01T10:00:00Z", who: str = "dr-b", truth: str = "pathology") -> str:
    return f"sha256:{sha256},,lung-ct,{label},{who},{at},{truth},,"


def test_a_correction_changes_the_packed_label_and_no_cohort(
    admitted: Path, send: Send, lung: Task, home: Path
) -> None:
    unit = scan(admitted, "malignant")
    manifest = batch_manifest.read_manifest(admitted / "manifest.csv")
    no_cohorts = dataset_cohorts.read_cohorts(home / "none.csv")
    cohorts = dataset_cohorts.assign_cohorts(manifest, no_cohorts, SplitSettings(7, 0.3, 0.2), 1, "first", lung)
    processed = home.parent / "processed"
    shards.pack_shards([admitted], cohorts, lung, processed)
    before = shards.read_units_table(processed).set_index("unit_id")
    assert send(row(unit["sha256"], "benign")).refused == []
    shards.pack_shards([admitted], cohorts, lung, processed)
    after = shards.read_units_table(processed).set_index("unit_id")
    assert before.loc[unit["unit_id"], "label"] == "malignant" and before.loc[unit["unit_id"], "target"] == 2
    assert after.loc[unit["unit_id"], "label"] == "benign" and after.loc[unit["unit_id"], "target"] == 1
    assert after["side"].equals(before["side"])
    is_other_unit = before.index != unit["unit_id"]
    assert after["label"][is_other_unit].equals(before["label"][is_other_unit])


def test_the_history_lists_who_when_from_and_to(admitted: Path, send: Send) -> None:
    unit = scan(admitted, "malignant")
    send(row(unit["sha256"], "benign"), batch="one")
    send(row(unit["sha256"], "normal", "2025-07-01T12:00:00+02:00", "dr-c") + "0", batch="two")
    steps = label_corrections.label_history(admitted.parent, unit["sha256"][:12])
    changes = [(step["from"], step["to"], step["who"], step["at"], step["batch"]) for step in steps]
    assert changes == [
        ("", "malignant", "reader-1", unit["labelled_at"], "first"),
        ("malignant", "benign", "dr-b", "2025-05-01T10:00:00Z", "one"),
        ("benign", "normal", "dr-c", "2025-07-01T10:00:00Z", "two"),
    ]
    assert label_corrections.label_history(admitted.parent, unit["unit_id"]) == steps
    assert label_corrections.label_history(admitted.parent, "f" * 64) == []
    with pytest.raises(Fault, match="give at least 8 of its SHA-256"):
        label_corrections.label_history(admitted.parent, "ab")


INVALID = [
    ("SHA", "0" * 64, "is no admitted scan of lung-ct"),
    ("SHA", "abc", "is not the whole SHA-256"),
    ("dr-b", "", "without labeller"),
    ("2025-05-01T10:00:00Z", "", "without labelled_at"),
    ("2025-05-01T10:00:00Z", "Quillfeather", "has in the column labelled_at no time such as"),
    ("2025", "2999", "in the column labelled_at a time in the future"),
    ("2025", "2019", "present label is not older"),
    ("pathology", "report", "which report does not correct"),
    ("benign", "malignant", "is malignant by pathology already"),
    ("benign", "Quillfeather", "has in the column label a value that lung-ct does not have"),
    ("pathology", "Quillfeather", "has in the column truth a value that lung-ct does not have"),
    ("benign,dr-b", "Quillfeather,dr-b", "has in the column label a value that"),
    (",,lung-ct,benign,dr-b", ",Quillfeather 7,lung-ct,benign,told by QUILLFEATHER", "repeats in the column labeller"),
    (",,lung-ct", ",MRN1,lung-ct", "belongs to another patient"),
    ("pathology,,", "pathology,7,", "names in the column slice no admitted slice"),
    ("pathology,,", "pathology,Quillfeather,", "names in the column slice no admitted slice"),
    ("pathology,,", "pathology,,Quillfeather", "the lesion_mm of its row is not a number"),
    ("SHA", "Quillfeather", "is not the whole SHA-256"),
]


def test_an_invalid_correction_is_refused_by_row_and_hash(admitted: Path, send: Send) -> None:
    sha = scan(admitted, "malignant")["sha256"]
    for number, (old, new, reason) in enumerate(INVALID):
        corrections = send(row("SHA", "benign").replace(old, new).replace("SHA", sha), batch=f"b{number}")
        assert corrections.rows.empty and len(corrections.refused) == 1
        has_full_hash = "Quillfeather" != new != "abc" if old == "SHA" else True
        reference = f"row 2, sha256 {(new if old == 'SHA' else sha)[:8]}" if has_full_hash else "row 2"
        assert reason in corrections.refused[0].reason and corrections.refused[0].file == reference
        assert "quillfeather" not in f"{corrections.refused}".lower(), "a cell can hold a patient's name"


def test_a_refusal_has_the_row_number_of_the_table(send: Send, admitted: Path) -> None:
    sha = scan(admitted, "malignant")["sha256"]
    rows = [row(sha, "benign"), row("0" * 64, "benign"), row("1" * 64, "benign")]
    assert [refused.file for refused in send(*rows).refused] == ["row 3, sha256 00000000", "row 4, sha256 11111111"]


def test_disagreeing_readers_of_a_correction_follow_the_usual_rule(admitted: Path, send: Send) -> None:
    sha = scan(admitted, "malignant")["sha256"]
    rows = [row(sha, "benign", who="a"), row(sha, "benign", who="b"), row(sha, "normal", who="c")]
    assert list(send(*rows, batch="m").rows["label"]) == ["benign"]
    strict = send(*(text.replace("2025-05", "2025-06") for text in rows), batch="r", rule=Disagreement.REFUSE)
    assert strict.rows.empty and "disagree" in strict.refused[0].reason


def test_a_batch_of_scans_and_corrections_is_refused(admitted: Path, home: Path) -> None:
    sha = scan(admitted, "malignant")["sha256"]
    (home.parent / "one.png").write_bytes(b"1")
    text = "\n".join([HEADER, row(sha, "benign"), "one.png,7,lung-ct,normal,,,,,"])
    (home.parent / "metadata.csv").write_text(text + "\n", encoding="utf-8")
    with pytest.raises(Fault, match="1 of 2 rows correct admitted scans"):
        metadata_table.read_metadata(home.parent)
