from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from data.duplicates import admitted_units, index_segments, vector_index
from data.duplicates.admitted_units import related
from data.quality.leakage import check
from data.scan.thumbnail import encoded
from data.settings import IngestSettings

LIKE = 3  # pixels over which the invented pictures change


def drawn(seed: int) -> str:
    """An invented picture: smooth blobs, another for every seed."""
    random = np.random.default_rng(seed)
    coarse = random.random((40 // LIKE + 2, 40 // LIKE + 2))
    fine = np.kron(coarse, np.ones((LIKE, LIKE)))[:40, :40]
    return encoded((fine * 63).astype(np.uint8))


def units(first: int, count: int) -> pd.DataFrame:
    """One picture for each of `count` patients."""
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
            "thumbnail": [drawn(number) for number in numbers],
        }
    )


@pytest.fixture
def batches(tmp_path: Path) -> Path:
    """Three admitted batches of 20 patients each."""
    for number in range(3):
        admit(tmp_path / "batches", f"b{number}", units(20 * number, 20))
    return tmp_path / "batches"


def admit(folder: Path, name: str, table: pd.DataFrame) -> None:
    (folder / name).mkdir(parents=True)
    table.to_csv(folder / name / "manifest.csv", index=False)


def names(found: pd.DataFrame) -> set[str]:
    return set(found["unit_id"])


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "known"


def test_copies_files_patients_and_likes_are_related(batches: Path, place: Path) -> None:
    new = units(100, 5)
    new.loc[0, "pixels_blake3"] = f"{7:064x}"
    new.loc[1, "sha256"] = f"{23:064x}"
    new.loc[2, "patient"] = "p41"
    new.loc[3, "thumbnail"] = drawn(55)
    found = related(batches, place, new)
    assert {"u7", "u23", "u41", "u55"} <= names(found)
    assert len(found) < 60 and list(found.columns) == list(admitted_units.COLUMNS)
    assert found.set_index("unit_id").at["u55", "thumbnail"] == drawn(55)


def test_a_cluster_is_not_compared_with_itself(batches: Path, place: Path) -> None:
    again = units(100, 1).assign(thumbnail=drawn(55), cluster="p55")
    assert "u55" not in names(related(batches, place, again))
    assert "u55" in names(related(batches, place, again.assign(cluster="other")))


def test_nothing_is_related_to_nothing(tmp_path: Path, place: Path, batches: Path) -> None:
    assert related(tmp_path / "none", place, units(0, 3)).empty
    assert related(batches, place, units(0, 0)).empty


def test_the_gate_says_the_same_of_the_related_as_of_all(batches: Path, place: Path, ingest: IngestSettings) -> None:
    """The projection is a filter: whatever it leaves out would not have changed a finding."""
    new = pd.concat([units(10, 3), units(30, 3).assign(label="tumour"), units(200, 20)], ignore_index=True)
    new.loc[6, ["thumbnail", "label"]] = [drawn(50), "tumour"]
    new.loc[7, ["thumbnail"]] = [drawn(51)]
    new.loc[8, ["patient", "cluster"]] = ["p52", "elsewhere"]
    new = complete(new).assign(unit_id=[f"n{number}" for number in range(len(new))])
    all_of_them = complete(units(0, 60))
    by_filter, by_all = (check(new, admitted, ingest) for admitted in (related(batches, place, new), all_of_them))
    assert by_filter.failing == by_all.failing and len(by_all.failing) == 9
    kinds = {reason.split(":")[0] for reasons in by_filter.failing.values() for reason in reasons}
    assert kinds == {
        "copy of an admitted scan",
        "the same picture has two labels",
        "patient in two groups",
        "near-duplicate of another patient's scan",
        "nearly the same picture has another label",
    }


def complete(table: pd.DataFrame) -> pd.DataFrame:
    """With the columns that a manifest has beside those that are asked here."""
    from data.batch.manifest import COLUMNS, TEXT

    return table.reindex(columns=[*dict.fromkeys([*table.columns, *COLUMNS])]).fillna(dict.fromkeys(TEXT, ""))


