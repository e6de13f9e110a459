"""Hostile files sent to the served release: a problem names file and reason; memory and files do not grow."""

from __future__ import annotations

import math
import os
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from lineage.record import journal
from serving.bundle import bento_server
from tests.serving import hostile_inputs
from tests.serving.conftest import Endpoint, dicom, png

pytestmark = pytest.mark.usefixtures("served_home")
SOAK = bool(os.environ.get("ONCOLOOP_SOAK"))
SCANS, ARCHIVES = hostile_inputs.scans(), hostile_inputs.archives()


@pytest.fixture(scope="module")
def client(endpoint: Endpoint) -> Iterator[httpx.Client]:
    headers = bento_server.request_headers(endpoint.token)
    with httpx.Client(base_url=endpoint.server.url, headers=headers, timeout=60) as client:
        yield client


@pytest.fixture(scope="module", autouse=True)
def check_workers(endpoint: Endpoint, served_home: Path) -> Iterator[None]:
    """After all tests of this module the same workers still answer, have hardly grown, and there is no new file."""
    hostile_inputs.send_largest_scan(endpoint)
    assert hostile_inputs.still_answers(endpoint)
    before, files_before = hostile_inputs.resident(endpoint), hostile_inputs.state_files(endpoint, served_home)
    yield
    assert hostile_inputs.still_answers(endpoint)
    after = hostile_inputs.resident(endpoint)
    growth = {pid: (after[pid] - before[pid]) / 1e6 for pid in before}
    sys.stdout.write(f"growth of the workers in MB: {growth}\n")
    assert after.keys() == before.keys() and max(growth.values()) * 1e6 < hostile_inputs.GROWTH, growth
    assert hostile_inputs.state_files(endpoint, served_home) - files_before == set()


def refusal_reason(response: httpx.Response, name: str = "") -> str:
    """The reason of a refusal, after checking that it is a client error with one readable sentence."""
    assert 400 <= response.status_code < 500, (response.status_code, response.text[:300])
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    detail: str = problem["detail"]
    assert problem["status"] == response.status_code and 10 < len(detail) < 700 and detail.isprintable(), detail
    assert name in detail
    return detail


def send_form(client: httpx.Client, *files: tuple[str, bytes], task: str = "tiny-mr") -> httpx.Response:
    return client.post("/predict", files=[("files", file) for file in files], data={"task": task})


@pytest.mark.parametrize("kind", SCANS)
def test_a_file_that_is_not_a_scan_is_refused_by_name(client: httpx.Client, kind: str) -> None:
    before = journal.count()
    refusal_reason(send_form(client, ("scan.dcm", SCANS[kind])), "scan.dcm")
    refusal_reason(send_form(client, ("a.dcm", dicom(True)), ("scan.dcm", SCANS[kind])), "scan.dcm")
    body = client.post("/predict", content=SCANS[kind], headers={"Content-Type": "application/dicom"})
    refusal_reason(body, "the body" if SCANS[kind] else "empty")
    assert journal.count() == before


@pytest.mark.parametrize("kind", ARCHIVES)
def test_a_hostile_archive_is_refused_by_name(client: httpx.Client, kind: str) -> None:
    refusal_reason(send_form(client, ("case.zip", ARCHIVES[kind])), "case.zip")
    body = client.post("/predict", content=ARCHIVES[kind], headers={"Content-Type": "application/zip"})
    refusal_reason(body, "the body")


def test_every_file_of_the_zoo_is_answered_or_refused(client: httpx.Client, real_data: Path) -> None:
    status_counts: dict[int, int] = {}
    files = [path for path in sorted((real_data / "dicom-zoo").rglob("*")) if path.is_file() and path.suffix != ".csv"]
    for path in files:
        for task in ("", "tiny-mr")[not SOAK :]:
            response = send_form(client, (path.name, path.read_bytes()), task=task)
            status_counts[response.status_code] = status_counts.get(response.status_code, 0) + 1
            if response.status_code != 200:
                refusal_reason(response)
            else:
                assert math.isfinite(response.json()["score"]), path
    sys.stdout.write(f"{len(files)} files of the zoo: {status_counts}\n")
    assert (
        len(files) > 200 and set(status_counts) <= {200, 413, 422} and min(status_counts[200], status_counts[422]) > 25
    )


def test_decoded_sizes_of_one_form_are_added_up(client: httpx.Client) -> None:
    bomb = hostile_inputs.picture(8000, 8000)
    detail = refusal_reason(send_form(client, *((f"{number}.png", bomb) for number in range(9))), ".png")
    assert "decoded" in detail


