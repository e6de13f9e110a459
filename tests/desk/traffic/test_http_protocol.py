"""Hostile HTTP to the desk's public port: invalid requests, wrong lengths, floods of headers, chunks and trailers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from lineage.record import journal
from tests.desk.traffic.conftest import Front
from tests.serving import hostile_inputs
from tests.serving.conftest import dicom
from tests.serving.http.test_http_protocol import BODIES, FORM, INVALID_REQUESTS, MULTIPART, PART, exchange

pytestmark = pytest.mark.usefixtures("served_home")


@pytest.fixture(scope="module", autouse=True)
def check_processes(front: Front, served_home: Path) -> Iterator[None]:
    """After all tests of this module the same processes answer, have hardly grown, and there is no new file."""
    assert front.answers()
    desk = psutil.Process(front.process_id)
    before, desk_before = hostile_inputs.resident(front.release), desk.memory_info().rss
    files_before = hostile_inputs.state_files(front.release, served_home)
    yield
    assert front.answers()
    after = hostile_inputs.resident(front.release)
    growth = [*(after[pid] - before[pid] for pid in before), desk.memory_info().rss - desk_before]
    assert after.keys() == before.keys() and max(growth) < hostile_inputs.GROWTH, growth
    assert hostile_inputs.state_files(front.release, served_home) - files_before == set()


def head(front: Front, *lines: str, method: str = "POST", path: str = "/api/predict") -> bytes:
    credentials = [f"{name}: {value}" for name, value in front.headers.items()]
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: x", *credentials, *lines]).encode("latin-1") + b"\r\n\r\n"


@pytest.mark.parametrize("kind", BODIES)
def test_a_body_that_is_not_an_upload_is_a_client_error(front: Front, kind: str) -> None:
    media, body = BODIES[kind]
    rows_before = journal.count()
    for lines, content in (
        ([f"Content-Length: {len(body)}"], body),
        (["Transfer-Encoding: chunked"], b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n"),
    ):
        request = head(front, f"Content-Type: {media}", "Connection: close", *lines)
        status, received = exchange(front.url, request, content)
        assert 400 <= status < 500, received[:600]
        assert b"application/problem+json" in received and b'"detail":"' in received, received[:600]
    assert journal.count() == rows_before


FLOODS = {
    "a header of 100 KB": b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 100_000,
    "an address of 100 KB": b"GET /" + b"x" * 100_000,
    "10,000 headers": b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + b"X: x\r\n" * 20_000,
}
REQUESTS = {kind: (request, 400) for kind, request in INVALID_REQUESTS.items()} | {
    kind: (request, 431) for kind, request in FLOODS.items()
}


@pytest.mark.parametrize("kind", REQUESTS)
def test_an_invalid_request_gets_a_problem(front: Front, kind: str) -> None:
    request, expected_status = REQUESTS[kind]
    status, received = exchange(front.url, request)
    assert status == expected_status and b"application/problem+json" in received, received[:300]


def test_a_refused_body_that_still_arrives_does_not_break_the_connection(front: Front) -> None:
    headers = front.headers | {"Content-Type": "application/dicom"}
    with httpx.Client(base_url=front.url, headers=headers, timeout=30) as client:
        for _ in range(4):
            assert client.post("/api/predict", content=bytes(3_000_000)).status_code == 413
            assert client.post("/api/predict", content=dicom(True)).status_code == 200
            assert client.post("/healthz", content=bytes(3_000_000)).status_code == 405


def test_a_websocket_is_not_opened(front: Front) -> None:
    upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    upgrade += "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg=="
    status, _ = exchange(front.url, f"GET /api/predict HTTP/1.1\r\nHost: x\r\n{upgrade}\r\n\r\n".encode())
    assert status == 405


def test_unknown_addresses_do_not_appear_in_the_releases_metrics(front: Front) -> None:
    with httpx.Client(base_url=front.url) as client:
        for number in range(300):
            assert client.get(f"/made-up-{number}").status_code == 404
            assert client.post(f"/api/predict/made-up-{number}", headers=front.headers).status_code == 404
    assert "made-up" not in httpx.get(f"{front.release.server.url}/metrics").text


def test_an_oversized_body_is_refused_before_it_is_read(front: Front) -> None:
    started_at = time.monotonic()
    status, received = exchange(front.url, head(front, MULTIPART, "Content-Length: 99999999999"), PART)
    assert status == 413 and b"over 1 MB" in received and time.monotonic() - started_at < 5


@pytest.mark.parametrize("media", [FORM, "application/dicom", "application/zip"])
def test_chunks_over_the_limit_are_refused(front: Front, media: str) -> None:
    def long_body() -> Iterator[bytes]:
        yield PART
        for _ in range(40):
            yield bytes(100_000)

    headers = front.headers | {"Content-Type": media}
    assert httpx.post(f"{front.url}/api/predict", content=long_body(), headers=headers).status_code == 413


def test_many_chunks_of_one_byte_and_many_trailers_are_refused(front: Front) -> None:
    lines = head(front, MULTIPART, "Transfer-Encoding: chunked")
    status, _ = exchange(front.url, lines, b"1\r\nx\r\n" * 100_000)
    assert status in (0, 400, 431)
    status, _ = exchange(front.url, lines, b"0\r\n", b"X: x\r\n" * 100_000)
    assert status in (0, 400, 431)


def test_a_body_shorter_than_its_length_gets_no_answer_and_no_row(front: Front) -> None:
    rows_before = journal.count()
    body = PART + dicom(True) + b"\r\n--b--\r\n"
    for cut in (1, len(body) // 2, len(body) - 1):
        exchange(front.url, head(front, MULTIPART, f"Content-Length: {len(body)}"), body[:cut], ends=True)
    assert journal.count() == rows_before
