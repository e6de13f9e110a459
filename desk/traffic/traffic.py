"""Which release answers. Decided in the ledger (`release.activated`); the table `traffic` is its projection."""

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
class Dark:
    """A release in shadow: the task and version that it is there for, and the address of its server."""

    task: str
    version: str
    release: str
    url: str


def here(url: str) -> str:
    """The address of a release of this machine. Fault for any other: scans and secrets are sent there."""
    parts = urlsplit(url)
    if parts.scheme != "http" or parts.hostname not in ("127.0.0.1", "localhost", "::1") or parts.path.strip("/"):
        raise Fault(f"a release answers on this machine, not at {url!r}; the record was changed from outside")
    return url.rstrip("/")


def shadow() -> Dark | None:
    """What is asked behind the live release now; None where nothing stands in shadow, or is not ready yet."""
    table = database.ledger
    query = table.select().where(table.c.kind.in_(SHADOW_EVENTS)).order_by(table.c.seq.desc()).limit(1)
    newest = database.fetch(query)
    if not newest or newest[0]["kind"] != "shadow.served":
        return None
    facts = json.loads(newest[0]["payload"])
    return Dark(newest[0]["subject"], str(facts["version"]), facts["release"], here(facts["url"]))


def live() -> Target | None:
    """The release that answers now, or None before the first one."""
    _follow()
    return _newest(database.traffic.c.role == LIVE)


def previous() -> Target | None:
    """The release that answered before the live one, at the address last known of it."""
    current = live()
    if current is None:
        return None
    return _newest(database.traffic.c.release != current.release)


def move(release: str, url: str, actor: str) -> Target:
    """Let `release`, served at `url`, answer from now on. The one that answered so far becomes the previous one.

    The same release at another address only changes the address.
    """
    if not release:
        raise Fault("traffic can't move to nothing; give a release")
    current, target = live(), Target(release, here(url))
    if target != current:
        payload = {"url": target.url, "instead_of": current.release if current else None}
        ledger.append("release.activated", release, payload, actor)
        _follow()
    return target


def history(limit: int = 50) -> list[dict[str, Any]]:
    """The moves, newest first: at, release, url, role, actor."""
    return database.fetch(database.traffic.select().order_by(database.traffic.c.id.desc()).limit(limit))


def _follow() -> None:
    """Bring the ledger's newest activation into the table, whoever wrote it: this desk or the supervisor."""
    events = ledger.events(kind="release.activated", limit=1)
    if not events:
        return
    decided = Target(events[0].subject, here(str(events[0].payload["url"])))
    if _newest(database.traffic.c.role == LIVE) == decided:
        return
    with database.writing() as connection:
        query = (
            database.traffic.select()
            .where(database.traffic.c.role == LIVE)
            .order_by(database.traffic.c.id.desc())
            .limit(1)
        )
        before = connection.execute(query).mappings().first()
        if before and (before["release"], before["url"]) == (decided.release, decided.url):
            return
        if before and before["release"] != decided.release:
            stood = Target(before["release"], before["url"])
            connection.execute(database.traffic.insert().values(_row(stood, PREVIOUS, events[0].actor)))
        connection.execute(database.traffic.insert().values(_row(decided, LIVE, events[0].actor)))


def _newest(condition: Any) -> Target | None:
    rows = database.fetch(database.traffic.select().where(condition).order_by(database.traffic.c.id.desc()).limit(1))
    return Target(rows[0]["release"], rows[0]["url"]) if rows else None


def _row(target: Target, role: str, actor: str) -> dict[str, str]:
    return {"at": database.now(), "release": target.release, "url": target.url, "role": role, "actor": actor}
