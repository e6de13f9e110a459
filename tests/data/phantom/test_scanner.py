from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from data.core_types import Modality, Scan, ValueUnit
from data.phantom import anatomy, canvas
from data.phantom.anatomy import Habit, Lesion
from data.phantom.scanner import SCANNERS, Scanner, acquire
from data.scan.slice_features import describe

DRAW = {Modality.CT: anatomy.chest, Modality.MR: anatomy.head}
for_each_scanner = pytest.mark.parametrize("scanner", SCANNERS.values(), ids=list(SCANNERS))


def draw_slice(scanner: Scanner, lesion: Lesion | None = None, seed: int = 0) -> np.ndarray:
    patient, detail = np.random.default_rng(seed), np.random.default_rng(seed + 1)
    return DRAW[scanner.modality](patient, detail, scanner.spacing[0], lesion, scanner.habit, 0.0)


def test_each_modality_has_two_usual_scanners_and_a_shifted_one() -> None:
    for modality in Modality:
        scanners = [scanner for scanner in SCANNERS.values() if scanner.modality == modality]
        assert [scanner.is_inverted for scanner in scanners] == [False, False, True]
        assert len({(scanner.manufacturer, scanner.site) for scanner in scanners}) == 3


@for_each_scanner
def test_the_stored_scan_is_plausible(scanner: Scanner) -> None:
    stored = acquire(draw_slice(scanner), scanner, np.random.default_rng(1))
    assert stored.dtype == np.int16 and stored.shape == (anatomy.SIZE, anatomy.SIZE)
    if scanner.modality == Modality.CT:
        assert stored.min() >= -1024 and 200 < stored.max() < 3072 and np.median(stored[:8]) < -900
    else:
        assert stored.min() >= 0 and stored.max() < 4096 and np.median(stored[:8]) < 120


@for_each_scanner
def test_noise_gain_and_offset_are_as_set(scanner: Scanner) -> None:
    flat = np.full((anatomy.SIZE, anatomy.SIZE), 500, np.float32)
    plane = acquire(flat, replace(scanner, bias=0.0), np.random.default_rng(1)).astype(np.float32)
    scan = Scan("flat", plane[None], ValueUnit.HU, scanner.modality, None)
    assert describe(plane, scan)["noise"] == pytest.approx(scanner.noise, rel=0.1)
    assert plane.mean() == pytest.approx(500 * scanner.gain + scanner.offset, abs=8)


def test_blur_keeps_the_sum_and_softens_an_edge() -> None:
    quiet = replace(SCANNERS["alder-ct"], noise=0.0)
    edge = np.zeros((anatomy.SIZE, anatomy.SIZE), np.float32)
    edge[:, 64:] = 1000
    steps = [np.diff(acquire(edge, replace(quiet, blur=blur), np.random.default_rng(0))[64]).max() for blur in (0.4, 1)]
    assert steps[0] > steps[1] > 300
    assert acquire(edge, quiet, np.random.default_rng(0)).mean() == pytest.approx(500, abs=1)


def test_the_shifted_chest_is_hazier_and_noisier() -> None:
    usual, shifted = SCANNERS["alder-ct"], SCANNERS["shifted-ct"]
    lungs = []
    for scanner in (usual, shifted):
        plane = draw_slice(scanner)
        lungs.append(np.median(plane[(plane > -930) & (plane < -400)]))
    assert lungs[1] - lungs[0] == pytest.approx(300, abs=60)
    assert shifted.noise >= 2 * usual.noise


@pytest.mark.parametrize("draw", [anatomy.chest, anatomy.abdomen, anatomy.head])
def test_a_larger_lesion_covers_more_pixels(draw: object) -> None:
    def picture(radius: float | None) -> np.ndarray:
        lesion = None if radius is None else Lesion(radius, 1.0, 0.0, False)
        return draw(np.random.default_rng(7), np.random.default_rng(8), 2.5, lesion, Habit(0, False), 0.0)  # type: ignore[operator]

    healthy = picture(None)
    sizes = [int((np.abs(picture(radius) - healthy) > 30).sum()) for radius in (5, 10, 18)]
    assert 0 < sizes[0] < sizes[1] < sizes[2]


def test_shapes_outside_of_the_picture_do_not_change_it() -> None:
    picture = canvas.Canvas(2.0, 5.0)
    picture.ellipse(900, 900, 10, 10, 99)
    picture.ellipse(-128, 0, 10, 10, 99)
    assert (picture.values == 5).mean() > 0.98 and picture.values.max() <= 99
