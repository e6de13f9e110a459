from __future__ import annotations

import numpy as np
import pytest

from data.core_types import Modality, Scan, ValueUnit
from data.scan.slice_features import DESCRIPTION, EMBEDDING, FACTS, RULE_ONLY, describe, embed

RANDOM = np.random.default_rng(3)


def scan_of(plane: np.ndarray) -> Scan:
    header = {"modality": "CT", "manufacturer": "Kestrel", "position": "1\\2\\3", "sex": "F"}
    return Scan("s", plane[None], ValueUnit.HU, Modality.CT, (5.0, 0.7, 0.8), header, "MRN1")


def description_of(plane: np.ndarray) -> dict[str, float | str]:
    return describe(plane, scan_of(plane))


def scene(noise: float = 0.0) -> np.ndarray:
    axis = np.linspace(0, 6, 256)
    return (300 * np.sin(axis)[:, None] * np.cos(axis) + RANDOM.normal(0, noise, (256, 256))).astype(np.float32)


def test_every_column_is_present_and_no_identity_of_the_patient() -> None:
    values = description_of(scene())
    assert tuple(values) == (*DESCRIPTION, *RULE_ONLY, *FACTS)
    assert all(isinstance(values[name], float) and np.isfinite(values[name]) for name in DESCRIPTION)
    assert all(isinstance(values[name], str) for name in FACTS)
    assert values["manufacturer"] == "Kestrel" and values["units"] == "HU" and values["kernel"] == ""
    assert "MRN1" not in values.values() and "sex" not in values and "position" not in values


def test_order_statistics_and_geometry() -> None:
    plane = np.arange(10_000, dtype=np.float32).reshape(100, 100)
    values = description_of(plane)
    assert values["mean"] == pytest.approx(4999.5) and values["p50"] == pytest.approx(5000, abs=1)
    assert values["p01"] == pytest.approx(100, abs=1) and values["p99"] == pytest.approx(9899, abs=1)
    assert (values["rows"], values["row_spacing"], values["column_spacing"], values["thickness"]) == (100, 0.7, 0.8, 5)


@pytest.mark.parametrize("sigma", [5.0, 20.0, 80.0])
def test_noise_is_measured_in_the_units_of_the_scan(sigma: float) -> None:
    assert description_of(scene(sigma))["noise"] == pytest.approx(sigma, rel=0.06)


def test_blur_gain_blankness_and_saturation_change_the_description() -> None:
    sharp = scene(20)
    blurred = (sharp + np.roll(sharp, 1, 0) + np.roll(sharp, 1, 1)) / 3
    assert description_of(blurred)["sharpness"] < description_of(sharp)["sharpness"] / 2
    assert description_of(sharp * 1.2)["std"] == pytest.approx(1.2 * float(description_of(sharp)["std"]), rel=1e-4)
    blank = description_of(np.full((64, 64), -1024, np.float32))
    assert blank["std"] == 0 and blank["blank_share"] == 1 and blank["entropy"] == 0 and blank["noise"] == 0
    clipped = description_of(np.minimum(sharp, 100))
    assert float(clipped["saturated_share"]) > 0.1


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (2, 2), (3, 500)])
def test_odd_shapes_are_described(shape: tuple[int, int]) -> None:
    values = description_of(np.ones(shape, np.float32))
    assert all(np.isfinite(float(values[name])) for name in DESCRIPTION)


def test_a_scan_without_spacing_has_zeros_for_it() -> None:
    plane = scene()
    values = describe(plane, Scan("s", plane[None], ValueUnit.DISPLAY, None, None))
    assert values["row_spacing"] == 0 and values["units"] == "display" and values["modality"] == ""


def unit(noise: float = 0.0) -> np.ndarray:
    return np.clip(scene(noise) / 700 + 0.5, 0, 1)[:128, :128, None].astype(np.float32)


def test_the_descriptor_is_frozen() -> None:
    """References and journals hold these numbers: a change needs a new descriptor name, not a new expected value."""
    axis = np.linspace(0, 1, 128, dtype=np.float32)
    vector = embed((axis[:, None] * axis**2)[:, :, None])
    assert vector.shape == (EMBEDDING,) and vector.dtype == np.float32
    assert vector[0] == pytest.approx(4 / 6, abs=0.005)  # four times the mean of x y² over the unit square
    np.testing.assert_allclose(vector[:6], [0.66929, -0.57761, -0.38659, 0.1455, 0.33364, 0.0], atol=2e-5)
    np.testing.assert_allclose(vector[20:25], [-0.80668, -2.67032, -3.1951, -3.60901, -3.87146], atol=2e-4)


def test_a_similar_slice_is_near_and_a_noisy_slice_is_far() -> None:
    picture = unit()
    near = np.linalg.norm(embed(picture) - embed(np.clip(picture * 1.02, 0, 1)))
    noisy = np.linalg.norm(embed(picture) - embed(unit(60)))
    assert near < 0.3 < noisy
