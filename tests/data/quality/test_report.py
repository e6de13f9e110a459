from __future__ import annotations

import csv
import re
from pathlib import Path

import pandas as pd
import pytest

from data.batch import label_corrections, rejected_units
from data.batch import manifest as batch_manifest
from data.core_types import Task
from data.dataset import cohorts
from data.phantom import samples
from data.quality import gate, leakage, report, suite
from data.settings import IngestSettings, SplitSettings


@pytest.fixture
def data(home: Path, lung: Task, ingest: IngestSettings) -> tuple[Path, dict[str, object]]:
    """A data folder with a batch that has every fault, admitted without the failing units; and its verdict."""
    source, staging = home.parent / "inbox" / "first", home.parent / "staging"
    samples.bad_batch(source, lung, 5)
    indexed = batch_manifest.index_batch(source, staging, lung)
    validation = suite.validate(indexed.manifest, lung, ingest, home / "gx", "first")
    findings = leakage.check_leakage(indexed.manifest, pd.DataFrame(), ingest)
    verdict, failing = gate.admit("first", validation, findings, indexed.refused, len(indexed.manifest), ingest)
    root = home.parent / "data"
    rejected_units.record_failing(staging, failing, indexed.refused)
    rejected_units.set_aside(staging, root / "quarantine" / "first")
    admitted = indexed.manifest[~indexed.manifest["unit_id"].isin(list(failing))]
    batch = root / "batches" / lung.name / "first"
    batch.parent.mkdir(parents=True)
    staging.rename(batch)
    admitted.to_csv(batch / "manifest.csv", index=False)
    no_cohorts = cohorts.read_cohorts(home / "none.csv")
    rows = cohorts.assign_cohorts(admitted, no_cohorts, SplitSettings(7, 0.3, 0.2), 1, "first", lung)
    cohorts.append_cohorts(root / "cohorts" / "lung-ct.csv", rows)
    return root, verdict.to_dict() | {"task": "lung-ct", "at": "2026-05-01T10:00:00Z"}


def page(data: tuple[Path, dict[str, object]], lung: Task, brain: Task, home: Path) -> str:
    path = report.write_quality_page(data[0], [lung, brain], [data[1]], home / "quality" / "all.html")
    return path.read_text(encoding="utf-8")


def test_the_page_shows_every_fault_with_its_picture_and_loads_nothing(
    data: tuple[Path, dict[str, object]], lung: Task, brain: Task, home: Path
) -> None:
    text = page(data, lung, brain, home)
    failing = rejected_units.read_failing(data[0] / "quarantine" / "first")
    assert len(failing) >= 5
    for unit, reasons in failing.items():
        assert unit in text
        for reason in reasons:
            assert reason.replace("'", "&#39;") in text
    assert "Exact copies: 1" in text and "Conflicting labels: 2" in text
    assert text.count('src="data:image/png;base64,') >= len(failing) + 3
    assert not re.search(r'(src|href)="(?!data:|#)', text) and "http" not in text
    assert "There is no batch yet." in text.split('id="brain-mr"')[1]


def test_conflicting_labels_are_side_by_side(
    data: tuple[Path, dict[str, object]], lung: Task, brain: Task, home: Path
) -> None:
    text = page(data, lung, brain, home)
    section = text.split("Conflicting labels: 2")[1].split("<h3>")[0]
    for case in section.split('<article class="case">')[1:]:
        labels = re.findall(r"<strong>(\w+)</strong>", case)
        assert sorted(labels) == ["malignant", "normal"]


def test_no_identity_is_on_the_page(data: tuple[Path, dict[str, object]], lung: Task, brain: Task, home: Path) -> None:
    text = page(data, lung, brain, home)
    with (home.parent / "inbox" / "first" / "metadata.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert not [row["patient_id"] for row in rows if row["patient_id"] in text]
    assert not [row["file_name"] for row in rows if row["file_name"] in text]


def test_a_missing_scan_is_shown_by_its_thumbnail(
    data: tuple[Path, dict[str, object]], lung: Task, brain: Task, home: Path
) -> None:
    for scan in data[0].glob("*/**/scans/*"):
        scan.unlink()
    assert "data:image/png" in page(data, lung, brain, home)


def test_balance_cohorts_and_corrections_are_on_the_page(
    data: tuple[Path, dict[str, object]], lung: Task, brain: Task, home: Path
) -> None:
    manifest = batch_manifest.read_manifest(data[0] / "batches" / "lung-ct" / "first" / "manifest.csv")
    unit = manifest[manifest["label"] == "malignant"].iloc[0]
    corrections_folder = data[0] / "batches" / "lung-ct" / "fix"
    corrections_folder.mkdir()
    row = {**unit[["unit_id", "sha256", "patient"]], "was": "malignant", "label": "benign", "truth": "pathology"}
    row |= {"labeller": "dr-b", "labelled_at": "2026-01-01T00:00:00Z", "stage": "", "lesion_mm": ""}
    pd.DataFrame([row])[list(label_corrections.COLUMNS)].to_csv(
        corrections_folder / label_corrections.NAME, index=False
    )
    text = page(data, lung, brain, home)
    counts = manifest["label"].value_counts()
    cells = dict(re.findall(r'<td>(\w+)</td><td class="number">(\d+)</td>', text.split('id="brain-mr"')[0]))
    assert int(cells["malignant"]) == counts["malignant"] - 1 and int(cells["benign"]) == counts["benign"] + 1
    assert "Corrected labels: 1" in text and "dr-b" in text
    cluster_count = manifest["cluster"].nunique()
    assert f"{cluster_count} clusters are few" in text


def test_setting_aside_replaces_the_earlier_result(data: tuple[Path, dict[str, object]], home: Path) -> None:
    quarantine = data[0] / "quarantine" / "first"
    assert {path.name for path in quarantine.iterdir()} == {"scans", "manifest.csv", rejected_units.NAME}
    rows = batch_manifest.read_manifest(quarantine / "manifest.csv")
    assert set(rows["unit_id"]) == set(rejected_units.read_failing(quarantine))
    assert all((quarantine / file).is_file() for file in rows["file"])
    rejected_units.record_failing(home / "empty", {}, [])
    rejected_units.set_aside(home / "empty", quarantine)
    assert not quarantine.exists()
