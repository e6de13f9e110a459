"""A connection that is bounded in time, number and what is not body, and the door that hostile requests end at."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import uvicorn.protocols.http.auto
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serving.http.problem_details import MEDIA, details, problem

HEAD_SECONDS = 20.0  # for a whole request line and its headers
REQUEST_SECONDS = 110.0  # for a whole body: longer than the form's own patience, which says why it ends
ANSWER_SECONDS = 300.0  # from a whole request to the end of its answer, which a slow reader must not put off for ever
LINGER_SECONDS = 2.0  # in which a sender may read why, while what he goes on sending is thrown away
FRAMING = 1 << 16  # bytes of a request beyond its body: line, headers, marks of chunks, trailers
TOO_LONG = f"The headers are over {FRAMING // 1024} KiB; send fewer or shorter ones."
HEADERS = 128  # of one request, trailers included


@dataclass
class Peers:
    """How many connections one peer address may hold, and all together; how many are open."""

    per_peer: int
    total: int
    open: Counter[str] = field(default_factory=Counter)

    def full(self, address: str) -> bool:
        """Whether one more of this address is too many."""
        return self.open[address] >= self.per_peer or self.open.total() >= self.total

    def enter(self, address: str) -> None:
        """Count a connection."""
        self.open[address] += 1

    def leave(self, address: str) -> None:
        """A connection has ended."""
        self.open[address] -= 1
        if self.open[address] <= 0:
            del self.open[address]


class Connection(HttpToolsProtocol):
    """Uvicorn's connection, which waits for a request for ever and keeps headers of any length.

    This one ends when a request takes too long to come, holds far more than its body, or when its answer is not read;
    no websockets. `peers` bounds their number in a process that many peers reach.
    """

    peers: Peers | None = None
    address = ""  # counted among the peers
    timer: asyncio.TimerHandle | None = None
    framing = 0
    header_bytes = 0
    between = True  # two requests
    ended = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if Door.paths:
            self.app = Door(self.app)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The time for the first request begins."""
        super().connection_made(transport)  # type: ignore[arg-type]
        self._within(HEAD_SECONDS)
        if self.peers is None:
            return
        address = self.client[0] if self.client else ""
        if self.peers.full(address):
            self._end(503, "There are too many connections from your address; close some.")
            self.transport.close()
        else:
            self.address = address
            self.peers.enter(address)

    def connection_lost(self, exc: Exception | None) -> None:
        """No time runs any more."""
        self._within(None)
        if self.peers and self.address:
            self.peers.leave(self.address)
            self.address = ""
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count what came; body is taken off again in `on_body`, as much for the marks around it."""
        if self.ended:
            return
        self.framing = len(data) + (0 if self.between else self.framing)
        if self.between and self._idle():  # what comes may be no more than an empty line, which begins no request
            self._within(HEAD_SECONDS)
        self.between = False
        super().data_received(data)
        if self.framing > FRAMING and not self.ended:
            self._end(431, TOO_LONG)

    def on_message_begin(self) -> None:
        """A request begins: a new count, and a new time."""
        super().on_message_begin()
        self.header_bytes = 0
        if self.between:  # it came together with the one before
            self.framing, self.between = 0, False
        if not self.ended:
            self._within(HEAD_SECONDS)

    def on_header(self, name: bytes, value: bytes) -> None:
        """One more header; of too many, or too long ones, none is kept."""
        if self.ended:
            return
        self.header_bytes += len(name) + len(value)
        if len(self.headers) >= HEADERS:
            self._end(431, f"There are over {HEADERS} headers; send fewer.")
        elif self.header_bytes > FRAMING:
            self._end(431, TOO_LONG)
        else:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The headers are here: time for the body."""
        if not self.ended:
            super().on_headers_complete()
            self._within(REQUEST_SECONDS)

    def on_body(self, body: bytes) -> None:
        """A piece of the body. One that came after its answer is thrown away, and earns nothing."""
        if self.ended:
            return
        self.framing -= len(body) if self.cycle.response_complete else 2 * len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is whole: time for its answer."""
        if self.ended:
            return
        super().on_message_complete()
        self.between = True
        self._within(None if self._idle() else ANSWER_SECONDS)

    def on_response_complete(self) -> None:
        """The answer is whole: time for what the peer has not read, and then Uvicorn's own timer."""
        super().on_response_complete()
        if self.between and not self.ended:
            is_done = self._idle() and not self.transport.get_write_buffer_size()
            self._within(None if is_done else ANSWER_SECONDS)

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP is told so in the form of every other error."""
        self._end(400, msg)

    def _should_upgrade_to_ws(self) -> bool:
        return False

    def _idle(self) -> bool:
        """Whether no answer is under way."""
        return self.cycle is None or self.cycle.response_complete

    def _within(self, seconds: float | None) -> None:
        if self.timer is not None:
            self.timer.cancel()
        self.timer = None if seconds is None else self.loop.call_later(seconds, self._late)

    def _late(self) -> None:
        self._end(408, "The request took too long to come; send it again.")

    def _end(self, status: int, detail: str) -> None:
        """Say why, unless an answer is under way, and close: not at once, or the sender may never read it."""
        if self.ended or self.transport.is_closing() or not self._idle():
            if self.transport.get_write_buffer_size():  # an answer that is not read would keep it open
                self.transport.abort()
            self.transport.close()
            return
        said = details(status, detail)
        body = json.dumps(said).encode()
        head = f"HTTP/1.1 {status} {said['title']}\r\ncontent-type: {MEDIA}\r\ncontent-length: {len(body)}\r\n"
        self.transport.write(f"{head}connection: close\r\n\r\n".encode() + body)
        self.ended = True
        self._within(LINGER_SECONDS)


class Door:
    """ASGI, outside all of BentoML: what its metrics and logs would keep for ever, or fail at, goes no further."""

    paths: frozenset[str] = frozenset()

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it with a problem."""
        if scope["path"] not in self.paths:
            await problem(404, "There is nothing at this address; /docs.json lists what there is.")(
                scope, receive, send
            )
        elif not (Headers(scope=scope).get("content-type", "").isascii() and scope["query_string"].isascii()):
            await problem(400, "The content type or the query holds bytes that are not ASCII.")(scope, receive, send)
        else:
            await self.app(scope, receive, send)


def install(paths: Iterable[str]) -> None:
    """Have Uvicorn serve this process's requests through `Connection`, and only at these paths."""
    Door.paths = frozenset(paths)
    uvicorn.protocols.http.auto.AutoHTTPProtocol = Connection
