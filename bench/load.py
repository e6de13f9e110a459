"""Users that ask an HTTP server again and again, each on a kept connection of their own. Little work for the client."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Load:
    """What was seen: seconds of each answer that was 200, how many of each status (0: no answer), seconds in all."""

    latencies: list[float]
    statuses: dict[int, int]
    seconds: float
    refusals: list[float] = field(default_factory=list)

    @property
    def per_second(self) -> float:
        """Answers of status 200 a second."""
        return len(self.latencies) / self.seconds

    def percentile(self, share: float) -> float:
        """Seconds within which this share of the answers came; infinite where none did."""
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("inf")


def form(files: list[tuple[str, bytes]], task: str, path: str, headers: Mapping[str, str]) -> bytes:
    """One whole request with a multipart form and these headers, ready to be sent."""
    mark = "b" * 24
    parts = [f'--{mark}\r\nContent-Disposition: form-data; name="task"\r\n\r\n{task}\r\n'.encode()]
    for name, content in files:
        head = f'--{mark}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n'
        parts.append(f"{head}Content-Type: application/octet-stream\r\n\r\n".encode() + content + b"\r\n")
    body = b"".join(parts) + f"--{mark}--\r\n".encode()
    own = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\n{own}"
        f"Content-Type: multipart/form-data; boundary={mark}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def ask(url: str, request: bytes, users: int, seconds: float, least: int = 1) -> Load:
    """`users` at once, for some seconds and until each has asked `least` times."""
    found: list[tuple[int, float]] = []
    begun = time.perf_counter()
    threads = [threading.Thread(target=_user, args=(url, request, begun + seconds, least, found)) for _ in range(users)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - begun
    statuses: dict[int, int] = {}
    for status, _ in found:
        statuses[status] = statuses.get(status, 0) + 1
    refused = [one for status, one in found if status not in (0, 200)]
    return Load([one for status, one in found if status == 200], statuses, took, refused)


def _user(url: str, request: bytes, until: float, least: int, found: list[tuple[int, float]]) -> None:
    address = urlsplit(url)
    connection: socket.socket | None = None
    asked = 0
    while asked < least or time.perf_counter() < until:
        begun, asked = time.perf_counter(), asked + 1
        try:
            connection = connection or socket.create_connection((address.hostname, address.port), 120)
            status, open_still = _exchange(connection, request)
        except OSError:
            status, open_still = 0, False
        found.append((status, time.perf_counter() - begun))
        if not open_still and connection:
            connection.close()
            connection = None


def _exchange(connection: socket.socket, request: bytes) -> tuple[int, bool]:
    """Send, and read the whole answer: its status, and whether the connection stays open."""
    connection.sendall(request)
    seen = b""
    while b"\r\n\r\n" not in seen:
        seen += _some(connection)
    head, _, body = seen.partition(b"\r\n\r\n")
    fields = {
        name.strip().lower(): value.strip() for name, _, value in (line.partition(b":") for line in head.split(b"\r\n"))
    }
    status = int(head.split(b" ", 2)[1])
    length = int(fields.get(b"content-length", b"0"))
    while len(body) < length:
        body += _some(connection)
    return status, fields.get(b"connection", b"").lower() != b"close" and not head.startswith(b"HTTP/1.0")


def _some(connection: socket.socket) -> bytes:
    part = connection.recv(1 << 16)
    if not part:
        raise ConnectionError("closed in the middle of an answer")
    return part
