"""Buffer an upload in memory until it is answered, with limits of size, time and total memory.

The upload is forwarded while it arrives, and the received parts stay in memory for a second try. Nothing is written to
disk.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from serving.http import upload_limit

MEMORY_BYTES = 1 << 30  # of all uploads in one desk at the same time
UPLOAD_SECONDS = 100.0  # that a sender may take for one upload
RETRY_LATER = {"Retry-After": "5"}


@dataclass
class UploadMemory:
    """The bytes that all buffered uploads use, and their limit."""

    used_bytes: int = 0
    limit: int = MEMORY_BYTES

    @contextmanager
    def upload(self, request: Request, limit: int) -> Iterator[Upload]:
        """Buffer a request's body until the block ends; `limit` is that of its files in bytes."""
        upload = Upload(self, request, limit)
        try:
            yield upload
        finally:
            self.used_bytes -= upload.size
            upload.is_closed = True
            upload.parts.clear()


@dataclass
class Upload:
    """One request body. `error` is the reason why it cannot be received, once there is one."""

    memory: UploadMemory
    request: Request
    limit: int
    parts: list[bytes] = field(default_factory=list)
    size: int = 0
    is_complete: bool = False
    is_closed: bool = False
    error: HTTPException | ClientDisconnect | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    deadline: float = field(default_factory=lambda: asyncio.get_running_loop().time() + UPLOAD_SECONDS)

    async def stream(self) -> AsyncIterator[bytes]:
        """The body from its beginning, for each try: the buffered parts, then those that arrive. Raises `error`."""
        position = 0
        while True:
            while position < len(self.parts):
                yield self.parts[position]
                position += 1
            if self.is_complete:
                return
            async with self.lock:  # a first try that broke off may still wait for the same part
                if position == len(self.parts) and not self.is_complete:
                    await self._receive_part()

    async def _receive_part(self) -> None:
        if self.error is None:
            try:
                async with asyncio.timeout_at(self.deadline):
                    message = await self.request.receive()
            except TimeoutError:
                detail = f"The upload was not complete after {UPLOAD_SECONDS:g} seconds; send it again."
                self.error = HTTPException(408, detail)
            else:
                self._store(message.get("body", b""), message["type"] == "http.disconnect")
                self.is_complete = self.error is None and not message.get("more_body", False)
        if self.error is not None:
            raise self.error

    def _store(self, part: bytes, is_disconnected: bool) -> None:
        if is_disconnected or self.is_closed:
            self.error = ClientDisconnect()
        elif upload_limit.is_too_large(self.size + len(part), self.limit):
            self.error = HTTPException(413, upload_limit.refusal_sentence(self.limit))
        elif self.memory.used_bytes + len(part) > self.memory.limit:
            detail = "Too many scans are being uploaded at the moment; send this one again shortly."
            self.error = HTTPException(503, detail, RETRY_LATER)
        else:
            self.size += len(part)
            self.memory.used_bytes += len(part)
            self.parts.append(part)
