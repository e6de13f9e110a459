from __future__ import annotations

import base64
import io
import time

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from data import describe, phantom, pixels
from data.index import embedded
from data.likeness import groups, near_pairs, pictures
from data.record import Task, Units


def likeness(grey: np.ndarray, task: Task) -> dict[str, object]:
    small = pixels.unit_pixels(np.ascontiguousarray(grey, np.float32), Units.DISPLAY, task.pixels)
    return {"dhash": describe.dhash(small), "embedding": embedded(small), "std": float(grey.std())}


@pytest.fixture(scope="module")
def greys(lung: Task) -> list[np.ndarray]:
    """Chest slices of twelve phantom patients as display grey."""
    scanner, shown = phantom.usual(lung), []
    for number in range(12):
        plane, _ = phantom.study(lung, scanner, 3, number, "normal").slice(0, 1)
        shown.append(np.clip((plane.astype(np.float32) + 1150) / 1500 * 255, 0, 255))
    return shown


def table(greys: list[np.ndarray], task: Task) -> pd.DataFrame:
    return pd.DataFrame([likeness(grey, task) for grey in greys])


def recompressed(grey: np.ndarray) -> np.ndarray:
    stream = io.BytesIO()
    Image.fromarray(grey.astype(np.uint8)).save(stream, "JPEG", quality=60)
    return np.asarray(Image.open(stream), np.float32)


def test_recompressed_and_brightened_copies_are_near_and_other_patients_are_not(
    greys: list[np.ndarray], lung: Task
) -> None:
    known = table(greys, lung)
    for change in (recompressed, lambda grey: np.clip(grey * 1.1, 0, 255)):
        pairs = near_pairs(table([change(grey) for grey in greys], lung), known, bits=4)
        assert sorted(map(tuple, pairs.tolist())) == [(number, number) for number in range(len(greys))]


def test_groups_join_neighbours_of_neighbours(greys: list[np.ndarray], lung: Task) -> None:
    found = groups(table([*greys, recompressed(greys[3]), recompressed(recompressed(greys[3]))], lung), 4, 0.05)
    assert len(set(found)) == len(greys)
    assert found[3] == found[12] == found[13]


def test_nothing_is_near_to_nothing(greys: list[np.ndarray], lung: Task) -> None:
    known = table(greys, lung)
    assert near_pairs(known.iloc[:0], known, 4).shape == near_pairs(known, known.iloc[:0], 4).shape == (0, 2)


def test_a_blank_slice_is_no_picture(greys: list[np.ndarray], lung: Task) -> None:
    assert list(pictures(table([greys[0], np.zeros((64, 64))], lung))) == [True, False]


def test_a_thousand_new_scans_meet_a_hundred_thousand_known_ones_in_seconds() -> None:
    random = np.random.default_rng(0)

    def many(count: int) -> pd.DataFrame:
        hashes = [f"{value:016x}" for value in random.integers(0, 2**63, count)]
        vectors = random.normal(size=(count, 32)).astype("<f2")
        return pd.DataFrame(
            {"dhash": hashes, "embedding": [base64.b64encode(row.tobytes()).decode() for row in vectors]}
        )

    known = many(100_000)
    new = pd.concat([many(999), known.iloc[[77_777]]], ignore_index=True)
    start = time.process_time()
    assert near_pairs(new, known, 4).tolist() == [[999, 77_777]]
    assert time.process_time() - start < 5
