from __future__ import annotations

import time

import numpy as np
import pytest

from data.core_types import PixelSettings, Scan, ValueUnit
from data.scan.preprocess import resize_by_area, scan_pixels, unit_pixels

LUNG = PixelSettings(128, (-400.0, 1500.0))
BRAIN = PixelSettings(128, None)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(-400, 400, shape).astype(np.float32)


def test_window_maps_hounsfield_units_to_grey() -> None:
    plane = np.full((128, 128), -400, np.float32)
    plane[0, :4] = (-2000, -1150, 350, 3000)
    prepared = unit_pixels(plane, ValueUnit.HU, LUNG)
    assert prepared.shape == (128, 128, 1) and prepared.dtype == np.float32 and prepared.flags.c_contiguous
    np.testing.assert_allclose(prepared[0, :5, 0], [0, 0, 1, 1, 0.5], atol=1e-6)


def test_display_grey_is_divided_by_255() -> None:
    prepared = unit_pixels(np.full((128, 128), 51, np.float32), ValueUnit.DISPLAY, LUNG)
    np.testing.assert_allclose(prepared, 0.2, atol=1e-6)


def test_scanner_units_use_percentiles_so_that_gain_does_not_matter() -> None:
    plane = noise(128, 128)
    plane[5, 5] = 1e6  # one very bright pixel must not make the rest black
    prepared = unit_pixels(plane, ValueUnit.RAW, BRAIN)
    assert 0.3 < prepared.mean() < 0.7
    np.testing.assert_allclose(unit_pixels(plane * 3 + 7, ValueUnit.RAW, BRAIN), prepared, atol=1e-4)
    assert unit_pixels(plane, ValueUnit.HU, BRAIN).mean() == pytest.approx(prepared.mean())  # a task without a window


def test_a_blank_slice_is_black() -> None:
    assert not unit_pixels(np.full((60, 50), 7, np.float32), ValueUnit.RAW, BRAIN).any()


@pytest.mark.parametrize("shape", [(512, 512), (200, 300), (300, 200), (77, 52), (1, 1), (1, 900), (128, 128)])
def test_any_shape_becomes_square_in_range(shape: tuple[int, int]) -> None:
    prepared = unit_pixels(noise(*shape), ValueUnit.HU, LUNG)
    assert prepared.shape == (128, 128, 1) and prepared.min() >= 0 and prepared.max() <= 1


def test_a_dark_border_preserves_the_aspect_ratio() -> None:
    plane = np.full((64, 128), 200, np.float32)
    plane[0, 0] = -2000
    prepared = unit_pixels(plane, ValueUnit.HU, LUNG)[:, :, 0]
    assert not prepared[:31].any() and not prepared[97:].any() and (prepared[34:96] > 0.85).all()


def test_area_resize_gives_the_mean_of_the_covered_patch() -> None:
    plane = noise(512, 512)
    np.testing.assert_allclose(
        resize_by_area(plane, 128, 128), plane.reshape(128, 4, 128, 4).mean((1, 3)), rtol=1e-4, atol=1e-2
    )
    np.testing.assert_allclose(resize_by_area(np.array([[0, 3, 6]], np.float32), 1, 2), [[1, 5]], atol=1e-6)
    np.testing.assert_allclose(resize_by_area(np.array([[2, 4]], np.float32), 1, 4), [[2, 2, 4, 4]])
    for rows, columns in ((100, 37), (513, 600)):
        assert resize_by_area(plane, rows, columns).mean() == pytest.approx(plane.mean(), abs=0.01)


def test_the_same_slice_gives_the_same_bits() -> None:
    plane = noise(300, 211)
    outputs = [unit_pixels(plane.copy(), ValueUnit.HU, LUNG).tobytes() for _ in range(2)]
    assert outputs[0] == outputs[1]
    assert unit_pixels(np.asfortranarray(plane), ValueUnit.HU, LUNG).tobytes() == outputs[0]


def test_preprocessing_does_not_change_the_scan() -> None:
    plane = noise(200, 200)
    before = plane.copy()
    unit_pixels(plane, ValueUnit.HU, LUNG)
    np.testing.assert_array_equal(plane, before)


def test_every_slice_of_a_scan_is_prepared() -> None:
    scan = Scan("s", noise(3, 40, 50), ValueUnit.HU, None, None)
    prepared = scan_pixels(scan, LUNG)
    assert prepared.shape == (3, 128, 128, 1)
    np.testing.assert_array_equal(prepared[1], unit_pixels(scan.pixels[1], ValueUnit.HU, LUNG))


def test_a_full_slice_takes_milliseconds() -> None:
    plane, best = noise(512, 512), 1.0
    for _ in range(20):
        start = time.perf_counter()
        unit_pixels(plane, ValueUnit.HU, LUNG)
        best = min(best, time.perf_counter() - start)
    assert best < 0.006  # 1 ms on an idle core


@pytest.mark.parametrize("spread", [0.0, 1e-44, 1e-38, 1e-29, 1.0, 1e12])
def test_any_spread_of_values_gives_numbers_between_0_and_1(spread: float) -> None:
    plane = (np.linspace(0, 1, 64 * 64, dtype=np.float64).reshape(64, 64) * spread).astype(np.float32)
    unit = unit_pixels(plane, ValueUnit.RAW, PixelSettings(32, None))
    assert np.isfinite(unit).all() and unit.min() >= 0 and unit.max() <= 1
    assert bool(unit.any()) is (spread >= 1e-29)
