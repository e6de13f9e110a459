"""A cache of the live release, its upload limit and the shadow, refreshed from the ledger five times a second."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

from starlette.concurrency import run_in_threadpool

from desk.traffic import release_facts, targets
from desk.traffic.targets import Shadow, Target

log = logging.getLogger(__name__)
REFRESH_SECONDS = 0.2  # between two reads of the ledger, so the delay of a new release or a rollback
MAX_AGE_SECONDS = 0.5  # of the cached route; a request with an older one reads the ledger itself


@dataclass(frozen=True)
class Route:
    """The live release, the bytes that one request may send to it, the shadow, and the time of the read."""

    target: Target | None
    limit: int
    read_at: float
    shadow: Shadow | None = None


class RouteCache:
    """The current route, shared by all requests of one desk."""

    def __init__(self) -> None:
        self.route = Route(None, 0, float("-inf"))

    async def current(self) -> Route:
        """The route by the ledger, at most `MAX_AGE_SECONDS` old."""
        if time.monotonic() - self.route.read_at > MAX_AGE_SECONDS:
            return await self.refresh()
        return self.route

    async def refresh(self) -> Route:
        """Read the route from the ledger."""
        self.route = await run_in_threadpool(_read_route)
        return self.route

    @contextlib.asynccontextmanager
    async def refreshing(self) -> AsyncIterator[RouteCache]:
        """Refresh the route in the background while the block runs, so that no request waits for it."""
        task = asyncio.create_task(self._refresh_forever())
        try:
            yield self
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _refresh_forever(self) -> None:
        while True:
            try:
                await self.refresh()
            except Exception as error:  # meanwhile each request reads the ledger itself and reports the error
                log.warning("the live release could not be read from the ledger: %s", error)
                await asyncio.sleep(1)
            await asyncio.sleep(REFRESH_SECONDS)


def _read_route() -> Route:
    read_at = time.monotonic()
    target = targets.live()
    limit = release_facts.upload_limit_mb(target.release) if target else 0.0
    return Route(target, int(limit * 1e6), read_at, targets.shadow())