def test_batches_that_come_and_go_are_followed(batches: Path, place: Path) -> None:
    asked = units(100, 1).assign(thumbnail=drawn(15))
    assert "u15" in names(related(batches, place, asked))
    shutil.rmtree(batches / "b0")
    admit(batches, "b0-w1", units(0, 20).iloc[:15])
    admit(batches, "b3", units(60, 10))
    assert "u15" not in names(related(batches, place, asked))
    assert {"u3", "u65"} <= names(related(batches, place, units(100, 2).assign(patient=["p3", "p65"])))
    shutil.rmtree(batches / "b3")
    assert related(batches, place, units(60, 1)).query("unit_id == 'u60'").empty


def test_a_batch_of_the_same_name_with_other_content_is_read_again(batches: Path, place: Path) -> None:
    related(batches, place, units(0, 1))
    (batches / "b1.dvc").write_text("outs: another\n")
    units(20, 20).assign(label="tumour").to_csv(batches / "b1" / "manifest.csv", index=False)
    assert set(related(batches, place, units(25, 1)).query("unit_id == 'u25'")["label"]) == {"tumour"}


def test_what_was_withdrawn_is_in_no_byte(batches: Path, place: Path) -> None:
    related(batches, place, units(0, 1))
    marks = [b"p15", drawn(15).encode()[:60]]
    assert all(any(mark in path.read_bytes() for path in place.iterdir()) for mark in marks)
    shutil.rmtree(batches / "b0")
    related(batches, place, units(100, 1))
    assert not any(mark in path.read_bytes() for path in place.iterdir() for mark in marks)
    admitted_units.forget(place)
    assert not place.exists()


@pytest.mark.parametrize("harm", ["deleted", "cut", "garbage", "version", "index"])
def test_a_damaged_projection_is_built_anew(
    batches: Path, place: Path, harm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deleting it changes nothing; nor does any harm that the files themselves show."""
    monkeypatch.setattr(index_segments, "TAIL", 30)
    monkeypatch.setattr(vector_index, "SMALL", 20)
    asked = units(100, 2).assign(thumbnail=[drawn(15), drawn(44)], patient=["p3", "q"])
    before = related(batches, place, asked)
    assert {"u15", "u44", "u3"} <= names(before)
    database, index = place / "known.db", next(place.glob("*.index"))
    if harm == "deleted":
        shutil.rmtree(place)
    elif harm == "cut":
        database.write_bytes(database.read_bytes()[: database.stat().st_size // 2])
    elif harm == "garbage":
        database.write_bytes(b"no database" * 1000)
    elif harm == "version":
        with sqlite3.connect(database) as opened:
            opened.execute("PRAGMA user_version = 999")
        opened.close()
    else:
        index.write_bytes(index.read_bytes()[:-10])
    pd.testing.assert_frame_equal(related(batches, place, asked), before)


def test_files_of_about_one_size_are_joined_and_none_is_lost(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twelve batches, a file for every second one: a few files of growing size remain, and every picture is found."""
    monkeypatch.setattr(index_segments, "TAIL", 15)
    monkeypatch.setattr(index_segments, "LARGEST", 100)
    for number in range(12):
        admit(tmp_path / "batches", f"b{number:02d}", units(10 * number, 10))
        related(tmp_path / "batches", place, units(500, 1))
    sizes = sorted(row[0] for row in sqlite3.connect(place / "known.db").execute("SELECT count FROM segments"))
    assert sum(sizes) >= 105 and len(sizes) <= 3 and sizes[-1] <= 100
    assert len(list(place.glob("*.index*"))) == len(sizes)
    asked = units(500, 120).assign(thumbnail=[drawn(number) for number in range(120)])
    assert {f"u{number}" for number in range(120)} <= names(related(tmp_path / "batches", place, asked))


def test_manifests_without_thumbnails_still_answer_for_copies(batches: Path, place: Path) -> None:
    """A batch of an older version has no thumbnail; its pixels' hashes and its patients are known all the same."""
    admit(batches, "old", units(300, 5).drop(columns="thumbnail"))
    assert "u302" in names(related(batches, place, units(302, 1)))
