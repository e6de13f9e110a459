"""Which sites and scanners a promotion accepts: by the test patients of the version's batches."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pandas as pd
import pytest

from data.core_types import SOURCE_COLUMNS
from lineage import site_hash
from lineage.record import ledger
from lineage.record.events import EventKind
from pipelines.models import site_entries
from pipelines.params import Params

TASK, BATCH = "lung-ct", "first"
SETTINGS = cast(Params, SimpleNamespace(promotion=SimpleNamespace(site_clusters=2)))
SITE = {"sensitivity": {"value": 0.9, "low": 0.8, "high": 1.0}, "specificity": {"value": 0.8, "low": 0.7, "high": 0.9}}


def patients(site: str, scanner: str, count: int, institution: str = "", side: str = "test") -> list[dict[str, Any]]:
    """Units of `count` positive and as many negative patients, one unit each."""
    return [
        {
            "site": site,
            "scanner": scanner,
            "institution": institution,
            "side": side,
            "positive": int(number < count),
            "cluster": f"{site}-{scanner}-{institution}-{side}-{number}",
        }
        for number in range(2 * count)
    ]


def accepted(folder: Path, *groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The sites that the promotion of a version with these units accepts."""
    units = pd.DataFrame([unit for group in groups for unit in group])
    units["unit_id"] = [f"u{number}" for number in range(len(units))]
    manifest = units[["unit_id", "cluster", "site", "scanner"]].assign(
        institution_hash=units["institution"].map(site_hash.hash_site),
        scanner_hash=(units["scanner"] + " header").map(site_hash.hash_scanner).where(units["scanner"] != "", ""),
    )
    batch = Path("data/batches", TASK, BATCH)
    batch.mkdir(parents=True)
    manifest[["unit_id", "cluster", "site", "scanner", *SOURCE_COLUMNS]].to_csv(batch / "manifest.csv", index=False)
    held_out = units[units["side"] != "training"].assign(case="c", batch=BATCH, epoch=1, label="x")
    held_out.drop(columns="institution").to_csv(folder / "predictions.csv", index=False)
    (folder / "metrics.json").write_text(json.dumps({"test": SITE, "sites": {"Alder": SITE}}))
    ledger.append(EventKind.MODEL_LOGGED, TASK, {"version": "1", "batches": [BATCH]})
    return site_entries.promoted_sites(SETTINGS, TASK, "1", folder)


@pytest.fixture
def folder(home: Path) -> Path:
    """A folder for the files of a version, in a workspace."""
    path = home / "version"
    path.mkdir()
    return path


def test_a_site_needs_enough_positive_and_negative_test_patients(folder: Path) -> None:
    [entry] = accepted(folder, patients("Alder", "K64", 2), patients("Birch", "V128", 1))
    assert entry["site"] == site_hash.hash_site("Alder") and entry["clusters"] == 4
    assert entry["sensitivity"] == SITE["sensitivity"]


def test_validation_and_training_patients_do_not_count(folder: Path) -> None:
    groups = [patients("Birch", "V128", 9, side=side) for side in ("training", "validation")]
    entries = accepted(folder, patients("Alder", "K64", 2), patients("Birch", "V128", 1), *groups)
    assert [entry["site"] for entry in entries] == [site_hash.hash_site("Alder")]


def test_the_site_of_all_test_patients_is_accepted_with_the_model(folder: Path) -> None:
    [entry] = accepted(folder, patients("Alder", "K64", 1), patients("Birch", "V128", 9, side="training"))
    assert entry["site"] == site_hash.hash_site("Alder") and entry["specificity"] == SITE["specificity"]


def test_a_scanner_needs_enough_patients_unless_it_is_the_only_one(folder: Path) -> None:
    [entry] = accepted(folder, patients("Alder", "K64", 3), patients("Alder", "M15", 1))
    assert set(entry["scanners"]) == {site_hash.hash_scanner("K64"), site_hash.hash_scanner("K64 header")}


def test_a_site_has_the_institutions_of_its_headers(folder: Path) -> None:
    [entry] = accepted(folder, patients("Alder", "K64", 2, "Alder Hospital"), patients("Alder", "K64", 2, "Old name"))
    assert set(entry["institutions"]) == {site_hash.hash_site("Alder Hospital"), site_hash.hash_site("Old name")}


def test_without_a_site_in_the_table_the_institution_is_the_site(folder: Path) -> None:
    [entry] = accepted(folder, patients("", "K64", 2, "Alder Hospital"))
    assert entry["site"] == site_hash.hash_site("Alder Hospital") and entry["institutions"] == []


def test_data_without_any_site_make_one_site_without_a_name(folder: Path) -> None:
    [entry] = accepted(folder, patients("", "", 2))
    assert (entry["site"], entry["institutions"], entry["scanners"]) == ("", [], [])


def test_scans_without_a_site_count_for_nothing_if_other_data_name_one(folder: Path) -> None:
    assert accepted(folder, patients("", "", 3), patients("Alder", "K64", 1, side="training")) == []
