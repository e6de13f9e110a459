"""Hostile HTTP to the served release: bytes that are no request, bodies that lie, addresses spelled in other ways."""

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

pytestmark = pytest.mark.usefixtures("house")
PART = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.dcm"\r\n\r\n'


def spoken(url: str, *parts: bytes, ends: bool = False) -> tuple[int, bytes]:
    """Send raw bytes, end if told so, and read the first answer: its status (0 for none) and all that came of it."""
    host, port = url.removeprefix("http://").split(":")
    came = b""
    with socket.create_connection((host, int(port)), 20) as connection:
        try:
            for part in parts:
                connection.sendall(part)
            if ends:
                connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the server has closed; what it said is read all the same
        try:
            while not _whole(came) and (more := connection.recv(1 << 16)):
                came += more
        except ConnectionError:
            pass
    found = re.match(rb"HTTP/1\.1 (\d{3})", came)
    return (int(found.group(1)) if found else 0), came


def _whole(answer: bytes) -> bool:
    start, _, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)\r\ncontent-length: (\d+)", start)
    return length is not None and len(body) >= int(length.group(1))


def head(endpoint: Endpoint, *lines: str, method: str = "POST", path: str = "/predict") -> bytes:
    shown = [f"{name}: {value}" for name, value in bento_server.request_headers(endpoint.token).items()]
    fields = [f"{method} {path} HTTP/1.1", "Host: x", *shown, *lines]
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
def unharmed(endpoint: Endpoint, house: Path) -> Iterator[None]:
    """After all of this module the same workers answer and have left no file."""
    assert hostile_inputs.answers(endpoint)
    before, kept = hostile_inputs.resident(endpoint), hostile_inputs.files(endpoint, house)
    yield
    assert hostile_inputs.answers(endpoint)
    after = hostile_inputs.resident(endpoint)
    grown = {pid: after[pid] - before[pid] for pid in before}
    assert after.keys() == before.keys() and max(grown.values()) < hostile_inputs.GROWTH, grown
    assert hostile_inputs.files(endpoint, house) - kept == set()


@pytest.mark.parametrize("kind", BODIES)
def test_a_body_that_is_no_upload_is_the_senders_error(endpoint: Endpoint, kind: str) -> None:
    media, body = BODIES[kind]
    before = journal.count()
    for lines, sent in (
        ([f"Content-Length: {len(body)}"], body),
        (["Transfer-Encoding: chunked"], b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n"),
    ):
        status, came = spoken(
            endpoint.server.url, head(endpoint, f"Content-Type: {media}", "Connection: close", *lines), sent
        )
        assert 400 <= status < 500 and b"application/problem+json" in came and b'"detail":"' in came, came[:600]
    assert journal.count() == before


REQUESTS = {
    "another protocol": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200), 400),
    "no request": (b"hello\r\n\r\n", 400),
    "a method of nobody": (b"BREW /predict HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "a negative length": (b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n", 400),
    "a length of words": (b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: many\r\n\r\n", 400),
    "a length beyond all": (b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n", 400),
    "two lengths": (b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", 400),
    "a length and chunks": (
        b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    "an address of no letters": (b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "a query of no letters": (b"GET /manifest?\xff\xfe HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 400),
    "a header of 100 KB": (b"GET /livez HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 100_000, 431),
    "an address of 100 KB": (b"GET /" + b"x" * 100_000, 431),
    "10,000 headers": (b"GET /livez HTTP/1.1\r\nHost: x\r\n" + b"X: x\r\n" * 20_000, 431),
}


@pytest.mark.parametrize("kind", REQUESTS)
def test_what_is_no_request_is_told_so(endpoint: Endpoint, kind: str) -> None:
    sent, status = REQUESTS[kind]
    said, came = spoken(endpoint.server.url, sent)
    assert said == status and b"application/problem+json" in came, came[:300]


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
def test_no_spelling_of_an_address_goes_around_the_token(endpoint: Endpoint, path: str) -> None:
    for method in ("GET", "POST"):
        sent = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()
        status, came = spoken(endpoint.server.url, sent)
        assert status in (401, 404) and b"tiny-mr" not in came and b"root:" not in came, came[:300]


def test_other_methods_are_not_allowed(endpoint: Endpoint) -> None:
    headers = bento_server.request_headers(endpoint.token)
    for path, allowed in (("/predict", "POST"), ("/manifest", "GET"), ("/livez", "GET")):
        for method in {"GET", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "POST"} - {allowed}:
            reply = httpx.request(method, endpoint.server.url + path, headers=headers)
            assert reply.status_code == 405 and allowed in reply.headers["allow"], (method, path, reply.text)
            assert reply.headers["content-type"] == "application/problem+json"


def test_a_refused_body_that_still_comes_leaves_the_connection_in_order(endpoint: Endpoint) -> None:
    headers = bento_server.request_headers(endpoint.token) | {"Content-Type": "application/dicom"}
    with httpx.Client(base_url=endpoint.server.url, headers=headers, timeout=30) as client:
        for _ in range(4):
            assert client.post("/predict", content=bytes(3_000_000)).status_code == 413
            assert client.post("/predict", content=dicom(True)).status_code == 200
            assert client.post("/livez", content=bytes(3_000_000)).status_code == 405


def test_a_websocket_is_not_opened(endpoint: Endpoint) -> None:
    upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: eA=="
    status, _ = spoken(endpoint.server.url, f"GET /predict HTTP/1.1\r\nHost: x\r\n{upgrade}\r\n\r\n".encode())
    assert status in (400, 401, 405)


def test_addresses_that_nobody_has_are_not_remembered(endpoint: Endpoint) -> None:
    with httpx.Client(base_url=endpoint.server.url) as client:
        for number in range(300):
            assert client.get(f"/made-up-{number}").status_code == 404
        assert "made-up" not in client.get("/metrics").text


def test_an_oversized_body_is_refused_before_it_is_read(endpoint: Endpoint) -> None:
    begun = time.monotonic()
    status, came = spoken(endpoint.server.url, head(endpoint, MULTIPART, "Content-Length: 99999999999"), PART)
    assert status == 413 and b"over 1 MB" in came and time.monotonic() - begun < 5


@pytest.mark.parametrize("media", [FORM, "application/dicom", "application/zip"])
def test_endless_chunks_are_cut_at_the_limit(endpoint: Endpoint, media: str) -> None:
    def endless() -> Iterator[bytes]:
        yield PART
        for _ in range(40):
            yield bytes(100_000)

    headers = bento_server.request_headers(endpoint.token) | {"Content-Type": media}
    reply = httpx.post(f"{endpoint.server.url}/predict", content=endless(), headers=headers)
    assert reply.status_code == 413


def test_chunks_of_one_byte_and_endless_trailers_are_cut(endpoint: Endpoint) -> None:
    lines = head(endpoint, MULTIPART, "Transfer-Encoding: chunked")
    status, _ = spoken(endpoint.server.url, lines, b"1\r\nx\r\n" * 100_000)
    assert status in (0, 400, 431)
    status, _ = spoken(endpoint.server.url, lines, b"0\r\n", b"X: x\r\n" * 100_000)
    assert status in (0, 400, 431)


def test_a_body_shorter_than_it_says_is_no_answer_and_no_row(endpoint: Endpoint) -> None:
    before = journal.count()
    whole = PART + dicom(True) + b"\r\n--b--\r\n"
    for cut in (1, len(whole) // 2, len(whole) - 1):
        spoken(endpoint.server.url, head(endpoint, MULTIPART, f"Content-Length: {len(whole)}"), whole[:cut], ends=True)
    assert journal.count() == before
