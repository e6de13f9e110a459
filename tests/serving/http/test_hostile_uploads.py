"""Hostile files sent to the served release: a problem that names file and reason; nothing grows, nothing stays."""

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

pytestmark = pytest.mark.usefixtures("house")
SOAK = bool(os.environ.get("ONCOLOOP_SOAK"))
SCANS, ARCHIVES = hostile_inputs.scans(), hostile_inputs.archives()


@pytest.fixture(scope="module")
def client(endpoint: Endpoint) -> Iterator[httpx.Client]:
    headers = bento_server.request_headers(endpoint.token)
    with httpx.Client(base_url=endpoint.server.url, headers=headers, timeout=60) as client:
        yield client


@pytest.fixture(scope="module", autouse=True)
def unharmed(endpoint: Endpoint, house: Path) -> Iterator[None]:
    """After all of this module the same workers answer, hold little more, and have left no file."""
    hostile_inputs.fed(endpoint)
    assert hostile_inputs.answers(endpoint)
    before, files = hostile_inputs.resident(endpoint), hostile_inputs.files(endpoint, house)
    yield
    assert hostile_inputs.answers(endpoint)
    after = hostile_inputs.resident(endpoint)
    grown = {pid: (after[pid] - before[pid]) / 1e6 for pid in before}
    sys.stdout.write(f"MB that the workers hold more: {grown}\n")
    assert after.keys() == before.keys() and max(grown.values()) * 1e6 < hostile_inputs.GROWTH, grown
    assert hostile_inputs.files(endpoint, house) - files == set()


def refused(reply: httpx.Response, name: str = "") -> str:
    """The reason of a refusal, which is the sender's error and one readable sentence."""
    assert 400 <= reply.status_code < 500, (reply.status_code, reply.text[:300])
    assert reply.headers["content-type"] == "application/problem+json"
    problem = reply.json()
    detail: str = problem["detail"]
    assert problem["status"] == reply.status_code and 10 < len(detail) < 700 and detail.isprintable(), detail
    assert name in detail
    return detail


def form(client: httpx.Client, *files: tuple[str, bytes], task: str = "tiny-mr") -> httpx.Response:
    return client.post("/predict", files=[("files", file) for file in files], data={"task": task})


@pytest.mark.parametrize("kind", SCANS)
def test_what_is_no_scan_is_refused_by_name(client: httpx.Client, kind: str) -> None:
    before = journal.count()
    refused(form(client, ("scan.dcm", SCANS[kind])), "scan.dcm")
    refused(form(client, ("a.dcm", dicom(True)), ("scan.dcm", SCANS[kind])), "scan.dcm")
    body = client.post("/predict", content=SCANS[kind], headers={"Content-Type": "application/dicom"})
    refused(body, "the body" if SCANS[kind] else "empty")
    assert journal.count() == before


@pytest.mark.parametrize("kind", ARCHIVES)
def test_an_archive_that_harms_is_refused_by_name(client: httpx.Client, kind: str) -> None:
    refused(form(client, ("case.zip", ARCHIVES[kind])), "case.zip")
    body = client.post("/predict", content=ARCHIVES[kind], headers={"Content-Type": "application/zip"})
    refused(body, "the body")


def test_every_file_of_the_zoo_is_answered_or_refused(client: httpx.Client, real_data: Path) -> None:
    seen: dict[int, int] = {}
    files = [path for path in sorted((real_data / "dicom-zoo").rglob("*")) if path.is_file() and path.suffix != ".csv"]
    for path in files:
        for task in ("", "tiny-mr")[not SOAK :]:
            reply = form(client, (path.name, path.read_bytes()), task=task)
            seen[reply.status_code] = seen.get(reply.status_code, 0) + 1
            if reply.status_code != 200:
                refused(reply)
            else:
                assert math.isfinite(reply.json()["score"]), path
    sys.stdout.write(f"{len(files)} files of the zoo: {seen}\n")
    assert len(files) > 200 and set(seen) <= {200, 413, 422} and min(seen[200], seen[422]) > 25


