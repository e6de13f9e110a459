"""Senders at the desk's public port that are slow or never finish: their connections end, and others do not wait."""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack

import httpx
import pytest

from desk.traffic import connection, upload_buffer
from tests.desk.traffic.conftest import Front
from tests.desk.traffic.test_http_protocol import head
from tests.serving.conftest import png
from tests.serving.http.test_http_protocol import MULTIPART, PART
from tests.serving.http.test_slow_clients import send_slowly

pytestmark = pytest.mark.usefixtures("served_home")


def test_slow_headers_end_the_connection(impatient_front: Front) -> None:
    for beginning, drip in ((b"", b""), (b"POST /api/predict HT", b""), (b"GET /healthz HTTP/1.1\r\n", b"X: x\r\n")):
        seconds, received = send_slowly(impatient_front.url, beginning, drip)
        assert 1.3 < seconds < 6 and received.startswith(b"HTTP/1.1 408") and b"problem+json" in received


@pytest.mark.parametrize("drip", [b"", b"x"])
@pytest.mark.parametrize("media", [MULTIPART, "Content-Type: application/dicom"])
def test_a_slow_body_ends_the_connection(impatient_front: Front, media: str, drip: bytes) -> None:
    beginning = head(impatient_front, media, "Content-Length: 900000") + PART
    seconds, received = send_slowly(impatient_front.url, beginning, drip)
    assert received.startswith(b"HTTP/1.1 408") and b"not complete after 1.5 seconds" in received and seconds < 6


def test_a_slow_body_to_a_route_that_reads_none_ends_the_connection(impatient_front: Front) -> None:
    beginning = b"POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 900000\r\n\r\n"
    seconds, received = send_slowly(impatient_front.url, beginning, b"x")
    assert received.startswith(b"HTTP/1.1 405") and seconds < 6


def test_a_second_request_on_a_connection_has_its_own_time_limit(impatient_front: Front) -> None:
    seconds, received = send_slowly(
        impatient_front.url, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET /healthz HT", b""
    )
    assert received.startswith(b"HTTP/1.1 200") and b"408" in received and seconds < 6


def test_hundreds_of_slow_senders_do_not_delay_others(impatient_front: Front) -> None:
    host, port = impatient_front.url.removeprefix("http://").split(":")
    addresses = [f"127.0.0.{number}" for number in range(2, 8)]
    with ExitStack() as stack:
        for source in addresses * 50:  # one address may hold 64 connections
            slow = stack.enter_context(socket.create_connection((host, int(port)), source_address=(source, 0)))
            slow.sendall(b"POST /api/predict HTTP/1.1\r\nX: ")
        started_at = time.monotonic()
        assert impatient_front.answers() and time.monotonic() - started_at < 6


def test_a_sender_with_short_pauses_is_answered(impatient_front: Front) -> None:
    """Pauses within the limits do no harm, and neither does a connection that is used for a long time."""
    body = PART.replace(b"a.dcm", b"a.png") + png(True) + b"\r\n--b--\r\n"
    task = b'--b\r\nContent-Disposition: form-data; name="task"\r\n\r\ntiny-mr\r\n'
    body = task + body
    beginning = head(impatient_front, MULTIPART, f"Content-Length: {len(body)}", "Connection: close")
    host, port = impatient_front.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as client_socket:
        for start in range(0, len(body), len(body) // 4):
            client_socket.sendall((beginning if start == 0 else b"") + body[start : start + len(body) // 4])
            time.sleep(0.2)
        status = int(client_socket.recv(1 << 16).split(b" ")[1])
    assert status == 200
    with httpx.Client(base_url=impatient_front.url) as client:
        assert [(client.get("/healthz").status_code, time.sleep(0.4))[0] for _ in range(9)] == [200] * 9


def test_the_upload_limit_ends_before_the_limit_of_the_connection() -> None:
    """So that a slow sender gets the reason."""
    assert upload_buffer.UPLOAD_SECONDS < connection.BODY_SECONDS
