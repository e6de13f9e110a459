from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from data.batch.manifest import index_batch
from data.core_types import PixelSettings, Task
from data.dataset import training_population
from data.importing.import_folder import import_folder
from data.phantom import batch as phantom_batch
from data.phantom import study
from data.quality import reader_agreement
from data.quality.expectations import rules
from data.quality.suite import Validation, validate
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
    """The manifest of a batch of 15 patients."""
    folder = home.parent / "inbox" / "b"
    phantom_batch.write_batch(folder, lung, 15, study.usual_scanner(lung), seed=2)
    return index_batch(folder, home.parent / "staging", lung).manifest


def run(manifest: pd.DataFrame, task: Task, ingest: IngestSettings, home: Path, batch: str = "b") -> Validation:
    return validate(manifest, task, ingest, home / "gx", batch)


def test_a_valid_batch_meets_every_expectation_and_has_a_page(
    manifest: pd.DataFrame, lung: Task, ingest: IngestSettings, home: Path
) -> None:
    validation = run(manifest, lung, ingest, home)
    assert validation.success and not validation.failing and not validation.batch_errors and not validation.warnings
    assert validation.figures["met"] == validation.figures["expectations"] == len(rules(lung, ingest))
    assert validation.figures["clusters_by_label"] == {"benign": 5, "malignant": 5, "normal": 5}
    assert validation.page.is_relative_to(home / "gx") and "lung-ct" in validation.page.read_text()


def test_the_pages_load_nothing_from_other_servers(
    manifest: pd.DataFrame, lung: Task, ingest: IngestSettings, home: Path
) -> None:
    page = run(manifest, lung, ingest, home).page
    pages = [*(home / "gx").rglob("*.html")]
    assert page in pages
    assert not [path for path in pages if re.search(r'\s(src|href)="https?:', path.read_text(encoding="utf-8"))]


def test_every_planted_fault_is_found_on_its_unit_and_is_on_the_page(
    manifest: pd.DataFrame, lung: Task, ingest: IngestSettings, home: Path
) -> None:
    for number, (column, (value, _)) in enumerate(PLANTED.items()):
        manifest.loc[number, column] = value
    validation = run(manifest, lung, ingest, home)
    units = list(manifest["unit_id"])
    assert not validation.success and not validation.batch_errors
    assert set(validation.failing) == set(units[: len(PLANTED)])
    page = validation.page.read_text()
    for unit, (_, meaning) in zip(units, PLANTED.values(), strict=False):
        assert meaning in validation.failing[unit]
        assert re.search(re.escape(unit), page)


def test_a_label_that_contradicts_its_mask_fails_by_name(
    manifest: pd.DataFrame, lung: Task, ingest: IngestSettings, home: Path
) -> None:
    for label, size in (("normal", 7.5), ("malignant", 0.0), ("benign", 7.5)):
        manifest.loc[manifest.index[manifest["label"] == label][0], "lesion_mm"] = size
    contradicting = [manifest["unit_id"][manifest["label"] == label].iloc[0] for label in ("normal", "malignant")]
    validation = run(manifest, lung, ingest, home)
    assert validation.failing == {
        contradicting[0]: ["label contradicts its mask, which shows a lesion"],
        contradicting[1]: ["label contradicts its mask, which shows no lesion"],
    }