def test_many_bombs_in_one_form_are_counted_together(client: httpx.Client) -> None:
    bomb = hostile_inputs.picture(8000, 8000)
    detail = refused(form(client, *((f"{number}.png", bomb) for number in range(9))), ".png")
    assert "decoded" in detail


def test_a_large_blank_picture_is_an_abstention_and_not_kept(client: httpx.Client) -> None:
    reply = form(client, ("blank.png", hostile_inputs.picture(8_000, 8_000)))
    assert reply.status_code == 200 and "blank" in reply.json()["verdict"]["reasons"][0]


NUMBERS = {
    "largest": np.finfo("<f4").max,
    "smallest": np.finfo("<f4").tiny,
    "infinite": np.inf,
    "negative": -3e38,
}


@pytest.mark.parametrize("kind", NUMBERS)
def test_numbers_at_the_edge_give_an_answer_or_a_reason(client: httpx.Client, kind: str) -> None:
    """The journal and JSON take finite numbers alone."""
    values = np.random.default_rng(0).normal(size=(2, 64, 64)).astype("<f4")
    values[:, 8:40, 8:40] = NUMBERS[kind]
    for content in (hostile_inputs.nifti((64, 64, 2), pixels=values.tobytes()), hostile_inputs.floating(values[0])):
        reply = form(client, ("edge.dcm", content))
        if reply.status_code != 200:
            refused(reply, "edge.dcm")


@pytest.mark.parametrize(
    "changed",
    [
        {"pixdim": [np.nan] * 8},
        {"pixdim": [1, 3e38, 3e38, 3e38, 1, 1, 1, 1]},
        {"scl_slope": np.nan},
        {"scl_slope": 3e38, "scl_inter": 3e38},
        {"descrip": b"\xff\xfe\x00\x1b[2J"},
    ],
)
def test_headers_of_odd_numbers_give_an_answer_or_a_reason(client: httpx.Client, changed: dict[str, Any]) -> None:
    values = np.random.default_rng(0).normal(size=(2, 64, 64)).astype("<f4")
    reply = form(client, ("odd.nii", hostile_inputs.nifti((64, 64, 2), pixels=values.tobytes(), **changed)))
    if reply.status_code != 200:
        refused(reply, "odd.nii")


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
def test_texts_of_a_header_can_hold_anything(client: httpx.Client, text: bytes) -> None:
    """As long as the value that they replace, or in a longer one; under every way to declare the letters."""
    for charset in ("ISO_IR 100", "ISO_IR 192", "ISO 2022 IR 87", "nonsense"):
        for keyword in ("Manufacturer", "BodyPartExamined", "PatientID", "Modality", "SeriesInstanceUID", "PatientAge"):
            plain = dicom(True, **{keyword: "Z" * 64, "SpecificCharacterSet": charset})
            content = plain.replace(b"Z" * 64, text[:64].ljust(64, b"Z"))
            reply = form(client, ("text.dcm", content))
            if reply.status_code != 200:
                refused(reply)


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
def test_a_file_name_can_hold_anything(client: httpx.Client, name: str) -> None:
    shown = name.encode("utf-8", "surrogateescape").replace(b'"', b"%22").replace(b"\r\n", b"%0D%0A")
    for content, status in ((dicom(True), 200), (b"junk", 422)):
        head = b'--b\r\nContent-Disposition: form-data; name="files"; filename="' + shown + b'"\r\n\r\n'
        reply = client.post(
            "/predict",
            content=head + content + b"\r\n--b--\r\n",
            headers={"Content-Type": "multipart/form-data; boundary=b"},
        )
        assert reply.status_code == status, reply.text
        assert "x-evil" not in reply.headers and reply.headers["content-type"].startswith("application/")
        if status == 422:
            assert "etc/" not in refused(reply)


def test_a_body_within_the_limit_is_read_and_over_it_refused(client: httpx.Client) -> None:
    assert "over 1 MB" in refused(form(client, ("big.dcm", bytes(2_500_000))))
    packer = struct.pack("<I", 0) * 200_000
    refused(form(client, ("big.dcm", packer)), "big.dcm")
    kept = form(client, *((f"{number}.png", png(True)) for number in range(200)))
    assert kept.status_code == 200 and len(kept.json()["slices"]) == 200
