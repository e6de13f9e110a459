from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from data.duplicates import admitted_units, index_segments, vector_index
from data.duplicates.admitted_units import find_related_units
from data.quality.leakage import check_leakage
from data.scan.thumbnail import encode_thumbnail
from data.settings import IngestSettings

BLOB = 3  # pixels per side of a blob in the synthetic pictures


def synthetic_thumbnail(seed: int) -> str:
    """The thumbnail of a synthetic picture of blobs, different for every seed."""
    random = np.random.default_rng(seed)
    coarse = random.random((40 // BLOB + 2, 40 // BLOB + 2))
    picture = np.kron(coarse, np.ones((BLOB, BLOB)))[:40, :40]
    return encode_thumbnail((picture * 63).astype(np.uint8))


def manifest(first: int, count: int) -> pd.DataFrame:
    """A manifest of `count` patients with one picture each."""
    numbers = range(first, first + count)
    return pd.DataFrame(
        {
            "unit_id": [f"u{number}" for number in numbers],
            "file": [f"scans/{number}.dcm" for number in numbers],
            "sha256": [f"{number:064x}" for number in numbers],
            "pixels_blake3": [f"{number:064x}" for number in numbers],
            "label": "normal",
            "patient": [f"p{number}" for number in numbers],
            "cluster": [f"p{number}" for number in numbers],
            "std": 1.0,
            "thumbnail": [synthetic_thumbnail(number) for number in numbers],
        }
    )


@pytest.fixture
def batches(tmp_path: Path) -> Path:
    """Three admitted batches of 20 patients each."""
    for number in range(3):
        write_manifest(tmp_path / "batches", f"b{number}", manifest(20 * number, 20))
    return tmp_path / "batches"


def write_manifest(folder: Path, name: str, table: pd.DataFrame) -> None:
    (folder / name).mkdir(parents=True)
    table.to_csv(folder / name / "manifest.csv", index=False)


def unit_ids(related_units: pd.DataFrame) -> set[str]:
    return set(related_units["unit_id"])


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "known"


def test_copies_files_patients_and_near_duplicates_are_related(batches: Path, place: Path) -> None:
    new = manifest(100, 5)
    new.loc[0, "pixels_blake3"] = f"{7:064x}"
    new.loc[1, "sha256"] = f"{23:064x}"
    new.loc[2, "patient"] = "p41"
    new.loc[3, "thumbnail"] = synthetic_thumbnail(55)
    related_units = find_related_units(batches, place, new)
    assert {"u7", "u23", "u41", "u55"} <= unit_ids(related_units)
    assert len(related_units) < 60 and list(related_units.columns) == list(admitted_units.COLUMNS)
    assert related_units.set_index("unit_id").at["u55", "thumbnail"] == synthetic_thumbnail(55)


def test_a_cluster_is_not_compared_with_itself(batches: Path, place: Path) -> None:
    new = manifest(100, 1).assign(thumbnail=synthetic_thumbnail(55), cluster="p55")
    assert "u55" not in unit_ids(find_related_units(batches, place, new))
    assert "u55" in unit_ids(find_related_units(batches, place, new.assign(cluster="other")))


def test_an_empty_side_has_no_related_units(tmp_path: Path, place: Path, batches: Path) -> None:
    assert find_related_units(tmp_path / "none", place, manifest(0, 3)).empty
    assert find_related_units(batches, place, manifest(0, 0)).empty


def test_the_leakage_check_finds_the_same_in_related_units_as_in_all(
    batches: Path, place: Path, ingest: IngestSettings
) -> None:
    """The projection is a filter: the units that it leaves out do not change the findings."""
    new = pd.concat([manifest(10, 3), manifest(30, 3).assign(label="tumour"), manifest(200, 20)], ignore_index=True)
    new.loc[6, ["thumbnail", "label"]] = [synthetic_thumbnail(50), "tumour"]
    new.loc[7, ["thumbnail"]] = [synthetic_thumbnail(51)]
    new.loc[8, ["patient", "cluster"]] = ["p52", "elsewhere"]
    new = with_all_columns(new).assign(unit_id=[f"n{number}" for number in range(len(new))])
    all_admitted = with_all_columns(manifest(0, 60))
    by_filter, by_all = (
        check_leakage(new, admitted, ingest) for admitted in (find_related_units(batches, place, new), all_admitted)
    )
    assert by_filter.failing == by_all.failing and len(by_all.failing) == 9
    kinds = {reason.split(":")[0] for reasons in by_filter.failing.values() for reason in reasons}
    assert kinds == {
        "copy of an admitted scan",
        "the same picture has two labels",
        "patient in two groups",
        "near-duplicate of another patient's scan",
        "nearly the same picture has another label",
    }


def with_all_columns(table: pd.DataFrame) -> pd.DataFrame:
    """The table with all columns of a manifest, empty where missing."""
    from data.batch.manifest import COLUMNS, TEXT

    return table.reindex(columns=[*dict.fromkeys([*table.columns, *COLUMNS])]).fillna(dict.fromkeys(TEXT, ""))


def test_added_and_removed_batches_are_followed(batches: Path, place: Path) -> None:
    new = manifest(100, 1).assign(thumbnail=synthetic_thumbnail(15))
    assert "u15" in unit_ids(find_related_units(batches, place, new))
    shutil.rmtree(batches / "b0")
    write_manifest(batches, "b0-w1", manifest(0, 20).iloc[:15])
    write_manifest(batches, "b3", manifest(60, 10))
    assert "u15" not in unit_ids(find_related_units(batches, place, new))
    assert {"u3", "u65"} <= unit_ids(find_related_units(batches, place, manifest(100, 2).assign(patient=["p3", "p65"])))
    shutil.rmtree(batches / "b3")
    assert find_related_units(batches, place, manifest(60, 1)).query("unit_id == 'u60'").empty


def test_a_batch_of_the_same_name_with_other_content_is_read_again(batches: Path, place: Path) -> None:
    find_related_units(batches, place, manifest(0, 1))
    (batches / "b1.dvc").write_text("outs: another\n")
    manifest(20, 20).assign(label="tumour").to_csv(batches / "b1" / "manifest.csv", index=False)
    assert set(find_related_units(batches, place, manifest(25, 1)).query("unit_id == 'u25'")["label"]) == {"tumour"}


def test_no_bytes_of_a_withdrawn_batch_remain(batches: Path, place: Path) -> None:
    find_related_units(batches, place, manifest(0, 1))
    traces = [b"p15", synthetic_thumbnail(15).encode()[:60]]
    assert all(any(trace in path.read_bytes() for path in place.iterdir()) for trace in traces)
    shutil.rmtree(batches / "b0")
    find_related_units(batches, place, manifest(100, 1))
    assert not any(trace in path.read_bytes() for path in place.iterdir() for trace in traces)
    admitted_units.delete_projection(place)
    assert not place.exists()


@pytest.mark.parametrize("damage", ["deleted", "cut", "garbage", "version", "index"])
def test_a_damaged_projection_is_rebuilt(
    batches: Path, place: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deleting it does not change the result; nor does damage that the files show."""
    monkeypatch.setattr(index_segments, "TAIL", 30)
    monkeypatch.setattr(vector_index, "SMALL", 20)
    new = manifest(100, 2).assign(thumbnail=[synthetic_thumbnail(15), synthetic_thumbnail(44)], patient=["p3", "q"])
    before = find_related_units(batches, place, new)
    assert {"u15", "u44", "u3"} <= unit_ids(before)
    database, index = place / "known.db", next(place.glob("*.index"))
    if damage == "deleted":
        shutil.rmtree(place)
    elif damage == "cut":
        database.write_bytes(database.read_bytes()[: database.stat().st_size // 2])
    elif damage == "garbage":
        database.write_bytes(b"no database" * 1000)
    elif damage == "version":
        with sqlite3.connect(database) as connection:
            connection.execute("PRAGMA user_version = 999")
        connection.close()
    else:
        index.write_bytes(index.read_bytes()[:-10])
    pd.testing.assert_frame_equal(find_related_units(batches, place, new), before)


def test_segments_of_similar_size_are_merged_without_loss(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twelve batches with a segment for every second one: a few segments remain, and every picture is found."""
    monkeypatch.setattr(index_segments, "TAIL", 15)
    monkeypatch.setattr(index_segments, "LARGEST", 100)
    for number in range(12):
        write_manifest(tmp_path / "batches", f"b{number:02d}", manifest(10 * number, 10))
        find_related_units(tmp_path / "batches", place, manifest(500, 1))
    sizes = sorted(row[0] for row in sqlite3.connect(place / "known.db").execute("SELECT count FROM segments"))
    assert sum(sizes) >= 105 and len(sizes) <= 3 and sizes[-1] <= 100
    assert len(list(place.glob("*.index*"))) == len(sizes)
    new = manifest(500, 120).assign(thumbnail=[synthetic_thumbnail(number) for number in range(120)])
    assert {f"u{number}" for number in range(120)} <= unit_ids(find_related_units(tmp_path / "batches", place, new))


def test_manifests_without_thumbnails_still_give_copies(batches: Path, place: Path) -> None:
    """A batch of an older version has no thumbnails, but it has pixel hashes and patients."""
    write_manifest(batches, "old", manifest(300, 5).drop(columns="thumbnail"))
    assert "u302" in unit_ids(find_related_units(batches, place, manifest(302, 1)))