def test_unusual_or_missing_values_give_a_named_warning(
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
    validation = run(many.reset_index(drop=True), lung, ingest, home)
    assert validation.success
    assert "1 of 65 units: the series has gantry tilt" in validation.warnings
    assert "1 of 65 units: the series has missing slices" in validation.warnings
    assert "65 of 65 units: the labeller is not stated" in validation.warnings
    assert "unbalanced classes: clusters 55 of normal, 5 of benign, 5 of malignant" in validation.warnings


def test_inverted_pictures_or_those_in_another_window_fail_if_the_task_shows_air(
    manifest: pd.DataFrame, lung: Task, brain: Task, ingest: IngestSettings, home: Path
) -> None:
    display = manifest.assign(units="display", modality="", body_part="")
    display.loc[0, "blank_share"], display.loc[1, "corner_mean"] = 0.6, 200.0
    validation = run(display, lung, ingest, home)
    assert validation.failing == {
        display["unit_id"][0]: ["wrong window, air is black"],
        display["unit_id"][1]: ["inverted, air is white"],
    }
    abdomen = replace(lung, pixels=PixelSettings(64, (50, 400)))
    assert run(display, abdomen, ingest, home).success


def test_agreement_and_population_are_on_the_page(
    manifest: pd.DataFrame, lung: Task, ingest: IngestSettings, home: Path
) -> None:
    readings = pd.DataFrame(
        [
            (f"{n}.dcm", "", reader, label, "reader")
            for n in range(4)
            for reader, label in (("ann", lung.classes[n % 2]), ("bob", lung.classes[n // 2]))
        ],
        columns=["file_name", "slice", "labeller", "label", "truth"],
    )
    agreement = reader_agreement.measure_agreement(readings, lung)
    training = training_population.describe_population(manifest.assign(scanner="Old 1"))
    other_manifest = manifest.assign(scanner="New <2>", mean=manifest["mean"] + 400 * manifest["mean"].std())
    validation = validate(other_manifest, lung, ingest, home / "gx", "b", training, agreement)
    assert any("Cohen's kappa 0.00, not more than moderate" in text for text in validation.warnings)
    assert any(text.startswith("scanner not present on the training side: New <2>") for text in validation.warnings)
    assert any("15 clusters of the training side" in text and "mean +" in text for text in validation.warnings)
    assert set(validation.figures["population"]["differences"]) == {"mean"}
    page = validation.page.read_text(encoding="utf-8")
    assert "2 readers gave one label to 50% of 4 units" in page and "New &lt;2&gt;" in page and "New <2>" not in page


def test_missing_header_facts_are_allowed_and_missing_table_facts_give_warnings(
    manifest: pd.DataFrame, lung: Task, ingest: IngestSettings, home: Path
) -> None:
    header_facts = {
        "modality": "",
        "body_part": "",
        "units": "display",
        "mean": 420.0,
        "p99": 255.0,
        "row_spacing": 0.0,
    }
    sparse = manifest[manifest["label"] != "benign"].assign(**header_facts, truth="", site="", study_date="")
    validation = run(sparse, lung, ingest, home)
    assert validation.success and not validation.failing
    assert "fewer than 1 clusters of the class benign in this batch" in validation.warnings
    assert "10 of 10 units: the site is not stated" in validation.warnings
    assert "10 of 10 units: the source of truth is not stated" in validation.warnings


def test_a_missing_column_keeps_the_batch_out(
    manifest: pd.DataFrame, lung: Task, ingest: IngestSettings, home: Path
) -> None:
    validation = run(manifest.drop(columns="sharpness"), lung, ingest, home)
    assert validation.batch_errors == ["the manifest lacks columns"] and not validation.failing


def test_several_batches_and_a_resent_batch_have_their_own_pages(
    manifest: pd.DataFrame, lung: Task, brain: Task, ingest: IngestSettings, home: Path
) -> None:
    first = run(manifest.head(5), lung, ingest, home, "one")
    second = run(manifest.tail(5), lung, ingest, home, "two")
    wrong_task = run(manifest.head(5), brain, ingest, home, "three")
    resent = run(manifest.head(5).assign(blank_share=1.0), lung, ingest, home, "one")
    assert first.success and second.success and not wrong_task.success and not resent.success
    assert set(resent.failing) == set(manifest["unit_id"].head(5))
    pages = {validation.page for validation in (first, second, wrong_task, resent)}
    assert len(pages) == 4 and all(page.exists() for page in pages)
    index = (home / "gx" / "gx" / "uncommitted" / "data_docs" / "local_site" / "index.html").read_text()
    assert all(f"batches-{name}" in index for name in ("one", "two", "three"))


@pytest.mark.usefixtures("home")
def test_real_ct_of_many_scanners_and_kinds_of_padding_passes(
    real_data: Path, tmp_path: Path, lung: Task, ingest: IngestSettings, home: Path
) -> None:
    for path in (real_data / "chest-ct-tcga-luad-dicom").glob("*.dcm"):
        (tmp_path / "set" / "malignant").mkdir(parents=True, exist_ok=True)
        shutil.copy(path, tmp_path / "set" / "malignant" / path.name)
    import_folder(tmp_path / "set", tmp_path / "batch", lung)
    manifest = index_batch(tmp_path / "batch", tmp_path / "staging", lung).manifest
    validation = run(manifest, lung, ingest, home)
    assert len(manifest) == 27 and validation.success, validation.failing
