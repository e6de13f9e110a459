"""Load generator: users that send a request repeatedly over persistent HTTP connections, at little client cost."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Load:
    """Seconds of each answer with status 200, count of each status (0: no answer), total seconds.

    `refusals` are the seconds of answers with another status.
    """

    latencies: list[float]
    statuses: dict[int, int]
    seconds: float
    refusals: list[float] = field(default_factory=list)

    @property
    def per_second(self) -> float:
        """Answers with status 200 per second."""
        return len(self.latencies) / self.seconds

    def percentile(self, share: float) -> float:
        """Seconds within which this share of the answers arrived; infinite if there was none."""
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("inf")


def form(files: list[tuple[str, bytes]], task: str, path: str, headers: Mapping[str, str]) -> bytes:
    """The bytes of an HTTP request with a multipart form and these headers."""
    boundary = "b" * 24
    parts = [f'--{boundary}\r\nContent-Disposition: form-data; name="task"\r\n\r\n{task}\r\n'.encode()]
    for name, content in files:
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n'
        parts.append(f"{head}Content-Type: application/octet-stream\r\n\r\n".encode() + content + b"\r\n")
    body = b"".join(parts) + f"--{boundary}--\r\n".encode()
    header_lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\n{header_lines}"
        f"Content-Type: multipart/form-data; boundary={boundary}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def ask(url: str, request: bytes, users: int, seconds: float, minimum: int = 1) -> Load:
    """Send the request from `users` at once, for some seconds and at least `minimum` times each."""
    answers: list[tuple[int, float]] = []
    start = time.perf_counter()
    threads = [
        threading.Thread(target=_user, args=(url, request, start + seconds, minimum, answers)) for _ in range(users)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    total_seconds = time.perf_counter() - start
    statuses: dict[int, int] = {}
    for status, _ in answers:
        statuses[status] = statuses.get(status, 0) + 1
    refusals = [duration for status, duration in answers if status not in (0, 200)]
    return Load([duration for status, duration in answers if status == 200], statuses, total_seconds, refusals)


def _user(url: str, request: bytes, deadline: float, minimum: int, answers: list[tuple[int, float]]) -> None:
    address = urlsplit(url)
    connection: socket.socket | None = None
    request_count = 0
    while request_count < minimum or time.perf_counter() < deadline:
        start, request_count = time.perf_counter(), request_count + 1
        try:
            connection = connection or socket.create_connection((address.hostname, address.port), 120)
            status, stays_open = _exchange(connection, request)
        except OSError:
            status, stays_open = 0, False
        answers.append((status, time.perf_counter() - start))
        if not stays_open and connection:
            connection.close()
            connection = None


def _exchange(connection: socket.socket, request: bytes) -> tuple[int, bool]:
    """Send the request and read the answer: its status, and whether the connection stays open."""
    connection.sendall(request)
    received = b""
    while b"\r\n\r\n" not in received:
        received += _receive(connection)
    head, _, body = received.partition(b"\r\n\r\n")
    fields = {
        name.strip().lower(): value.strip() for name, _, value in (line.partition(b":") for line in head.split(b"\r\n"))
    }
    status = int(head.split(b" ", 2)[1])
    length = int(fields.get(b"content-length", b"0"))
    while len(body) < length:
        body += _receive(connection)
    return status, fields.get(b"connection", b"").lower() != b"close" and not head.startswith(b"HTTP/1.0")


def _receive(connection: socket.socket) -> bytes:
    part = connection.recv(1 << 16)
    if not part:
        raise ConnectionError("the server closed the connection in the middle of an answer")
    return part
