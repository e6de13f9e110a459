from __future__ import annotations

import io
import time
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from data.core_types import Task, ValueUnit
from data.duplicates import image_alignment, vector_index
from data.duplicates.near_duplicates import NEIGHBOUR_COUNT, candidates, groups, near_pairs, pictures
from data.phantom import study
from data.scan import preprocess, thumbnail

ALIKE = 0.97


def likeness(grey: np.ndarray, task: Task) -> dict[str, object]:
    pixels = preprocess.unit_pixels(np.ascontiguousarray(grey, np.float32), ValueUnit.DISPLAY, task.pixels)
    return {
        "thumbnail": thumbnail.thumbnail(pixels),
        "std": float(grey.std()),
    }


@pytest.fixture(scope="module")
def greys(lung: Task) -> list[np.ndarray]:
    """Chest slices of forty phantom patients as display grey."""
    scanner, slices = study.usual_scanner(lung), []
    for number in range(40):
        plane, _ = study.make_study(lung, scanner, 3, number, lung.classes[number % 3]).slice(0, 1)
        slices.append(np.clip((plane.astype(np.float32) + 1150) / 1500 * 255, 0, 255))
    return slices


def table(greys: list[np.ndarray], task: Task, prefix: str = "P") -> pd.DataFrame:
    rows = pd.DataFrame([likeness(grey, task) for grey in greys])
    return rows.assign(cluster=[f"{prefix}{number}" for number in range(len(rows))])


def recompressed(grey: np.ndarray) -> np.ndarray:
    stream = io.BytesIO()
    Image.fromarray(grey.astype(np.uint8)).save(stream, "JPEG", quality=60)
    return np.asarray(Image.open(stream), np.float32)


def cropped(grey: np.ndarray) -> np.ndarray:
    """Without 5 % at each side: a tenth of the width."""
    cut = round(grey.shape[0] * 0.05)
    return grey[cut:-cut, cut:-cut]


def cornered(grey: np.ndarray) -> np.ndarray:
    """Without 5 % at the top and at the left."""
    cut = round(grey.shape[0] * 0.05)
    return grey[cut:, cut:]


def darker(grey: np.ndarray) -> np.ndarray:
    return grey * 0.9


def brighter(grey: np.ndarray) -> np.ndarray:
    return np.clip(grey * 1.1, 0, 255)


@pytest.mark.parametrize("change", [recompressed, cropped, cornered, brighter, darker])
def test_changed_copies_are_near_and_other_patients_are_not(
    greys: list[np.ndarray], lung: Task, change: Callable[[np.ndarray], np.ndarray]
) -> None:
    """In both directions: the changed picture can also come first."""
    originals, changed = table(greys, lung), table([change(grey) for grey in greys], lung, "Q")
    for new, old in ((changed, originals), (originals, changed)):
        pairs = near_pairs(new, old, ALIKE)
        matches = int((pairs[:, 0] == pairs[:, 1]).sum())
        assert matches >= 38 and len(pairs) - matches == 0


def test_no_patient_is_near_to_another(greys: list[np.ndarray], lung: Task) -> None:
    originals = table(greys, lung)
    assert len(near_pairs(originals, originals, ALIKE)) == 0


def test_the_most_alike_pair_comes_first(greys: list[np.ndarray], lung: Task) -> None:
    originals = table([cropped(greys[0]), greys[0]], lung)
    assert near_pairs(table([greys[0]], lung, "Q"), originals, ALIKE).tolist() == [[0, 1], [0, 0]]


def test_a_patient_with_many_slices_does_not_hide_another() -> None:
    """Forty slices of the own cluster are nearer than the other one: the search is widened until it is found."""
    random = np.random.default_rng(0)
    vectors = np.ones((41, 8)) + 0.01 * random.normal(size=(41, 8))
    vectors[40] += 0.1
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    clusters = np.array(["own"] * 40 + ["other"], object)
    index = vector_index.build_in_memory(vectors)
    pairs = candidates(
        lambda queries, count: vector_index.search(index, queries, count),
        lambda numbers: clusters[numbers],
        vectors[:5],
        clusters[:5],
    )
    assert pairs.tolist() == [[number, 40] for number in range(5)] and NEIGHBOUR_COUNT < 40


def test_groups_join_neighbours_of_neighbours(greys: list[np.ndarray], lung: Task) -> None:
    chain = [*greys[:12], recompressed(greys[3]), recompressed(recompressed(greys[3]))]
    group_numbers = groups(table(chain, lung)["thumbnail"])
    assert len(set(group_numbers)) == 12
    assert group_numbers[3] == group_numbers[12] == group_numbers[13]


