"""Pictures of another kind get a low likeness, those of new patients a high one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from data.core_types import Modality, ValueUnit
from data.dataset.shards import Units
from data.phantom import study
from data.scan.preprocess import unit_pixels
from pipelines import params
from serving.descriptor.picture_kind import PictureKind
from training.picture_kind import fit
from training.picture_kind.generated_pictures import altered_copies, other_pictures

SLICES = (3, 5, 7)


def phantom_slices(name: str, patients: range) -> np.ndarray:
    """Prepared slices of phantoms of a shipped task, three for each patient."""
    task = params.load().tasks[name]
    unit = ValueUnit.HU if task.modality is Modality.CT else ValueUnit.RAW
    planes = []
    for number in patients:
        label = task.classes[0] if number % 2 else task.positive[0]
        phantom = study.make_study(task, study.usual_scanner(task), 11, number, label)
        for index in SLICES:
            plane = phantom.slice(index, 11)[0].astype(np.float32)
            planes.append(unit_pixels(plane, unit, task.pixels))
    return np.stack(planes)


def units_of(pixels: np.ndarray, training_share: float = 0.6) -> Units:
    sides = np.where(np.arange(len(pixels)) < training_share * len(pixels), "training", "test")
    table = pd.DataFrame({"side": sides, "cluster": np.arange(len(pixels)) // len(SLICES)})
    return Units(table, pixels, np.zeros(len(pixels), np.int64), None)


@pytest.fixture(scope="module")
def kind(tmp_path_factory: pytest.TempPathFactory) -> PictureKind:
    """The test of the task brain-mr, fitted on 72 phantoms and with the limit of 48 others."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ONCOLOOP_HOME", str(tmp_path_factory.mktemp("state")))
        fitted = fit.fit(units_of(phantom_slices("brain-mr", range(120))), seed=7)
    assert fitted is not None
    return fitted


def refused_share(kind: PictureKind, pixels: np.ndarray, home: Path, patch: pytest.MonkeyPatch) -> float:
    patch.setenv("ONCOLOOP_HOME", str(home))
    return float((kind.likeness(fit.encoder().vectors(pixels)) < kind.limit).mean())


def test_new_patients_are_accepted(kind: PictureKind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert refused_share(kind, phantom_slices("brain-mr", range(200, 230)), tmp_path, monkeypatch) <= 0.05


def _documents() -> np.ndarray:
    from PIL import Image, ImageDraw

    pages = []
    for number in range(40):
        page = Image.new("L", (600, 600), 255)
        draw = ImageDraw.Draw(page)
        for line in range(20, 580, 18 + number % 9):
            draw.text((20, line), "The patient was seen on Monday with a report of the chest. " * 2, fill=0)
        pages.append(np.asarray(page.resize((128, 128), Image.Resampling.BOX), np.float32) / 255)
    return np.stack(pages)[..., np.newaxis]


def _noise() -> np.ndarray:
    return np.random.default_rng(2).random((40, 128, 128, 1)).astype(np.float32)


@pytest.mark.parametrize(
    "pictures",
    [
        pytest.param(lambda: phantom_slices("lung-ct", range(20)), id="chest CT"),
        pytest.param(lambda: phantom_slices("pancreas-ct", range(20)), id="abdominal CT"),
        pytest.param(lambda: 1 - phantom_slices("brain-mr", range(200, 220)), id="inverted"),
        pytest.param(_documents, id="documents"),
        pytest.param(_noise, id="noise"),
        pytest.param(lambda: np.full((10, 128, 128, 1), 0.5, np.float32), id="blank"),
    ],
)
def test_pictures_of_another_kind_are_refused(
    kind: PictureKind, pictures: Callable[[], np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert refused_share(kind, pictures(), tmp_path, monkeypatch) >= 0.95


def test_a_task_without_training_or_held_out_units_has_no_test() -> None:
    pixels = _noise()
    assert fit.fit(units_of(pixels, 0.0), seed=7) is None
    assert fit.fit(units_of(pixels, 1.0), seed=7) is None


def test_generated_pictures_are_repeatable_and_in_range() -> None:
    pictures = other_pictures(20, 64, seed=4)
    np.testing.assert_array_equal(pictures, other_pictures(20, 64, seed=4))
    copies = altered_copies(pictures, seed=4)
    for images in (pictures, copies):
        assert images.shape == (20, 64, 64, 1)
        assert images.dtype == np.float32
        assert 0 <= images.min() <= images.max() <= 1
    assert (np.abs(copies - pictures).mean(axis=(1, 2, 3)) > 0).all()


def test_texture_is_the_mean_of_the_first_two_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Means of 16 and 24 channels; a mirrored picture with the same statistics has nearly the same texture."""
    monkeypatch.setenv("ONCOLOOP_HOME", str(tmp_path))
    pixels = other_pictures(10, 128, seed=1)
    vectors, texture = fit.encoder().vectors(pixels), fit.texture(pixels)
    assert texture.shape == (10, 40)
    np.testing.assert_array_equal(texture[:, :16], vectors[:, :16])
    np.testing.assert_array_equal(texture[:, 16:], vectors[:, 32:56])
