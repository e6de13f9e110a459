"""Which release is live. The ledger decides (`release.activated`); the table `traffic` is its projection."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from lineage.errors import Fault
from lineage.record import database, ledger

LIVE, PREVIOUS = "live", "previous"
SHADOW_EVENTS = ("shadow.started", "shadow.served", "shadow.stopped")


@dataclass(frozen=True)
class Target:
    """A release and the address of the server that runs it."""

    release: str
    url: str


@dataclass(frozen=True)
class Shadow:
    """A release in shadow: the task and version under test, and the address of its server."""

    task: str
    version: str
    release: str
    url: str


def local_url(url: str) -> str:
    """The address of a release on this machine. Fault for any other, because scans and secrets are sent there."""
    parts = urlsplit(url)
    if parts.scheme != "http" or parts.hostname not in ("127.0.0.1", "localhost", "::1") or parts.path.strip("/"):
        raise Fault(f"a release runs on this machine, not at {url!r}; something else changed the record")
    return url.rstrip("/")


def shadow() -> Shadow | None:
    """The release in shadow; None if there is none, or if its server is not ready yet."""
    table = database.ledger
    query = table.select().where(table.c.kind.in_(SHADOW_EVENTS)).order_by(table.c.seq.desc()).limit(1)
    newest = database.fetch(query)
    if not newest or newest[0]["kind"] != "shadow.served":
        return None
    facts = json.loads(newest[0]["payload"])
    return Shadow(newest[0]["subject"], str(facts["version"]), facts["release"], local_url(facts["url"]))


def live() -> Target | None:
    """The live release, or None before the first one."""
    _update_table()
    return _newest(database.traffic.c.role == LIVE)


def previous() -> Target | None:
    """The release that was live before, with its last address; None if there was none."""
    current = live()
    if current is None:
        return None
    return _newest(database.traffic.c.release != current.release)


def move(release: str, url: str, actor: str) -> Target:
    """Make `release`, served at `url`, the live release. The live one so far becomes the previous one.

    The same release at another address only changes the address.
    """
    if not release:
        raise Fault("traffic needs a release to move to; name one")
    current, target = live(), Target(release, local_url(url))
    if target != current:
        payload = {"url": target.url, "instead_of": current.release if current else None}
        ledger.append("release.activated", release, payload, actor)
        _update_table()
    return target


def history(limit: int = 50) -> list[dict[str, Any]]:
    """The moves, newest first: at, release, url, role, actor."""
    return database.fetch(database.traffic.select().order_by(database.traffic.c.id.desc()).limit(limit))


def _update_table() -> None:
    """Write the ledger's newest activation, by this desk or the supervisor, into the table."""
    events = ledger.events(kind="release.activated", limit=1)
    if not events:
        return
    activated = Target(events[0].subject, local_url(str(events[0].payload["url"])))
    if _newest(database.traffic.c.role == LIVE) == activated:
        return
    with database.writing() as connection:
        query = (
            database.traffic.select()
            .where(database.traffic.c.role == LIVE)
            .order_by(database.traffic.c.id.desc())
            .limit(1)
        )
        current = connection.execute(query).mappings().first()
        if current and (current["release"], current["url"]) == (activated.release, activated.url):
            return
        if current and current["release"] != activated.release:
            replaced = Target(current["release"], current["url"])
            connection.execute(database.traffic.insert().values(_row(replaced, PREVIOUS, events[0].actor)))
        connection.execute(database.traffic.insert().values(_row(activated, LIVE, events[0].actor)))


def _newest(condition: Any) -> Target | None:
    rows = database.fetch(database.traffic.select().where(condition).order_by(database.traffic.c.id.desc()).limit(1))
    return Target(rows[0]["release"], rows[0]["url"]) if rows else None


def _row(target: Target, role: str, actor: str) -> dict[str, str]:
    return {"at": database.now(), "release": target.release, "url": target.url, "role": role, "actor": actor}
