from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from data.batch.manifest import index_batch
from data.dataset import training_population
from data.importing.import_folder import import_folder
from data.phantom import batch as phantom_batch
from data.phantom import study
from data.quality import reader_agreement
from data.quality.expectations import rules
from data.quality.suite import Validation, validate
from data.record import PixelSettings, Task
from data.settings import IngestSettings

PLANTED = {
    "label": ("tumour?", "label is none of normal, benign, malignant"),
    "patient": ("", "patient is missing"),
    "modality": ("MR", "modality is not CT"),
    "body_part": ("ABDOMEN", "body part is none of CHEST, LUNG"),
    "burned_in": ("YES", "burned-in writing, says the header or the picture's border"),
    "truth": ("hearsay", "no known source of truth"),
    "units": ("raw", "CT without Hounsfield units"),
    "mean": (484.0, "denser than a body in HU"),
    "p95": (-900.0, "thinner than a body in HU"),
    "p99": (64000.0, "values above metal in HU"),
    "blank_share": (1.0, "blank"),
    "saturated_share": (0.8, "saturated"),
    "p01": (0.0, "wrong window, no air in HU"),
    "plane": ("coronal", "not an axial slice"),
    "row_spacing": (400.0, "spacing is not that of a scan of a body"),
}


@pytest.fixture
def manifest(home: Path, lung: Task) -> pd.DataFrame:
    """Units of 15 patients, as their site sent them."""
    folder = home.parent / "inbox" / "b"
    phantom_batch.write_batch(folder, lung, 15, study.usual(lung), seed=2)
    return index_batch(folder, home.parent / "staging", lung).manifest


def run(manifest: pd.DataFrame, task: Task, ingest: IngestSettings, home: Path, batch: str = "b") -> Validation:
    return validate(manifest, task, ingest, home / "gx", batch)


def test_a_sound_batch_meets_every_expectation_and_gets_its_page(
    manifest: pd.DataFrame, lung: Task, ingest: IngestSettings, home: Path
) -> None:
    found = run(manifest, lung, ingest, home)
    assert found.success and not found.failing and not found.batch_errors and not found.warnings
    assert found.figures["met"] == found.figures["expectations"] == len(rules(lung, ingest))
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


def test_a_label_that_contradicts_its_mask_fails_by_name(
    manifest: pd.DataFrame, lung: Task, ingest: IngestSettings, home: Path
) -> None:
    for label, size in (("normal", 7.5), ("malignant", 0.0), ("benign", 7.5)):
        manifest.loc[manifest.index[manifest["label"] == label][0], "lesion_mm"] = size
    wrong = [manifest["unit_id"][manifest["label"] == label].iloc[0] for label in ("normal", "malignant")]
    found = run(manifest, lung, ingest, home)
    assert found.failing == {
        wrong[0]: ["label contradicts its mask, which shows a lesion"],
        wrong[1]: ["label contradicts its mask, which shows no lesion"],
    }


def test_what_is_odd_or_missing_travels_as_a_warning_that_names_it(
    manifest: pd.DataFrame, lung: Task, ingest: IngestSettings, home: Path
) -> None:
    manifest.loc[manifest.index[manifest["label"] == "benign"][0], "geometry"] = "missing slices, gantry tilt"
    manifest.loc[manifest.index[manifest["label"] == "malignant"][0], "geometry"] = "even"
    manifest.loc[:, "labeller"] = ""
    unbalanced = manifest.assign(cluster=[f"P{number}" for number in range(len(manifest))])
    many = pd.concat(
        [unbalanced]
        + [
            unbalanced[unbalanced["label"] == "normal"].assign(
                cluster=lambda table, n=number: table["cluster"] + f"-{n}",
                unit_id=lambda table, n=number: table["unit_id"] + f"-{n}",
            )
            for number in range(10)
        ]
    )
    found = run(many.reset_index(drop=True), lung, ingest, home)
    assert found.success
    assert "1 of 65 units: the series has gantry tilt" in found.warnings
    assert "1 of 65 units: the series has missing slices" in found.warnings
    assert "65 of 65 units: nobody says who labelled" in found.warnings
    assert "unbalanced classes: clusters 55 of normal, 5 of benign, 5 of malignant" in found.warnings


def test_pictures_in_another_window_or_inverted_fail_where_the_task_shows_air(
    manifest: pd.DataFrame, lung: Task, brain: Task, ingest: IngestSettings, home: Path
) -> None:
    display = manifest.assign(units="display", modality="", body_part="")
    display.loc[0, "blank_share"], display.loc[1, "corner_mean"] = 0.6, 200.0
    found = run(display, lung, ingest, home)
    assert found.failing == {
        display["unit_id"][0]: ["wrong window, air is black"],
        display["unit_id"][1]: ["inverted, air is white"],
    }
    abdomen = replace(lung, pixels=PixelSettings(64, (50, 400)))
    assert run(display, abdomen, ingest, home).success


def test_readers_and_the_population_are_told_on_the_page(
    manifest: pd.DataFrame, lung: Task, ingest: IngestSettings, home: Path
) -> None:
    readings = pd.DataFrame(
        [
            (f"{n}.dcm", "", who, label, "reader")
            for n in range(4)
            for who, label in (("ann", lung.classes[n % 2]), ("bob", lung.classes[n // 2]))
        ],
        columns=["file_name", "slice", "labeller", "label", "truth"],
    )
    agreed = reader_agreement.measure(readings, lung)
    known = training_population.describe_population(manifest.assign(scanner="Old 1"))
    other = manifest.assign(scanner="New <2>", mean=manifest["mean"] + 400 * manifest["mean"].std())
    found = validate(other, lung, ingest, home / "gx", "b", known, agreed)
    assert any("Cohen's kappa 0.00, not more than moderate" in text for text in found.warnings)
    assert any(text.startswith("scanner not present on the training side: New <2>") for text in found.warnings)
    assert any("15 clusters of the training side" in text and "mean +" in text for text in found.warnings)
    assert set(found.figures["population"]["differences"]) == {"mean"}
    page = found.page.read_text(encoding="utf-8")
    assert "2 readers gave one label to 50% of 4 units" in page and "New &lt;2&gt;" in page and "New <2>" not in page


def test_what_a_header_does_not_say_is_allowed_and_what_is_worth_knowing_warns(
    manifest: pd.DataFrame, lung: Task, ingest: IngestSettings, home: Path
) -> None:
    told = {"modality": "", "body_part": "", "units": "display", "mean": 420.0, "p99": 255.0, "row_spacing": 0.0}
    quiet = manifest[manifest["label"] != "benign"].assign(**told, truth="", site="", study_date="")
    found = run(quiet, lung, ingest, home)
    assert found.success and not found.failing
    assert "fewer than 1 clusters of the class benign in this batch" in found.warnings
    assert "10 of 10 units: nobody says the site" in found.warnings
    assert "10 of 10 units: nobody says how the label is known" in found.warnings


def test_a_lost_column_keeps_the_batch_out(
    manifest: pd.DataFrame, lung: Task, ingest: IngestSettings, home: Path
) -> None:
    found = run(manifest.drop(columns="sharpness"), lung, ingest, home)
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
