"""A desk in a process of its own, on a public port with all its limits."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from serving.bundle.bento_server import free_port

GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"
SERVE = """
import sys
from desk import server
from desk.traffic import connection, upload_buffer
if sys.argv[2]:
    connection.HEADER_SECONDS, connection.BODY_SECONDS, connection.RESPONSE_SECONDS = 1.5, 2.5, 4.0
    upload_buffer.UPLOAD_SECONDS = 1.5
server.serve(sys.argv[3], int(sys.argv[1]))
"""


@contextmanager
def served(impatient: bool = False, factory: str = "desk.app:create", **environment: str) -> Iterator[tuple[int, int]]:
    """A desk in its own process: port and process id. An impatient desk has much shorter time limits."""
    port = free_port()
    command = [sys.executable, "-c", SERVE, str(port), "1" if impatient else "", factory]
    process = subprocess.Popen(command, env=os.environ | environment)
    try:
        deadline = time.monotonic() + 30
        while not answers(port):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        yield port, process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(40)


def answers(port: int, source: str = "127.0.0.1") -> bool:
    """Whether a client at this loopback address gets a response."""
    try:
        with socket.create_connection(("127.0.0.1", port), 10, (source, 0)) as connection:
            connection.sendall(GET + b"Connection: close\r\n\r\n")
            return connection.recv(1 << 16).startswith(b"HTTP/1.1 200")
    except OSError:
        return False
