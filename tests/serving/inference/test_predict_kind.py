"""A release with the test of the kind of picture refuses another kind; a release without it answers as before."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.core_types import PixelSettings, ValueUnit
from data.scan.preprocess import unit_pixels
from lineage.errors import Fault
from lineage.record.verdict import Outcome
from serving.bundle import bento_build
from serving.descriptor import encoder_graph, picture_kind
from serving.inference.descriptor import Descriptor
from serving.inference.predict import Upload, predict
from serving.inference.release import KIND, Release, load_release
from tests.serving.conftest import SIZE, facts, manifest, picture, png
from training.picture_kind import fit

pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture(scope="module")
def source(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the tiny network, with a test of the kind of picture that was fitted on its pictures."""
    folder = tmp_path_factory.mktemp("source")
    for path in tiny.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    encoder_graph.write_graph(folder / "encoder.onnx")
    descriptor = Descriptor.load(folder / "encoder.onnx")
    planes = [picture(seed % 2 == 1, seed) * 255 for seed in range(100, 160)]
    usual = np.stack([unit_pixels(plane, ValueUnit.DISPLAY, PixelSettings(SIZE, None)) for plane in planes])
    other = np.random.default_rng(1).random((60, SIZE, SIZE, 1)).astype(np.float32)
    kind = fit.fit_vectors(descriptor.vectors(usual), descriptor.vectors(other), seed=3)
    picture_kind.save(folder / KIND, picture_kind.PictureKind(**{**vars(kind), "limit": 0.5}))
    return folder


def _release(source: Path, folder: Path, checks_kind: bool) -> Release:
    described = manifest(**{"tiny-mr": facts(checks_kind=checks_kind)})
    return load_release(bento_build.assemble(folder / "r1", described, {"tiny-mr": source}))


def _photograph() -> bytes:
    """Smooth grey shapes, unlike the pictures of the task."""
    rows, columns = np.mgrid[0:1:96j, 0:1:96j]
    stream = io.BytesIO()
    grey = 127 * (1 + np.sin(9 * rows) * np.cos(7 * columns))
    Image.fromarray(grey.astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def test_a_picture_of_another_kind_gets_no_answer_and_the_reason(source: Path, tmp_path: Path) -> None:
    release = _release(source, tmp_path, checks_kind=True)
    usual = predict(release, [Upload("a.png", png(True, 7))], "tiny-mr")
    other = predict(release, [Upload("b.png", _photograph())], "tiny-mr")
    assert usual.verdict.outcome is Outcome.PASS
    assert usual.verdict.figures["likeness"] >= usual.verdict.thresholds["likeness"] == 0.5
    assert other.answer is None
    assert any("the picture is of another kind than those of the task" in reason for reason in other.verdict.reasons)


def test_a_release_without_the_test_answers_as_before(source: Path, tmp_path: Path) -> None:
    release = _release(source, tmp_path, checks_kind=False)
    assert release.descriptor is None
    other = predict(release, [Upload("b.png", _photograph())], "tiny-mr")
    assert other.verdict.figures["likeness"] is None
    assert not any("another kind" in reason for reason in other.verdict.reasons)


def test_a_release_whose_test_is_missing_is_not_served(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "r1"
    _release(source, tmp_path, checks_kind=True)
    (folder / "tiny-mr" / KIND).unlink()
    with pytest.raises(Fault, match=KIND):
        load_release(folder)


def test_a_version_without_the_file_cannot_claim_the_test(tiny: Path, tmp_path: Path) -> None:
    described = manifest(**{"tiny-mr": facts(checks_kind=True)})
    with pytest.raises(Fault, match=f"{KIND} is missing"):
        bento_build.assemble(tmp_path / "r1", described, {"tiny-mr": tiny})
