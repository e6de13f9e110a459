"""Where a request goes now: the live release with its limits, in memory, and a fifth of a second old at most."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

from starlette.concurrency import run_in_threadpool

from desk.traffic import release_facts, traffic
from desk.traffic.traffic import Dark, Target

log = logging.getLogger(__name__)
EVERY = 0.2  # seconds between two looks at the ledger: so late a move or a rollback is seen
FRESH = 0.5  # seconds for which a look counts; without one since, the request looks itself


@dataclass(frozen=True)
class Route:
    """The live release, how many bytes one request may send to it, what stands in shadow, and when this was asked."""

    target: Target | None
    limit: int
    seen: float
    dark: Dark | None = None


class Routes:
    """What the desk remembers of the way; one for each open desk."""

    def __init__(self) -> None:
        self.known = Route(None, 0, float("-inf"))

    async def now(self) -> Route:
        """The way as the ledger says, by a look that is no older than `FRESH`."""
        if time.monotonic() - self.known.seen > FRESH:
            return await self.look()
        return self.known

    async def look(self) -> Route:
        """Ask the ledger."""
        self.known = await run_in_threadpool(_read)
        return self.known

    @contextlib.asynccontextmanager
    async def followed(self) -> AsyncIterator[Routes]:
        """Look again and again while the desk is open, so that no request waits for it."""
        task = asyncio.create_task(self._follow())
        try:
            yield self
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _follow(self) -> None:
        while True:
            try:
                await self.look()
            except Exception as error:  # the requests look themselves meanwhile, and are told
                log.warning("the ledger could not be asked which release answers: %s", error)
                await asyncio.sleep(1)
            await asyncio.sleep(EVERY)


def _read() -> Route:
    begun = time.monotonic()
    target = traffic.live()
    limit = release_facts.upload_limit_mb(target.release) if target else 0.0
    return Route(target, int(limit * 1e6), begun, traffic.shadow())
