"""Slow senders of uploads to the served release: their requests end in time, and other senders do not wait.

The desk's public port limits all connections: tests/desk/traffic/test_slow_clients.py.
"""

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
from tests.serving import hostile_inputs
from tests.serving.conftest import Endpoint, png
from tests.serving.http.test_http_protocol import MULTIPART, PART, head

pytestmark = pytest.mark.usefixtures("served_home")
PORT = bento_server.free_port()


@pytest.fixture(scope="module")
def impatient(endpoint: Endpoint, served_home: Path) -> Iterator[Endpoint]:
    """The same Bento with shorter time limits, on another port."""
    source, target = (
        bento_server.bento_folder(endpoint.tag),
        bento_server.bento_folder(f"{bento_server.NAME}:impatient"),
    )
    shutil.copytree(source, target)
    description = target / "bento.yaml"
    description.write_text(re.sub(r"(?m)^version: .*$", "version: impatient", description.read_text()))
    code = target / "src" / "serving" / "http" / "upload_form.py"
    code.write_text(re.sub(r"(?m)^UPLOAD_SECONDS = [\d.]+", "UPLOAD_SECONDS = 1.5", code.read_text()))
    manifest = target / "src" / "release" / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"release": "impatient"}))
    server = bento_server.start(f"{bento_server.NAME}:impatient", PORT, workers=1)
    bento_server.wait_ready(server.url, server=server)
    yield Endpoint(server.tag, endpoint.folder, server, endpoint.verdict, endpoint.token)
    server.stop()
    shutil.rmtree(target)


def send_slowly(url: str, beginning: bytes, drip: bytes = b"", limit: float = 12) -> tuple[float, bytes]:
    """Send a beginning, then `drip` every 0.1 s: the seconds until the server closes, and its response."""
    host, port = url.removeprefix("http://").split(":")
    start, received = time.monotonic(), b""
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(beginning)
        connection.settimeout(0.1)
        while time.monotonic() - start < limit:
            try:
                if drip:
                    connection.sendall(drip)
                chunk = connection.recv(1 << 16)
                if not chunk:
                    break
                received += chunk
            except TimeoutError:
                continue
            except ConnectionError:
                break
    return time.monotonic() - start, received


@pytest.mark.parametrize("drip", [b"", b"x"])
@pytest.mark.parametrize("media", [MULTIPART, "Content-Type: application/dicom"])
def test_a_slow_body_ends_the_connection(impatient: Endpoint, media: str, drip: bytes) -> None:
    beginning = head(impatient, media, "Content-Length: 900000") + PART
    seconds, received = send_slowly(impatient.server.url, beginning, drip)
    assert received.startswith(b"HTTP/1.1 408") and b"not complete after 1.5 seconds" in received and seconds < 6


def test_hundreds_of_slow_senders_do_not_delay_others(impatient: Endpoint) -> None:
    host, port = impatient.server.url.removeprefix("http://").split(":")
    with ExitStack() as stack:
        slow_connections = [stack.enter_context(socket.create_connection((host, int(port)))) for _ in range(300)]
        for connection in slow_connections:
            connection.sendall(b"POST /predict HTTP/1.1\r\nX: ")
        started_at = time.monotonic()
        assert hostile_inputs.still_answers(impatient) and time.monotonic() - started_at < 6
    assert len(hostile_inputs.workers(impatient)) == 1


def test_a_sender_with_short_pauses_is_answered(impatient: Endpoint) -> None:
    """Pauses within the limits do no harm, and neither does a connection that is used for a long time."""
    body = PART.replace(b"a.dcm", b"a.png") + png(True) + b"\r\n--b--\r\n"
    beginning = head(
        impatient, MULTIPART, f"Content-Length: {len(body)}", "Connection: close", path="/predict?task=tiny-mr"
    )
    status = 0
    host, port = impatient.server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as client_socket:
        for start in range(0, len(body), len(body) // 4):
            client_socket.sendall((beginning if start == 0 else b"") + body[start : start + len(body) // 4])
            time.sleep(0.2)
        status = int(client_socket.recv(1 << 16).split(b" ")[1])
    assert status == 200
    with httpx.Client(base_url=impatient.server.url) as client:
        assert [(client.get("/livez").status_code, time.sleep(0.4))[0] for _ in range(9)] == [200] * 9
