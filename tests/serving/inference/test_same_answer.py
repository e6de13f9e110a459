"""A file gets the same answer by page, API, command line and replay, with the same pixels as in training."""

from __future__ import annotations

import csv
import dataclasses
import gzip
import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

from data.batch import manifest
from data.core_types import Modality, PixelSettings, Pooling, Task
from data.scan import zip_archive
from lineage import accounts
from lineage.record import ledger
from lineage.record.events import EventKind
from pipelines import cli
from pipelines.commands import predictions
from serving.bundle import bento_server
from serving.inference.predict import Upload, predict
from serving.inference.release import Release, load_release
from tests.desk.conftest import serve
from tests.serving import hostile_inputs
from tests.serving.conftest import Endpoint, dicom, picture

pytestmark = pytest.mark.usefixtures("served_home")
Case = dict[str, bytes]
SERIES = {f"{place}.dcm": dicom(place == 1, place, float(place)) for place in range(3)}
TASK = Task(
    name="tiny-mr",
    title="Tiny",
    organ="brain",
    modality=Modality.MR,
    body_parts=("BRAIN", "HEAD"),
    classes=("normal", "tumour"),
    positive=("tumour",),
    unit="slice",
    cluster="patient",
    ordered=False,
    pixels=PixelSettings(32, None),
    pooling=Pooling("topk", 2),
    sensitivity=0.9,
    note="",
)


def encoded(syntax: str) -> bytes:
    """The DICOM slice in another transfer syntax."""
    image = dcmread(io.BytesIO(dicom(True)))
    stream = io.BytesIO()
    if syntax in (RLELossless, JPEG2000Lossless):
        image.compress(syntax, generate_instance_uid=False)
    elif syntax == ExplicitVRBigEndian:
        image.PixelData = np.frombuffer(image.PixelData, "<u2").astype(">u2").tobytes()
        image["PixelData"].VR = "OW"
    image.file_meta.TransferSyntaxUID = syntax
    little = syntax != ExplicitVRBigEndian
    if syntax in (ExplicitVRBigEndian, ImplicitVRLittleEndian):
        image._read_little = image._read_implicit = None  # so that pydicom does not write the original encoding
    image.save_as(stream, implicit_vr=syntax == ImplicitVRLittleEndian, little_endian=little, enforce_file_format=True)
    return stream.getvalue()


def frames() -> bytes:
    def change(image: Any) -> None:
        image.NumberOfFrames = 3
        image.PixelData = b"".join((picture(place == 1, place) * 4000).astype("<u2").tobytes() for place in range(3))

    return hostile_inputs.change_dataset(change)


def encoded_picture(kind: str, depth: int = 8) -> bytes:
    stream = io.BytesIO()
    pixels = picture(True) * (2**depth - 1)
    Image.fromarray(pixels.astype(np.uint16 if depth == 16 else np.uint8)).save(stream, kind)
    return stream.getvalue()


def volume() -> bytes:
    planes = np.stack([picture(place == 1, place) for place in range(3)]).astype("<f4")
    return hostile_inputs.nifti((32, 32, 3), pixels=planes.tobytes())


FORMATS: dict[str, Callable[[], Case]] = {
    "DICOM": lambda: {"a.dcm": dicom(True)},
    "DICOM, implicit": lambda: {"a.dcm": encoded(ImplicitVRLittleEndian)},
    "DICOM, big-endian": lambda: {"a.dcm": encoded(ExplicitVRBigEndian)},
    "DICOM, deflated": lambda: {"a.dcm": encoded(DeflatedExplicitVRLittleEndian)},
    "DICOM, RLE": lambda: {"a.dcm": encoded(RLELossless)},
    "DICOM, JPEG 2000": lambda: {"a.dcm": encoded(JPEG2000Lossless)},
    "DICOM of float": lambda: {"a.dcm": hostile_inputs.floating(picture(True))},
    "DICOM, multi-frame": lambda: {"a.dcm": frames()},
    "series": lambda: SERIES,
    "zip of a series": lambda: {"s.zip": zip_archive.pack_files(SERIES)},
    "NIfTI": lambda: {"v.nii": volume()},
    "NIfTI, gzip": lambda: {"v.nii.gz": gzip.compress(volume())},
    "PNG": lambda: {"a.png": encoded_picture("PNG")},
    "PNG, 16 bit": lambda: {"a.png": encoded_picture("PNG", 16)},
    "JPEG": lambda: {"a.jpeg": encoded_picture("JPEG")},
    "several pictures": lambda: {"a.png": encoded_picture("PNG"), "b.jpeg": encoded_picture("JPEG")},
}
REAL = (
    "*jpeg_baseline.51*",
    "*jpeg_lossless.57*",
    "*CT1_UNC.fragmented_bot_jpeg_ls.80*",
    "*693_J2KI*",
    "*HTJ2K_08*",
    "*rle*",
    "*big_endian*",
    "*examples_palette*",
    "*MR_dicom2nifti_IM-0001-9600*",
)