def test_groups_follow_the_slices_of_a_volume(greys: list[np.ndarray], lung: Task) -> None:
    """Slices that fade from one picture into another form one group, although its ends are not alike."""
    path = [(1 - share) * greys[0] + share * greys[1] for share in np.linspace(0, 1, 12)]
    group_numbers = groups(table([*path, *greys[2:12]], lung)["thumbnail"])
    ends = table([path[0], path[-1]], lung)["thumbnail"]
    assert len(set(group_numbers[:12])) == 1 and len(set(group_numbers)) == 11 and len(set(groups(ends))) == 2


def test_each_blank_picture_is_its_own_group(greys: list[np.ndarray], lung: Task) -> None:
    blank = np.zeros((64, 64))
    assert len(set(groups(table([blank, greys[0], blank], lung)["thumbnail"]))) == 3


def test_empty_tables_have_no_pairs_and_no_groups(greys: list[np.ndarray], lung: Task) -> None:
    originals = table(greys[:3], lung)
    assert (
        near_pairs(originals.iloc[:0], originals, ALIKE).shape
        == near_pairs(originals, originals.iloc[:0], ALIKE).shape
        == (0, 2)
    )
    assert groups(originals["thumbnail"].iloc[:0]).shape == (0,)


def test_a_blank_slice_is_no_picture_and_has_no_near_duplicate(greys: list[np.ndarray], lung: Task) -> None:
    blank = table([greys[0], np.zeros((64, 64)), np.zeros((64, 64))], lung)
    assert list(pictures(blank)) == [True, False, False]
    assert len(near_pairs(blank, blank, ALIKE)) == 0


def test_a_thumbnail_is_decoded_unchanged() -> None:
    grey = np.random.default_rng(0).integers(0, 64, (2, 40, 40)).astype(np.uint8)
    assert (
        thumbnail.decode_thumbnails(pd.Series([thumbnail.encode_thumbnail(picture) for picture in grey])) == grey
    ).all()
    assert (thumbnail.decode_thumbnails(pd.Series([""])) == 0).all()


def test_the_index_agrees_with_brute_force() -> None:
    """A thousand new vectors and a hundred thousand known ones in clusters, as pictures have them."""
    random = np.random.default_rng(0)
    centres = random.normal(size=(500, 51))
    originals = centres[random.integers(0, 500, 100_000)] + 0.4 * random.normal(size=(100_000, 51))
    originals = (originals / np.linalg.norm(originals, axis=1, keepdims=True)).astype(np.float32)
    queries = originals[:1000] + 0.02 * random.normal(size=(1000, 51)).astype(np.float32)
    index = vector_index.build_in_memory(originals)
    begin = time.process_time()
    _, numbers = vector_index.search(index, queries, NEIGHBOUR_COUNT)
    assert time.process_time() - begin < 5
    nearest = np.argpartition(-(queries[:200] @ originals.T), NEIGHBOUR_COUNT, 1)[:, :NEIGHBOUR_COUNT]
    assert (numbers[:, 0] == np.arange(1000)).mean() >= 0.99
    assert (
        np.mean(
            [
                len(set(found_numbers) & set(true_numbers)) / NEIGHBOUR_COUNT
                for found_numbers, true_numbers in zip(numbers, nearest, strict=False)
            ]
        )
        >= 0.99
    )


def test_the_time_of_groups_is_not_quadratic() -> None:
    """Twice as many pictures take about twice as long, not four times; each picture finds its copy."""
    random = np.random.default_rng(0)

    def seconds(count: int) -> float:
        originals = random.integers(0, 64, (count // 2, 10, 10)).astype(np.uint8).repeat(4, 1).repeat(4, 2)
        column = pd.Series([thumbnail.encode_thumbnail(grey) for grey in originals for _ in range(2)])
        begin = time.process_time()
        assert len(set(groups(column))) == count // 2
        return time.process_time() - begin

    few_seconds, many_seconds = seconds(2_000), seconds(4_000)
    assert many_seconds < 3.5 * few_seconds


def test_unrelated_pairs_end_after_the_first_comparison() -> None:
    """A block can have no promising pair, and there can be no pair at all."""
    left, right = np.random.default_rng(0).integers(0, 64, (2, 5, 40, 40), np.uint8)
    likeness = image_alignment.likeness(left, right, np.zeros((5, 3), np.float32))
    assert likeness.shape == (5,) and (likeness < image_alignment.CLOSE).all()
    assert image_alignment.likeness(left[:0], right[:0], np.zeros((0, 3), np.float32)).shape == (0,)
