from __future__ import annotations

import re
import shutil
from pathlib import Path

import pandas as pd
import pytest

from data import phantom
from data.collect import import_folder
from data.expectations import rules
from data.index import index_batch
from data.record import Task
from data.settings import IngestSettings
from data.suite import Validation, validate

PLANTED = {
    "label": ("tumour?", "label is none of normal, benign, malignant"),
    "patient": ("", "patient is missing"),
    "modality": ("MR", "modality is not CT"),
    "body_part": ("ABDOMEN", "body part is none of CHEST, LUNG"),
    "burned_in": ("YES", "burned-in writing, says the header"),
    "truth": ("hearsay", "no known source of truth"),
    "units": ("raw", "CT without Hounsfield units"),
    "mean": (484.0, "denser than a body in HU"),
    "p95": (-900.0, "thinner than a body in HU"),
    "p99": (64000.0, "values above metal in HU"),
    "blank_share": (1.0, "blank"),
    "saturated_share": (0.8, "saturated"),
    "row_spacing": (400.0, "spacing is not that of a scan of a body"),
}


@pytest.fixture
def manifest(home: Path, lung: Task) -> pd.DataFrame:
    """Units of 15 patients, as their site sent them."""
    folder = home.parent / "inbox" / "b"
    phantom.write_batch(folder, lung, 15, phantom.usual(lung), seed=2)
    return index_batch(folder, home.parent / "staging", lung).manifest


def run(manifest: pd.DataFrame, task: Task, ingest: IngestSettings, home: Path, batch: str = "b") -> Validation:
    return validate(manifest, task, ingest, home / "gx", batch)


def test_a_sound_batch_meets_every_expectation_and_gets_its_page(
    manifest: pd.DataFrame, lung: Task, ingest: IngestSettings, home: Path
) -> None:
    found = run(manifest, lung, ingest, home)
    assert found.success and not found.failing and not found.batch_errors and not found.warnings
    assert found.figures["met"] == found.figures["expectations"] == len(rules(lung))
    assert found.figures["clusters_by_label"] == {"benign": 5, "malignant": 5, "normal": 5}
    assert found.page.is_relative_to(home / "gx") and "lung-ct" in found.page.read_text()


def test_the_pages_call_no_other_server(manifest: pd.DataFrame, lung: Task, ingest: IngestSettings, home: Path) -> None:
    page = run(manifest, lung, ingest, home).page
    pages = [*(home / "gx").rglob("*.html")]
    assert page in pages
    assert not [path for path in pages if re.search(r'\s(src|href)="https?:', path.read_text(encoding="utf-8"))]


def test_every_planted_fault_is_found_on_its_unit_and_named_on_the_page(
    manifest: pd.DataFrame, lung: Task, ingest: IngestSettings, home: Path
) -> None:
    for number, (column, (value, _)) in enumerate(PLANTED.items()):
        manifest.loc[number, column] = value
    found = run(manifest, lung, ingest, home)
    units = list(manifest["unit_id"])
    assert not found.success and not found.batch_errors
    assert set(found.failing) == set(units[: len(PLANTED)])
    page = found.page.read_text()
    for unit, (_, meaning) in zip(units, PLANTED.values(), strict=False):
        assert meaning in found.failing[unit]
        assert re.search(re.escape(unit), page)


def test_what_a_header_does_not_say_is_allowed_and_what_is_worth_knowing_warns(
    manifest: pd.DataFrame, lung: Task, ingest: IngestSettings, home: Path
) -> None:
    told = {"modality": "", "body_part": "", "units": "display", "mean": 420.0, "p99": 255.0, "row_spacing": 0.0}
    quiet = manifest[manifest["label"] != "benign"].assign(**told, truth="", site="", study_date="")
    found = run(quiet, lung, ingest, home)
    assert found.success and not found.failing
    assert "class benign has 0 clusters in this batch, fewer than 1" in found.warnings
    assert "10 of 10 units: nobody says the site" in found.warnings
    assert "10 of 10 units: nobody says how the label is known" in found.warnings


def test_a_lost_column_keeps_the_batch_out(
    manifest: pd.DataFrame, lung: Task, ingest: IngestSettings, home: Path
) -> None:
    found = run(manifest.drop(columns="border_mean"), lung, ingest, home)
    assert found.batch_errors == ["the manifest lacks columns"] and not found.failing


def test_several_batches_and_a_batch_that_comes_again_keep_their_pages(
    manifest: pd.DataFrame, lung: Task, brain: Task, ingest: IngestSettings, home: Path
) -> None:
    first = run(manifest.head(5), lung, ingest, home, "one")
    second = run(manifest.tail(5), lung, ingest, home, "two")
    wrong_task = run(manifest.head(5), brain, ingest, home, "three")
    again = run(manifest.head(5).assign(blank_share=1.0), lung, ingest, home, "one")
    assert first.success and second.success and not wrong_task.success and not again.success
    assert set(again.failing) == set(manifest["unit_id"].head(5))
    pages = {found.page for found in (first, second, wrong_task, again)}
    assert len(pages) == 4 and all(page.exists() for page in pages)
    index = (home / "gx" / "gx" / "uncommitted" / "data_docs" / "local_site" / "index.html").read_text()
    assert all(f"batches-{name}" in index for name in ("one", "two", "three"))


@pytest.mark.usefixtures("home")
def test_real_ct_of_many_scanners_with_all_kinds_of_padding_is_plausible(
    real_data: Path, tmp_path: Path, lung: Task, ingest: IngestSettings, home: Path
) -> None:
    for path in (real_data / "chest-ct-tcga-luad-dicom").glob("*.dcm"):
        (tmp_path / "set" / "malignant").mkdir(parents=True, exist_ok=True)
        shutil.copy(path, tmp_path / "set" / "malignant" / path.name)
    import_folder(tmp_path / "set", tmp_path / "batch", lung)
    manifest = index_batch(tmp_path / "batch", tmp_path / "staging", lung).manifest
    found = run(manifest, lung, ingest, home)
    assert len(manifest) == 27 and found.success, found.failing
