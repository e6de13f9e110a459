"""The outbox: what must still be told to another system. Written first, so that nothing is lost while it is down."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from lineage.errors import Fault
from lineage.fingerprint import canonical
from lineage.record import database


@dataclass(frozen=True)
class Message:
    """One message that has not been delivered."""

    id: int
    kind: str
    key: str
    payload: dict[str, Any]
    put_at: str


def put(kind: str, key: str, payload: dict[str, Any]) -> bool:
    """Put a message in, once for each kind and key, delivered or not; whether it was new."""
    row = {"kind": kind, "key": key, "payload": canonical(payload), "put_at": database.now()}
    return database.insert_new(database.outbox, row)


def pending() -> list[Message]:
    """The messages that wait, oldest first."""
    table = database.outbox
    found = database.fetch(table.select().where(table.c.done_at.is_(None)).order_by(table.c.id))
    return [Message(row["id"], row["kind"], row["key"], json.loads(row["payload"]), row["put_at"]) for row in found]


def done(message_id: int) -> None:
    """Note that a message was delivered. Doing it twice does no harm."""
    table = database.outbox
    if not database.execute(table.update().where(table.c.id == message_id).values(done_at=database.now())):
        raise Fault(f"the outbox has no message {message_id}")
