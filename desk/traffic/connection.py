"""An HTTP connection with limits of time, number and header size, for the public ports of the desk."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from dataclasses import dataclass, field

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serving.http.problem_details import MEDIA, details

HEADER_SECONDS = 20.0  # for the request line and all headers
BODY_SECONDS = 110.0  # for the body; longer than the limit of the upload code, whose response names the reason
RESPONSE_SECONDS = 300.0  # from the end of a request to the end of its response, also if the peer reads slowly
LINGER_SECONDS = 2.0  # in which the peer can read an error while its further bytes are discarded
FRAMING_BYTES = 1 << 16  # of a request apart from its body: request line, headers, chunk sizes, trailers
HEADERS_TOO_LONG = f"The headers are over {FRAMING_BYTES // 1024} KiB; send fewer or shorter ones."
MAX_HEADERS = 128  # of one request, including trailers


@dataclass
class ConnectionLimits:
    """The largest number of open connections per peer address and in total, and the current numbers."""

    per_peer: int
    total: int
    open_connections: Counter[str] = field(default_factory=Counter)

    def is_reached(self, address: str) -> bool:
        """Whether one more connection from this address would exceed a limit."""
        is_peer_full = self.open_connections[address] >= self.per_peer
        return is_peer_full or self.open_connections.total() >= self.total

    def add(self, address: str) -> None:
        """Count a new connection."""
        self.open_connections[address] += 1

    def remove(self, address: str) -> None:
        """Stop counting a connection that has ended."""
        self.open_connections[address] -= 1
        if self.open_connections[address] <= 0:
            del self.open_connections[address]


class BoundedConnection(HttpToolsProtocol):
    """Uvicorn's HTTP connection with limits; Uvicorn itself waits without end and accepts headers of any length.

    The connection ends if a request arrives too slowly or has too many header bytes, or if the peer does not read the
    response. `limits` restricts the number of connections of the process.
    """

    limits: ConnectionLimits | None = None
    address = ""  # that `limits` counts this connection under
    timer: asyncio.TimerHandle | None = None
    framing_bytes = 0
    header_bytes = 0
    is_between_requests = True
    has_ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the timer for the first request, unless there are too many connections."""
        super().connection_made(transport)  # type: ignore[arg-type]
        self._set_timer(HEADER_SECONDS)
        if self.limits is None:
            return
        address = self.client[0] if self.client else ""
        if self.limits.is_reached(address):
            self._end(503, "There are too many connections from your address; close some.")
            self.transport.close()
        else:
            self.address = address
            self.limits.add(address)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer, and stop counting this connection."""
        self._set_timer(None)
        if self.limits and self.address:
            self.limits.remove(self.address)
            self.address = ""
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count all bytes as framing; `on_body` subtracts the body, and the same again for the chunk sizes."""
        if self.has_ended:
            return
        self.framing_bytes = len(data) + (0 if self.is_between_requests else self.framing_bytes)
        if self.is_between_requests and self._is_idle():  # an empty line alone begins no request
            self._set_timer(HEADER_SECONDS)
        self.is_between_requests = False
        super().data_received(data)
        if self.framing_bytes > FRAMING_BYTES and not self.has_ended:
            self._end(431, HEADERS_TOO_LONG)

    def on_message_begin(self) -> None:
        """A request begins: reset the counts and the timer."""
        super().on_message_begin()
        self.header_bytes = 0
        if self.is_between_requests:  # it arrived in the same packet as the request before
            self.framing_bytes, self.is_between_requests = 0, False
        if not self.has_ended:
            self._set_timer(HEADER_SECONDS)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Accept a header, or end the connection if there are too many or too long headers."""
        if self.has_ended:
            return
        self.header_bytes += len(name) + len(value)
        if len(self.headers) >= MAX_HEADERS:
            self._end(431, f"There are over {MAX_HEADERS} headers; send fewer.")
        elif self.header_bytes > FRAMING_BYTES:
            self._end(431, HEADERS_TOO_LONG)
        else:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The headers are complete: start the timer for the body."""
        if not self.has_ended:
            super().on_headers_complete()
            self._set_timer(BODY_SECONDS)

    def on_body(self, body: bytes) -> None:
        """A part of the body. A part after its response is discarded, and allows no further framing bytes."""
        if self.has_ended:
            return
        self.framing_bytes -= len(body) if self.cycle.response_complete else 2 * len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is complete: start the timer for its response."""
        if self.has_ended:
            return
        super().on_message_complete()
        self.is_between_requests = True
        self._set_timer(None if self._is_idle() else RESPONSE_SECONDS)

    def on_response_complete(self) -> None:
        """The response is complete: keep the timer while the peer has not read it; then Uvicorn's own timer runs."""
        super().on_response_complete()
        if self.is_between_requests and not self.has_ended:
            is_sent = self._is_idle() and not self.transport.get_write_buffer_size()
            self._set_timer(None if is_sent else RESPONSE_SECONDS)

    def send_400_response(self, msg: str) -> None:
        """Answer bytes that are not HTTP with a problem detail, like every other error."""
        self._end(400, msg)

    def _is_idle(self) -> bool:
        """Whether no response is in progress."""
        return self.cycle is None or self.cycle.response_complete

    def _set_timer(self, seconds: float | None) -> None:
        if self.timer is not None:
            self.timer.cancel()
        self.timer = None if seconds is None else self.loop.call_later(seconds, self._time_out)

    def _time_out(self) -> None:
        self._end(408, "The request was not complete in time; send it again.")

    def _end(self, status: int, detail: str) -> None:
        """Send the error, unless a response is in progress, and close after a delay in which the peer can read it."""
        if self.has_ended or self.transport.is_closing() or not self._is_idle():
            if self.transport.get_write_buffer_size():  # a response that the peer does not read would keep it open
                self.transport.abort()
            self.transport.close()
            return
        problem_details = details(status, detail)
        body = json.dumps(problem_details).encode()
        head = f"HTTP/1.1 {status} {problem_details['title']}\r\n"
        head += f"content-type: {MEDIA}\r\ncontent-length: {len(body)}\r\n"
        self.transport.write(f"{head}connection: close\r\n\r\n".encode() + body)
        self.has_ended = True
        self._set_timer(LINGER_SECONDS)