def test_a_large_blank_picture_is_an_abstention(client: httpx.Client) -> None:
    response = send_form(client, ("blank.png", hostile_inputs.picture(8_000, 8_000)))
    assert response.status_code == 200 and "blank" in response.json()["verdict"]["reasons"][0]


NUMBERS = {
    "largest": np.finfo("<f4").max,
    "smallest": np.finfo("<f4").tiny,
    "infinite": np.inf,
    "negative": -3e38,
}


@pytest.mark.parametrize("kind", NUMBERS)
def test_extreme_numbers_get_an_answer_or_a_reason(client: httpx.Client, kind: str) -> None:
    """The journal and JSON accept only finite numbers."""
    values = np.random.default_rng(0).normal(size=(2, 64, 64)).astype("<f4")
    values[:, 8:40, 8:40] = NUMBERS[kind]
    for content in (hostile_inputs.nifti((64, 64, 2), pixels=values.tobytes()), hostile_inputs.floating(values[0])):
        response = send_form(client, ("edge.dcm", content))
        if response.status_code != 200:
            refusal_reason(response, "edge.dcm")


@pytest.mark.parametrize(
    "fields",
    [
        {"pixdim": [np.nan] * 8},
        {"pixdim": [1, 3e38, 3e38, 3e38, 1, 1, 1, 1]},
        {"scl_slope": np.nan},
        {"scl_slope": 3e38, "scl_inter": 3e38},
        {"descrip": b"\xff\xfe\x00\x1b[2J"},
    ],
)
def test_headers_with_odd_numbers_get_an_answer_or_a_reason(client: httpx.Client, fields: dict[str, Any]) -> None:
    values = np.random.default_rng(0).normal(size=(2, 64, 64)).astype("<f4")
    response = send_form(client, ("odd.nii", hostile_inputs.nifti((64, 64, 2), pixels=values.tobytes(), **fields)))
    if response.status_code != 200:
        refusal_reason(response, "odd.nii")


TEXTS = [
    b"a\0b",
    b"\xff\xfe\x80",
    b"\xed\xa0\x80",
    b"\x1b$B\x1b(J",
    b"x" * 5000,
    b"<script>alert(1)</script>",
    b"\\" * 50,
]


@pytest.mark.parametrize("text", TEXTS)
def test_a_header_may_contain_any_text(client: httpx.Client, text: bytes) -> None:
    """Texts of the replaced value's length, or within a longer value, with every declared character set."""
    for charset in ("ISO_IR 100", "ISO_IR 192", "ISO 2022 IR 87", "nonsense"):
        for keyword in ("Manufacturer", "BodyPartExamined", "PatientID", "Modality", "SeriesInstanceUID", "PatientAge"):
            plain = dicom(True, **{keyword: "Z" * 64, "SpecificCharacterSet": charset})
            content = plain.replace(b"Z" * 64, text[:64].ljust(64, b"Z"))
            response = send_form(client, ("text.dcm", content))
            if response.status_code != 200:
                refusal_reason(response)


@pytest.mark.parametrize(
    "name",
    [
        '<svg onload="alert(1)">.dcm',
        "<img src=x>.html",
        "a\0b.dcm",
        "\udcff\udcfe.dcm",
        "../" * 40 + "etc/passwd",
        "x" * 1000,
        "CON",
        "$(id).dcm",
        "a\r\nX-Evil: 1.dcm",
        "\u202egnp.dcm",
        ".",
        "/",
    ],
)
def test_a_file_name_may_contain_anything(client: httpx.Client, name: str) -> None:
    encoded_name = name.encode("utf-8", "surrogateescape").replace(b'"', b"%22").replace(b"\r\n", b"%0D%0A")
    for content, status in ((dicom(True), 200), (b"junk", 422)):
        head = b'--b\r\nContent-Disposition: form-data; name="files"; filename="' + encoded_name + b'"\r\n\r\n'
        response = client.post(
            "/predict",
            content=head + content + b"\r\n--b--\r\n",
            headers={"Content-Type": "multipart/form-data; boundary=b"},
        )
        assert response.status_code == status, response.text
        assert "x-evil" not in response.headers and response.headers["content-type"].startswith("application/")
        if status == 422:
            assert "etc/" not in refusal_reason(response)


def test_a_body_over_the_limit_is_refused(client: httpx.Client) -> None:
    assert "over 1 MB" in refusal_reason(send_form(client, ("big.dcm", bytes(2_500_000))))
    zeros = struct.pack("<I", 0) * 200_000
    refusal_reason(send_form(client, ("big.dcm", zeros)), "big.dcm")
    answered = send_form(client, *((f"{number}.png", png(True)) for number in range(200)))
    assert answered.status_code == 200 and len(answered.json()["slices"]) == 200
