"""The limits of the desk's public port: many headers, slow and idle connections, too many connections."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import httpx
import psutil
import pytest

from tests.desk.desk_process import GET, answers, served

LARGE = """
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

def create():
    return Starlette(routes=[Route("/", lambda _: PlainTextResponse("x" * (64 << 20))),
                             Route("/healthz", lambda _: PlainTextResponse("ok"))])
"""


def read_to_end(connection: socket.socket, seconds: float) -> bytes:
    """All bytes until the other side closes. Fails if it does not close in time."""
    received, deadline = b"", time.monotonic() + seconds
    while True:
        connection.settimeout(max(0.01, deadline - time.monotonic()))
        try:
            chunk = connection.recv(1 << 16)
        except ConnectionError:
            return received
        if not chunk:
            return received
        received += chunk


def test_a_hundred_megabytes_of_headers_use_no_memory_and_end_with_a_431(home: Path) -> None:
    with served() as (port, number):
        process = psutil.Process(number)
        before = highest = process.memory_info().rss
        received = bytearray()
        with socket.create_connection(("127.0.0.1", port), 20) as connection:
            reader = threading.Thread(target=lambda: received.extend(read_to_end(connection.dup(), 20)))
            reader.start()
            connection.sendall(GET)
            lines = b"a: b\r\n" * (1 << 16)
            try:
                for _ in range((100 << 20) // len(lines)):
                    connection.sendall(lines)
                    highest = max(highest, process.memory_info().rss)
            except OSError:
                pass  # the server has closed the connection
            reader.join(20)
        highest = max(highest, process.memory_info().rss)
        assert highest - before < 50 << 20, f"{(highest - before) >> 20} MB"
        assert received.startswith(b"HTTP/1.1 431") and b"application/problem+json" in received
        assert answers(port)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (b"".join(b"a%d: b\r\n" % number for number in range(100)), b"200"),
        (b"".join(b"a%d: b\r\n" % number for number in range(200)), b"431"),
        (b"a: " + b"b" * 100_000 + b"\r\n", b"431"),
    ],
    ids=["100 headers", "200 headers", "one of 100 kB"],
)
def test_headers_are_limited_in_number_and_size(home: Path, headers: bytes, status: bytes) -> None:
    with served() as (port, _), socket.create_connection(("127.0.0.1", port), 10) as connection:
        connection.sendall(GET + headers + b"Connection: close\r\n\r\n")
        assert read_to_end(connection, 10).startswith(b"HTTP/1.1 " + status)


def test_slow_and_idle_connections_end_in_time(home: Path) -> None:
    request = GET + b"\r\n"
    beginnings = {
        "says nothing": (b"", b""),
        "one byte at a time": (GET + b"X: ", b"x"),
        "a body that does not come": (b"POST /enter HTTP/1.1\r\nHost: x\r\nContent-Length: 900\r\n\r\n", b""),
        "idle after its answer": (request, b""),
        "empty lines after its answer": (request, b"\r\n"),
    }
    with served(impatient=True) as (port, _), ExitStack() as stack:
        connections = {name: stack.enter_context(socket.create_connection(("127.0.0.1", port))) for name in beginnings}
        for name, connection in connections.items():
            connection.sendall(beginnings[name][0])
            connection.settimeout(0.01)
        opened_at, durations = time.monotonic(), {}
        while len(durations) < len(connections) and time.monotonic() - opened_at < 20:
            for name in [name for name in connections if name not in durations]:
                try:
                    if drip := beginnings[name][1]:
                        connections[name].sendall(drip)
                    if not connections[name].recv(1 << 16):
                        durations[name] = time.monotonic() - opened_at
                except TimeoutError:
                    continue
                except OSError:
                    durations[name] = time.monotonic() - opened_at
            time.sleep(0.2)
        assert durations.keys() == connections.keys(), f"still open: {connections.keys() - durations.keys()}"
        assert max(durations.values()) < 12, durations
        assert answers(port)


def test_a_response_that_the_peer_does_not_read_is_aborted(home: Path, tmp_path: Path) -> None:
    (tmp_path / "large.py").write_text(LARGE)
    large = served(impatient=True, factory="large:create", PYTHONPATH=str(tmp_path))
    with large as (port, process_id), socket.create_connection(("127.0.0.1", port), 20) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        deadline = time.monotonic() + 15
        time.sleep(1)
        while open_connections(process_id, port) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert not open_connections(process_id, port)


def open_connections(process_id: int, port: int) -> int:
    connections = psutil.Process(process_id).net_connections("tcp4")
    return sum(entry.status == psutil.CONN_ESTABLISHED and entry.laddr.port == port for entry in connections)


def test_one_address_cannot_use_all_connections(home: Path) -> None:
    with served() as (port, _), ExitStack() as stack:
        connections = [stack.enter_context(socket.create_connection(("127.0.0.1", port), 10)) for _ in range(64)]
        time.sleep(0.5)
        with socket.create_connection(("127.0.0.1", port), 10) as connection:
            assert read_to_end(connection, 10).startswith(b"HTTP/1.1 503")
        assert not answers(port) and answers(port, "127.0.0.2"), "another address has its own limit"
        connections[0].close()
        deadline = time.monotonic() + 5
        while not answers(port) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert answers(port)


def test_the_connection_limit_of_an_address_is_a_setting(home: Path) -> None:
    with served(ONCOLOOP_PEER_CONNECTIONS="3") as (port, _), ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(socket.create_connection(("127.0.0.1", port), 10))
        time.sleep(0.5)
        assert not answers(port) and answers(port, "127.0.0.2")


def test_a_browser_can_reuse_its_connection(home: Path) -> None:
    with served() as (port, _), httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        for _ in range(20):
            assert client.get("/healthz").text == "ok"
        assert client.get("/", headers={"Connection": "Upgrade", "Upgrade": "websocket"}).status_code in (200, 303)
        pipelined = (GET + b"\r\n") * 5 + GET + b"Connection: close\r\n\r\n"
        with socket.create_connection(("127.0.0.1", port), 10) as connection:
            connection.sendall(pipelined)
            assert read_to_end(connection, 10).count(b"HTTP/1.1 200") == 6
