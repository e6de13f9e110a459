"""Senders that are slow, or never finish: they are let go in time, and keep nobody else waiting."""

from __future__ import annotations

import json
import re
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from serving.bundle import bento_server
from serving.http import connection, upload_form
from serving.inference import release_integrity
from tests.serving import hostile_inputs
from tests.serving.conftest import Endpoint, png
from tests.serving.http.test_http_protocol import MULTIPART, PART, head

pytestmark = pytest.mark.usefixtures("house")
PORT = bento_server.free_port()


@pytest.fixture(scope="module")
def hasty(endpoint: Endpoint, house: Path) -> Iterator[Endpoint]:
    """The same Bento with little patience, beside the other."""
    source, target = (
        release_integrity.bento_folder(endpoint.tag),
        release_integrity.bento_folder(f"{bento_server.NAME}:hasty"),
    )
    shutil.copytree(source, target)
    described = target / "bento.yaml"
    described.write_text(re.sub(r"(?m)^version: .*$", "version: hasty", described.read_text()))
    for file, name, seconds in (
        ("upload_form", "PATIENCE", 1.5),
        ("connection", "HEAD_SECONDS", 1.0),
        ("connection", "REQUEST_SECONDS", 2.5),
    ):
        code = target / "src" / "serving" / "http" / f"{file}.py"
        code.write_text(re.sub(rf"(?m)^{name} = [\d.]+", f"{name} = {seconds}", code.read_text()))
    manifest = target / "src" / "release" / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"release": "hasty"}))
    server = bento_server.start(f"{bento_server.NAME}:hasty", PORT, workers=1)
    bento_server.wait_ready(server.url, server=server)
    yield Endpoint(server.tag, endpoint.folder, server, endpoint.verdict, endpoint.token)
    server.stop()
    shutil.rmtree(target)


def lasted(url: str, begun: bytes, drip: bytes = b"", until: float = 12) -> tuple[float, bytes]:
    """Send a beginning, then a drop now and then: the seconds until the server closes, and what it said."""
    host, port = url.removeprefix("http://").split(":")
    start, came = time.monotonic(), b""
    with socket.create_connection((host, int(port))) as wire:
        wire.sendall(begun)
        wire.settimeout(0.1)
        while time.monotonic() - start < until:
            try:
                if drip:
                    wire.sendall(drip)
                more = wire.recv(1 << 16)
                if not more:
                    break
                came += more
            except TimeoutError:
                continue
            except ConnectionError:
                break
    return time.monotonic() - start, came


def test_a_sender_of_slow_headers_is_let_go(hasty: Endpoint) -> None:
    for begun, drip in ((b"", b""), (b"POST /predict HT", b""), (b"GET /livez HTTP/1.1\r\n", b"X: x\r\n")):
        seconds, came = lasted(hasty.server.url, begun, drip)
        assert 0.8 < seconds < 5 and came.startswith(b"HTTP/1.1 408") and b"problem+json" in came


@pytest.mark.parametrize("drip", [b"", b"x"])
@pytest.mark.parametrize("media", [MULTIPART, "Content-Type: application/dicom"])
def test_a_sender_of_a_slow_body_is_let_go(hasty: Endpoint, media: str, drip: bytes) -> None:
    begun = head(hasty, media, "Content-Length: 900000") + PART
    seconds, came = lasted(hasty.server.url, begun, drip)
    assert came.startswith(b"HTTP/1.1 408") and b"not complete after 1.5 seconds" in came and seconds < 6


def test_a_slow_body_where_none_is_read_is_let_go_too(hasty: Endpoint) -> None:
    begun = b"POST /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 900000\r\n\r\n"
    seconds, came = lasted(hasty.server.url, begun, b"x")
    assert came.startswith(b"HTTP/1.1 405") and seconds < 6


def test_a_second_request_on_a_kept_connection_has_its_own_time(hasty: Endpoint) -> None:
    seconds, came = lasted(hasty.server.url, b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\nGET /livez HT", b"")
    assert came.startswith(b"HTTP/1.1 200") and b"408" in came and seconds < 5


def test_hundreds_of_slow_senders_keep_nobody_waiting(hasty: Endpoint) -> None:
    host, port = hasty.server.url.removeprefix("http://").split(":")
    with ExitStack() as stack:
        slow = [stack.enter_context(socket.create_connection((host, int(port)))) for _ in range(300)]
        for wire in slow:
            wire.sendall(b"POST /predict HTTP/1.1\r\nX: ")
        begun = time.monotonic()
        assert hostile_inputs.answers(hasty) and time.monotonic() - begun < 6
    assert len(hostile_inputs.workers(hasty)) == 1


def test_who_sends_in_his_own_time_is_still_answered(hasty: Endpoint) -> None:
    """Pauses within the patience do no harm, and neither does a connection that is used for long."""
    body = PART.replace(b"a.dcm", b"a.png") + png(True) + b"\r\n--b--\r\n"
    begun = head(hasty, MULTIPART, f"Content-Length: {len(body)}", "Connection: close", path="/predict?task=tiny-mr")
    status = 0
    host, port = hasty.server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as wire:
        for at in range(0, len(body), len(body) // 4):
            wire.sendall((begun if at == 0 else b"") + body[at : at + len(body) // 4])
            time.sleep(0.2)
        status = int(wire.recv(1 << 16).split(b" ")[1])
    assert status == 200 and upload_form.PATIENCE < connection.REQUEST_SECONDS
    with httpx.Client(base_url=hasty.server.url) as client:
        assert [(client.get("/livez").status_code, time.sleep(0.4))[0] for _ in range(9)] == [200] * 9
