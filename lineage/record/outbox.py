"""The outbox: messages for other systems, stored before delivery so that none is lost while a system is down."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from lineage.errors import Fault
from lineage.fingerprint import canonical
from lineage.record import database


@dataclass(frozen=True)
class Message:
    """One undelivered message."""

    id: int
    kind: str
    key: str
    payload: dict[str, Any]


def put(kind: str, key: str, payload: dict[str, Any]) -> bool:
    """Store a message, once for each kind and key, even after delivery; whether it is new."""
    row = {"kind": kind, "key": key, "payload": canonical(payload), "put_at": database.now()}
    return database.insert_new(database.outbox, row)


def pending() -> list[Message]:
    """The undelivered messages, oldest first."""
    table = database.outbox
    rows = database.fetch(table.select().where(table.c.done_at.is_(None)).order_by(table.c.id))
    return [Message(row["id"], row["kind"], row["key"], json.loads(row["payload"])) for row in rows]


def mark_delivered(message_id: int) -> None:
    """Mark a message as delivered; idempotent. Fault if there is no such message."""
    table = database.outbox
    if not database.execute(table.update().where(table.c.id == message_id).values(done_at=database.now())):
        raise Fault(f"the outbox has no message {message_id}")
