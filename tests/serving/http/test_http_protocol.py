"""Hostile HTTP to the served release: invalid requests, wrong lengths, and other spellings of addresses."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from lineage.record import journal
from serving.bundle import bento_server
from tests.serving import hostile_inputs
from tests.serving.conftest import Endpoint, dicom

pytestmark = pytest.mark.usefixtures("served_home")
PART = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.dcm"\r\n\r\n'


def exchange(url: str, *parts: bytes, ends: bool = False) -> tuple[int, bytes]:
    """Send raw bytes, close the sending side if `ends`, and read the first response: status (0 for none) and bytes."""
    host, port = url.removeprefix("http://").split(":")
    received = b""
    with socket.create_connection((host, int(port)), 20) as connection:
        try:
            for part in parts:
                connection.sendall(part)
            if ends:
                connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the server has closed, but its response can still be read
        try:
            while not _is_complete(received) and (chunk := connection.recv(1 << 16)):
                received += chunk
        except ConnectionError:
            pass
    status_line = re.match(rb"HTTP/1\.1 (\d{3})", received)
    return (int(status_line.group(1)) if status_line else 0), received


def _is_complete(response: bytes) -> bool:
    start, _, body = response.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)\r\ncontent-length: (\d+)", start)
    return length is not None and len(body) >= int(length.group(1))


def head(endpoint: Endpoint, *lines: str, method: str = "POST", path: str = "/predict") -> bytes:
    credentials = [f"{name}: {value}" for name, value in bento_server.request_headers(endpoint.token).items()]
    fields = [f"{method} {path} HTTP/1.1", "Host: x", *credentials, *lines]
    return "\r\n".join(fields).encode("latin-1") + b"\r\n\r\n"


FORM = "multipart/form-data; boundary=b"
MULTIPART = f"Content-Type: {FORM}"
BODIES = {
    "no boundary": ("multipart/form-data", PART + b"x\r\n--b--\r\n"),
    "an empty boundary": ("multipart/form-data; boundary=", PART + b"x\r\n--b--\r\n"),
    "a boundary of 9,000": (f"multipart/form-data; boundary={'b' * 9000}", PART + b"x\r\n--b--\r\n"),
    "another boundary": ("multipart/form-data; boundary=c", PART + b"x\r\n--b--\r\n"),
    "no end": (FORM, PART + dicom(True)),
    "nothing": (FORM, b""),
    "no name": (FORM, b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--\r\n"),
    "no disposition": (FORM, b"--b\r\n\r\nx\r\n--b--\r\n"),
    "a huge part header": (FORM, b"--b\r\nX: " + b"x" * 900_000 + b"\r\n\r\nx\r\n--b--\r\n"),
    "10,000 part headers": (FORM, b"--b\r\n" + b"X: x\r\n" * 10_000 + b"\r\nx\r\n--b--\r\n"),
    "10,000 fields": (
        FORM,
        b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\nx\r\n' * 10_000 + b"--b--\r\n",
    ),
    "10,001 files": (FORM, (PART + b"x\r\n") * 10_001 + b"--b--\r\n"),
    "10,000 files of nothing": (FORM, (PART + b"\r\n") * 10_000 + b"--b--\r\n"),
    "text for files": (
        FORM,
        b'--b\r\nContent-Disposition: form-data; name="files"\r\n\r\nhttp://127.0.0.1/\r\n--b--\r\n',
    ),
    "two tasks": (
        FORM,
        PART + b"x\r\n" + b'--b\r\nContent-Disposition: form-data; name="task"\r\n\r\nx\r\n' * 2 + b"--b--\r\n",
    ),
    "a task of no letters": (
        FORM,
        PART + b'x\r\n--b\r\nContent-Disposition: form-data; name="task"\r\n\r\n\0\xff\xfe"\r\n--b--\r\n',
    ),
    "json": ("application/json", b'{"files": ["/etc/passwd"], "task": {"a": [1e999]}}'),
    "a pickle": ("application/vnd.bentoml+pickle", b"\x80\x04cos\nsystem\n(S'id'\ntR."),
    "a form of addresses": ("application/x-www-form-urlencoded", b"files=http://127.0.0.1/&task=%00%ff"),
    "letters beyond ASCII": ("multipart/form-data; boundary=b\xff\xfe", PART + b"x\r\n--b--\r\n"),
    "no type": ("", b"x"),
    "dicom in pieces": ("application/dicom; boundary=b; charset=utf-7", b"x"),
}


@pytest.fixture(scope="module", autouse=True)
def check_workers(endpoint: Endpoint, served_home: Path) -> Iterator[None]:
    """After all tests of this module the same workers still answer, and there is no new file."""
    assert hostile_inputs.still_answers(endpoint)
    before, files_before = hostile_inputs.resident(endpoint), hostile_inputs.state_files(endpoint, served_home)
    yield
    assert hostile_inputs.still_answers(endpoint)
    after = hostile_inputs.resident(endpoint)
    growth = {pid: after[pid] - before[pid] for pid in before}
    assert after.keys() == before.keys() and max(growth.values()) < hostile_inputs.GROWTH, growth
    assert hostile_inputs.state_files(endpoint, served_home) - files_before == set()


@pytest.mark.parametrize("kind", BODIES)
def test_a_body_that_is_not_an_upload_is_a_client_error(endpoint: Endpoint, kind: str) -> None:
    media, body = BODIES[kind]
    before = journal.count()
    for lines, sent in (
        ([f"Content-Length: {len(body)}"], body),
        (["Transfer-Encoding: chunked"], b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n"),
    ):
        status, received = exchange(
            endpoint.server.url, head(endpoint, f"Content-Type: {media}", "Connection: close", *lines), sent
        )
        assert 400 <= status < 500 and b"application/problem+json" in received and b'"detail":"' in received, received[
            :600
        ]
    assert journal.count() == before


INVALID_REQUESTS = {
    "another protocol": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
    "no request": b"hello\r\n\r\n",
    "an unknown method": b"BREW /predict HTTP/1.1\r\nHost: x\r\n\r\n",
    "a negative length": b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
    "a length in words": b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: many\r\n\r\n",
    "a huge length": b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
    "two lengths": b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
    "a length and chunks": (
        b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    ),
    "an address that is not ASCII": b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
    "a query that is not ASCII": b"GET /manifest?\xff\xfe HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
}


@pytest.mark.parametrize("kind", INVALID_REQUESTS)
def test_an_invalid_request_is_refused(endpoint: Endpoint, kind: str) -> None:
    """The desk's public port answers such requests with a problem: tests/desk/traffic/test_http_protocol.py."""
    status, received = exchange(endpoint.server.url, INVALID_REQUESTS[kind])
    assert status == 400, received[:300]


