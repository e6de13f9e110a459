"""An upload on its way, kept in memory until it is answered: bounded by itself, in time, and together with all others.

It goes on as it comes, and what came is kept for a second try. Nothing is written to disk.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

TOGETHER = 1 << 30  # bytes of all uploads that one desk holds at once
PATIENCE = 100.0  # seconds that a sender may take for one upload
WAIT = {"Retry-After": "5"}


@dataclass
class Room:
    """How many bytes of uploads are held now, and how many may be."""

    held: int = 0
    most: int = TOGETHER

    @contextmanager
    def upload(self, request: Request, limit: int) -> Iterator[Upload]:
        """A request's body of at most `limit` bytes, held until the block ends."""
        upload = Upload(self, request, limit)
        try:
            yield upload
        finally:
            self.held -= upload.taken
            upload.closed = True
            upload.parts.clear()


@dataclass
class Upload:
    """One body. `refused` says why it can't be taken, once that is seen; whoever sends it on asks for that."""

    room: Room
    request: Request
    limit: int
    parts: list[bytes] = field(default_factory=list)
    taken: int = 0
    complete: bool = False
    closed: bool = False
    refused: HTTPException | ClientDisconnect | None = None
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    until: float = field(default_factory=lambda: asyncio.get_running_loop().time() + PATIENCE)

    async def sent(self) -> AsyncIterator[bytes]:
        """All of it from the beginning, for each try: what was kept, then what comes. Raises `refused`."""
        place = 0
        while True:
            while place < len(self.parts):
                yield self.parts[place]
                place += 1
            if self.complete:
                return
            async with self.turn:  # a first try that broke off may still wait for the same part
                if place == len(self.parts) and not self.complete:
                    await self._more()

    async def _more(self) -> None:
        if self.refused is None:
            try:
                async with asyncio.timeout_at(self.until):
                    message = await self.request.receive()
            except TimeoutError:
                late = f"The upload was not complete after {PATIENCE:g} seconds; send it again."
                self.refused = HTTPException(408, late)
            else:
                self._take(message.get("body", b""), message["type"] == "http.disconnect")
                self.complete = self.refused is None and not message.get("more_body", False)
        if self.refused is not None:
            raise self.refused

    def _take(self, part: bytes, gone: bool) -> None:
        if gone or self.closed:
            self.refused = ClientDisconnect()
        elif self.taken + len(part) > self.limit:
            large = f"The upload is over {self.limit / 1e6:.0f} MB; send fewer or smaller files."
            self.refused = HTTPException(413, large)
        elif self.room.held + len(part) > self.room.most:
            busy = "Too many scans are on their way at once; send this one again in a moment."
            self.refused = HTTPException(503, busy, WAIT)
        else:
            self.taken += len(part)
            self.room.held += len(part)
            self.parts.append(part)
