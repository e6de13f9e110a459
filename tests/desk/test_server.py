"""The desk's port as the public meets it: floods of headers, slow and idle connections, too many of them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from serving.bundle.bento_server import free_port

GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"
SERVE = """
import sys
from desk import server
from serving.http import connection
if sys.argv[2]:
    connection.HEAD_SECONDS, connection.REQUEST_SECONDS, connection.ANSWER_SECONDS = 1.5, 2.5, 4.0
server.serve(sys.argv[3], int(sys.argv[1]))
"""
LARGE = """
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

def create():
    return Starlette(routes=[Route("/", lambda _: PlainTextResponse("x" * (64 << 20))),
                             Route("/healthz", lambda _: PlainTextResponse("ok"))])
"""


@contextmanager
def served(hasty: bool = False, factory: str = "desk.app:create", **environment: str) -> Iterator[tuple[int, int]]:
    """A desk as a process of its own: port and process number. A hasty one has a tenth of the patience."""
    port = free_port()
    command = [sys.executable, "-c", SERVE, str(port), "1" if hasty else "", factory]
    process = subprocess.Popen(command, env=os.environ | environment)
    try:
        until = time.monotonic() + 30
        while not answers(port):
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.1)
        yield port, process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(40)


def answers(port: int, source: str = "127.0.0.1") -> bool:
    """Whether a visitor from an address of this machine gets the answer to one question."""
    try:
        with socket.create_connection(("127.0.0.1", port), 10, (source, 0)) as wire:
            wire.sendall(GET + b"Connection: close\r\n\r\n")
            return wire.recv(1 << 16).startswith(b"HTTP/1.1 200")
    except OSError:
        return False


def rest(wire: socket.socket, seconds: float) -> bytes:
    """All that comes until the other side closes. Fails where it does not close in time."""
    came, until = b"", time.monotonic() + seconds
    while True:
        wire.settimeout(max(0.01, until - time.monotonic()))
        try:
            more = wire.recv(1 << 16)
        except ConnectionError:
            return came
        if not more:
            return came
        came += more


def test_a_hundred_megabytes_of_headers_cost_no_memory_and_end_with_a_431(home: Path) -> None:
    with served() as (port, number):
        process = psutil.Process(number)
        before = highest = process.memory_info().rss
        came = bytearray()
        with socket.create_connection(("127.0.0.1", port), 20) as wire:
            reader = threading.Thread(target=lambda: came.extend(rest(wire.dup(), 20)))
            reader.start()
            wire.sendall(GET)
            lines = b"a: b\r\n" * (1 << 16)
            try:
                for _ in range((100 << 20) // len(lines)):
                    wire.sendall(lines)
                    highest = max(highest, process.memory_info().rss)
            except OSError:
                pass  # it has hung up
            reader.join(20)
        highest = max(highest, process.memory_info().rss)
        assert highest - before < 50 << 20, f"{(highest - before) >> 20} MB"
        assert came.startswith(b"HTTP/1.1 431") and b"application/problem+json" in came
        assert answers(port)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"".join(b"a%d: b\r\n" % number for number in range(100)), b"200"),
        (b"".join(b"a%d: b\r\n" % number for number in range(200)), b"431"),
        (b"a: " + b"b" * 100_000 + b"\r\n", b"431"),
    ],
    ids=["100 headers", "200 headers", "one of 100 kB"],
)
def test_headers_are_bounded_in_number_and_size(home: Path, sent: bytes, status: bytes) -> None:
    with served() as (port, _), socket.create_connection(("127.0.0.1", port), 10) as wire:
        wire.sendall(GET + sent + b"Connection: close\r\n\r\n")
        assert rest(wire, 10).startswith(b"HTTP/1.1 " + status)


def test_slow_and_idle_connections_end_in_time(home: Path) -> None:
    whole = GET + b"\r\n"
    beginnings = {
        "says nothing": (b"", b""),
        "one byte at a time": (GET + b"X: ", b"x"),
        "a body that does not come": (b"POST /enter HTTP/1.1\r\nHost: x\r\nContent-Length: 900\r\n\r\n", b""),
        "idle after its answer": (whole, b""),
        "empty lines after its answer": (whole, b"\r\n"),
    }
    with served(hasty=True) as (port, _), ExitStack() as stack:
        wires = {name: stack.enter_context(socket.create_connection(("127.0.0.1", port))) for name in beginnings}
        for name, wire in wires.items():
            wire.sendall(beginnings[name][0])
            wire.settimeout(0.01)
        opened, ended = time.monotonic(), {}
        while len(ended) < len(wires) and time.monotonic() - opened < 20:
            for name, wire in [(name, wire) for name, wire in wires.items() if name not in ended]:
                try:
                    if drip := beginnings[name][1]:
                        wire.sendall(drip)
                    if not wire.recv(1 << 16):
                        ended[name] = time.monotonic() - opened
                except TimeoutError:
                    continue
                except OSError:
                    ended[name] = time.monotonic() - opened
            time.sleep(0.2)
        assert ended.keys() == wires.keys(), f"still open: {wires.keys() - ended.keys()}"
        assert max(ended.values()) < 12, ended
        assert answers(port)


def test_an_answer_that_nobody_reads_is_given_up(home: Path, tmp_path: Path) -> None:
    (tmp_path / "large.py").write_text(LARGE)
    large = served(hasty=True, factory="large:create", PYTHONPATH=str(tmp_path))
    with large as (port, number), socket.create_connection(("127.0.0.1", port), 20) as wire:
        wire.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        until = time.monotonic() + 15
        time.sleep(1)
        while open_connections(number, port) and time.monotonic() < until:
            time.sleep(0.2)
        assert not open_connections(number, port)


def open_connections(number: int, port: int) -> int:
    found = psutil.Process(number).net_connections("tcp4")
    return sum(one.status == psutil.CONN_ESTABLISHED and one.laddr.port == port for one in found)


def test_one_address_cannot_hold_all_connections(home: Path) -> None:
    with served() as (port, _), ExitStack() as stack:
        held = [stack.enter_context(socket.create_connection(("127.0.0.1", port), 10)) for _ in range(64)]
        time.sleep(0.5)
        with socket.create_connection(("127.0.0.1", port), 10) as wire:
            assert rest(wire, 10).startswith(b"HTTP/1.1 503")
        assert not answers(port) and answers(port, "127.0.0.2"), "another address has its own"
        held[0].close()
        until = time.monotonic() + 5
        while not answers(port) and time.monotonic() < until:
            time.sleep(0.1)
        assert answers(port)


def test_how_many_connections_an_address_may_hold_is_a_setting(home: Path) -> None:
    with served(ONCOLOOP_PEER_CONNECTIONS="3") as (port, _), ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(socket.create_connection(("127.0.0.1", port), 10))
        time.sleep(0.5)
        assert not answers(port) and answers(port, "127.0.0.2")


def test_a_browser_that_keeps_its_connection_is_served_as_before(home: Path) -> None:
    with served() as (port, _), httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        for _ in range(20):
            assert client.get("/healthz").text == "ok"
        assert client.get("/", headers={"Connection": "Upgrade", "Upgrade": "websocket"}).status_code in (200, 303)
        piped = (GET + b"\r\n") * 5 + GET + b"Connection: close\r\n\r\n"
        with socket.create_connection(("127.0.0.1", port), 10) as wire:
            wire.sendall(piped)
            assert rest(wire, 10).count(b"HTTP/1.1 200") == 6