PATHS = [
    "/predict%0a",
    "/manifest%0a",
    "/manifest%0d%0a",
    "//manifest",
    "/manifest/",
    "/manifest/../manifest",
    "/static_content/../../../../etc/passwd",
    "/static_content/%2e%2e%2fapp.py",
    "/manifest%00",
    "/predict%2f",
    "/%6danifest",
    "/predict;x",
    "/manifest%3f",
]


@pytest.mark.parametrize("path", PATHS)
def test_no_spelling_of_an_address_avoids_the_token(endpoint: Endpoint, path: str) -> None:
    for method in ("GET", "POST"):
        sent = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()
        status, received = exchange(endpoint.server.url, sent)
        assert status in (401, 404) and b"tiny-mr" not in received and b"root:" not in received, received[:300]


def test_other_methods_are_not_allowed(endpoint: Endpoint) -> None:
    headers = bento_server.request_headers(endpoint.token)
    for path, allowed in (("/predict", "POST"), ("/manifest", "GET"), ("/livez", "GET")):
        for method in {"GET", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "POST"} - {allowed}:
            response = httpx.request(method, endpoint.server.url + path, headers=headers)
            assert response.status_code == 405 and allowed in response.headers["allow"], (method, path, response.text)
            assert response.headers["content-type"] == "application/problem+json"


def test_a_refused_body_that_still_arrives_does_not_break_the_connection(endpoint: Endpoint) -> None:
    headers = bento_server.request_headers(endpoint.token) | {"Content-Type": "application/dicom"}
    with httpx.Client(base_url=endpoint.server.url, headers=headers, timeout=30) as client:
        for _ in range(4):
            assert client.post("/predict", content=bytes(3_000_000)).status_code == 413
            assert client.post("/predict", content=dicom(True)).status_code == 200
            assert client.post("/livez", content=bytes(3_000_000)).status_code == 405


def test_a_websocket_is_not_opened(endpoint: Endpoint) -> None:
    upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: "
    for key, expected_statuses in (("eA==", (400, 401, 405)), ("MDEyMzQ1Njc4OWFiY2RlZg==", (401, 403, 405))):
        request = f"GET /predict HTTP/1.1\r\nHost: x\r\n{upgrade}{key}\r\n\r\n"
        status, _ = exchange(endpoint.server.url, request.encode())
        assert status in expected_statuses


def test_an_oversized_body_is_refused_before_it_is_read(endpoint: Endpoint) -> None:
    started_at = time.monotonic()
    status, received = exchange(endpoint.server.url, head(endpoint, MULTIPART, "Content-Length: 99999999999"), PART)
    assert status == 413 and b"over 1 MB" in received and time.monotonic() - started_at < 5


@pytest.mark.parametrize("media", [FORM, "application/dicom", "application/zip"])
def test_chunks_over_the_limit_are_refused(endpoint: Endpoint, media: str) -> None:
    def long_body() -> Iterator[bytes]:
        yield PART
        for _ in range(40):
            yield bytes(100_000)

    headers = bento_server.request_headers(endpoint.token) | {"Content-Type": media}
    response = httpx.post(f"{endpoint.server.url}/predict", content=long_body(), headers=headers)
    assert response.status_code == 413


def test_a_body_shorter_than_its_length_gets_no_answer_and_no_row(endpoint: Endpoint) -> None:
    before = journal.count()
    body = PART + dicom(True) + b"\r\n--b--\r\n"
    for cut in (1, len(body) // 2, len(body) - 1):
        exchange(endpoint.server.url, head(endpoint, MULTIPART, f"Content-Length: {len(body)}"), body[:cut], ends=True)
    assert journal.count() == before
