"""Send answered requests to the shadow too, after their response was sent, and only a few at a time.

A request that does not fit the queue, or fails, is dropped; the comparison counts the live answers without a shadow's.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool

from desk.accounts import credentials
from desk.traffic.targets import Shadow
from lineage import accounts, keys
from serving.inference.request import DESK_HEADER, SITE_HEADER

log = logging.getLogger(__name__)
FORWARDED_HEADERS = ("content-type", "content-length", SITE_HEADER)
CONCURRENT_REQUESTS = 2
MAX_QUEUED_REQUESTS = 64
MAX_QUEUED_BYTES = 256 << 20  # of all uploads in the queue, including those being sent
SECONDS = 60.0


@dataclass
class ShadowQueue:
    """The requests that one desk sends to a shadow: the queue, its size in bytes, and counts of the results."""

    client: aiohttp.ClientSession
    queued: int = 0
    queued_bytes: int = 0
    answered: int = 0
    dropped: int = 0
    failed: int = 0
    semaphore: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(CONCURRENT_REQUESTS))
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def background_task(
        self, shadow: Shadow, headers: Mapping[str, str], parts: list[bytes], live_answer: bytes
    ) -> BackgroundTask | None:
        """Queue a request; the task runs once the live release's answer is sent. None for another task or a full queue.

        `parts` is the body of the request.
        """
        answer = _answer_fields(live_answer)
        if answer.get("task") != shadow.task:
            return None
        size = sum(map(len, parts))
        if self.queued >= MAX_QUEUED_REQUESTS or self.queued_bytes + size > MAX_QUEUED_BYTES:
            self.dropped += 1
            log.warning("the shadow's queue is full, so %s is dropped; %d dropped so far", answer["id"], self.dropped)
            return None
        self.queued, self.queued_bytes = self.queued + 1, self.queued_bytes + size
        shadow_headers = {name: value for name, value in headers.items() if name in FORWARDED_HEADERS}
        shadow_headers |= {"idempotency-key": answer["id"], "shadows": answer["id"]}
        return BackgroundTask(self._start, shadow, shadow_headers, parts, size)

    async def close(self) -> None:
        """Cancel all queued requests."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def _start(self, shadow: Shadow, headers: dict[str, str], parts: list[bytes], size: int) -> None:
        """Start an own asyncio task, so that the connection of the live answer does not wait."""
        task = asyncio.create_task(self._send(shadow, headers, parts))
        self.tasks.add(task)
        task.add_done_callback(lambda finished_task: self._finish(finished_task, size))

    def _finish(self, task: asyncio.Task[None], size: int) -> None:
        self.tasks.discard(task)
        self.queued, self.queued_bytes = self.queued - 1, self.queued_bytes - size

    async def _send(self, shadow: Shadow, headers: dict[str, str], parts: list[bytes]) -> None:
        try:
            async with self.semaphore:
                token = await run_in_threadpool(credentials.token, accounts.SHADOW_ACCOUNT)
                headers |= {"authorization": f"Bearer {token}", DESK_HEADER: keys.server_secret("release")}
                timeout = aiohttp.ClientTimeout(total=SECONDS)
                address, body = f"{shadow.url}/predict", _stream(parts)
                async with self.client.post(
                    address, data=body, headers=headers, timeout=timeout, allow_redirects=False
                ) as response:
                    await response.read()
            self.answered += response.status == 200
            self.failed += response.status != 200
            if response.status != 200:
                log.warning("the shadow %s answered with status %d", shadow.release, response.status)
        except Exception as error:  # an error of the shadow must not reach anybody
            self.failed += 1
            log.warning("the shadow %s did not answer: %r", shadow.release, error)


def _answer_fields(answer: bytes) -> dict[str, Any]:
    """The fields of a release's answer; empty for any other bytes."""
    try:
        fields = json.loads(answer)
    except ValueError:
        return {}
    return fields if isinstance(fields, dict) and isinstance(fields.get("id"), str) else {}


async def _stream(parts: list[bytes]) -> AsyncIterator[bytes]:
    for part in parts:
        yield part