@pytest.fixture(scope="module")
def desk_client(endpoint: Endpoint) -> Iterator[httpx.Client]:
    """A signed-in clinician's client of a running desk in front of the release, with the pages' CSRF token."""
    from desk import app

    ledger.record_verdict(dataclasses.replace(endpoint.verdict, subject="r1"))
    ledger.append(EventKind.RELEASE_BUILT, "r1", {"bento": endpoint.tag})
    ledger.append(EventKind.RELEASE_ACTIVATED, "r1", {"url": endpoint.server.url})
    for url in serve(app.create()):
        with httpx.Client(base_url=url, follow_redirects=True, timeout=60) as client:
            client.post("/enter", data={"token": accounts.invite("eve")})
            csrf_field = re.search(r'name="csrf" (?:value|content)="([0-9a-f]{64})"', client.get("/").text)
            assert csrf_field
            client.headers["x-csrf-token"] = csrf_field.group(1)
            yield client


def comparable(answer: dict[str, Any]) -> dict[str, Any]:
    """The fields that must be equal to the last bit; the fixture's Bento has another word in its note."""
    return {key: answer[key] for key in answer if key not in ("id", "at", "duration_ms", "note")}


def answer_everywhere(case: Case, desk_client: httpx.Client, endpoint: Endpoint, folder: Path) -> list[dict[str, Any]]:
    """The answers of the API, the desk and `oncoloop predict`; `oncoloop replay` must agree with the first."""
    form: Any = {"files": [("files", file) for file in case.items()], "data": {"task": "tiny-mr"}}
    api = httpx.post(
        f"{endpoint.server.url}/predict", headers=bento_server.request_headers(endpoint.token), timeout=60, **form
    )
    page = desk_client.post("/api/predict", **form)
    assert api.status_code == page.status_code == 200, (api.text, page.text)
    for name, content in case.items():
        (folder / name).write_bytes(content)
    paths = [str(folder / name) for name in case]
    by_command = predictions.predict(cli.parser().parse_args(["predict", *paths, "--task", "tiny-mr"])).result
    replay = predictions.replay(cli.parser().parse_args(["replay", api.json()["id"], *paths]))
    assert replay.result["same"] and replay.result["difference"] == 0 and replay.code == 0
    return [api.json(), page.json(), by_command]


@pytest.mark.parametrize("kind", FORMATS)
def test_a_case_gets_the_same_answer_everywhere(
    kind: str, desk_client: httpx.Client, endpoint: Endpoint, tmp_path: Path
) -> None:
    api, page, by_command = (
        comparable(answer) for answer in answer_everywhere(FORMATS[kind](), desk_client, endpoint, tmp_path)
    )
    assert api == page == by_command
    if kind.startswith("DICOM,") and "frame" not in kind:  # the same numbers in another encoding
        plain = answer_everywhere(FORMATS["DICOM"](), desk_client, endpoint, tmp_path)[0]
        assert api["probabilities"] == plain["probabilities"] and api["map"] == plain["map"]
    if kind == "zip of a series":
        loose = answer_everywhere(SERIES, desk_client, endpoint, tmp_path)[0]
        assert api["slices"] == loose["slices"] and api["probabilities"] == loose["probabilities"]


def test_real_scans_get_the_same_answer_everywhere(
    desk_client: httpx.Client, endpoint: Endpoint, tmp_path: Path, real_data: Path
) -> None:
    for pattern in REAL:
        path = sorted((real_data / "dicom-zoo" / "decodes").glob(pattern))[0]
        api, page, by_command = (
            comparable(answer)
            for answer in answer_everywhere({path.name: path.read_bytes()}, desk_client, endpoint, tmp_path)
        )
        assert api == page == by_command, path


@pytest.fixture(scope="module")
def recording_release(endpoint: Endpoint) -> tuple[Release, list[np.ndarray]]:
    """The release with an engine that also records its inputs."""
    release, recorded_inputs = load_release(endpoint.folder), []
    model = release.models["tiny-mr"]

    def infer(chunks: list[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
        recorded_inputs.extend(chunk.copy() for chunk in chunks)
        return model.graph.infer(chunks)

    recording_model = dataclasses.replace(model, graph=dataclasses.replace(model.graph, infer=infer))
    return dataclasses.replace(release, models={"tiny-mr": recording_model}), recorded_inputs


@pytest.mark.parametrize("kind", [kind for kind in FORMATS if kind not in ("series", "several pictures")])
def test_the_graph_gets_the_same_pixels_as_training(
    kind: str, recording_release: tuple[Release, list[np.ndarray]], tmp_path: Path
) -> None:
    ((name, content),) = FORMATS[kind]().items()
    release, recorded_inputs = recording_release
    recorded_inputs.clear()
    predict(release, [Upload(name, content)], "tiny-mr")
    source = tmp_path / "batch"
    source.mkdir()
    (source / name).write_bytes(content)
    with (source / "metadata.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([["file_name", "patient_id", "task", "label"], [name, "p", "tiny-mr", "tumour"]])
    manifest.index_batch(source, tmp_path / "admitted", TASK, workers=1)
    prepared = np.load(tmp_path / "admitted" / "prepared.npy")
    np.testing.assert_array_equal(np.concatenate(recorded_inputs), prepared)
