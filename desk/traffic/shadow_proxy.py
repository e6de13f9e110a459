"""Requests that were answered go on to a shadow, when their answer has left: few at once, and never in anybody's way.

What finds no room, or fails, is dropped: the comparison counts the answers that no shadow stands behind.
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
from desk.traffic.traffic import Dark
from lineage import accounts, keys
from serving.inference.request import DESK

log = logging.getLogger(__name__)
AT_ONCE = 2
WAITING = 64  # requests
BYTES = 256 << 20  # of all uploads that wait or are asked
SECONDS = 60.0


@dataclass
class Behind:
    """What one desk hands on to a shadow: how many wait, their bytes, and what became of the others."""

    client: aiohttp.ClientSession
    waiting: int = 0
    held: int = 0
    handed_on: int = 0
    dropped: int = 0
    failed: int = 0
    turns: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def after(self, dark: Dark, headers: Mapping[str, str], parts: list[bytes], answer: bytes) -> BackgroundTask | None:
        """What is to be done once an answer of the live release has left; None where there is no room for it."""
        said = _told(answer)
        if said.get("task") != dark.task:
            return None
        size = sum(map(len, parts))
        if self.waiting >= WAITING or self.held + size > BYTES:
            self.dropped += 1
            log.warning("no room to ask the shadow for %s; %d were left out so far", said["id"], self.dropped)
            return None
        self.waiting, self.held = self.waiting + 1, self.held + size
        asked = {name: value for name, value in headers.items() if name in ("content-type", "content-length")}
        asked |= {"idempotency-key": said["id"], "shadows": said["id"]}
        return BackgroundTask(self._begin, dark, asked, parts, size)

    async def close(self) -> None:
        """Let go what still waits."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def _begin(self, dark: Dark, headers: dict[str, str], parts: list[bytes], size: int) -> None:
        """A task of its own: the connection on which the answer left must not wait for it."""
        task = asyncio.create_task(self._ask(dark, headers, parts))
        self.tasks.add(task)
        task.add_done_callback(lambda done: self._done(done, size))

    def _done(self, task: asyncio.Task[None], size: int) -> None:
        self.tasks.discard(task)
        self.waiting, self.held = self.waiting - 1, self.held - size

    async def _ask(self, dark: Dark, headers: dict[str, str], parts: list[bytes]) -> None:
        try:
            async with self.turns:
                token = await run_in_threadpool(credentials.token, accounts.SHADOW_ACCOUNT)
                headers |= {"authorization": f"Bearer {token}", DESK: keys.server_secret("release")}
                limit = aiohttp.ClientTimeout(total=SECONDS)
                address, body = f"{dark.url}/predict", _one_by_one(parts)
                async with self.client.post(
                    address, data=body, headers=headers, timeout=limit, allow_redirects=False
                ) as said:
                    await said.read()
            self.handed_on += said.status == 200
            self.failed += said.status != 200
            if said.status != 200:
                log.warning("the shadow %s answered %d", dark.release, said.status)
        except Exception as error:  # whatever it is, nobody waits for a shadow
            self.failed += 1
            log.warning("the shadow %s did not answer: %r", dark.release, error)


def _told(answer: bytes) -> dict[str, Any]:
    """The answer's fields; none where it is not what a release says."""
    try:
        said = json.loads(answer)
    except ValueError:
        return {}
    return said if isinstance(said, dict) and isinstance(said.get("id"), str) else {}


async def _one_by_one(parts: list[bytes]) -> AsyncIterator[bytes]:
    for part in parts:
        yield part
