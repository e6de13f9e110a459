"""The ledger: one append-only hash chain of all events of the loop."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lineage import atomic_write
from lineage.errors import Fault
from lineage.fingerprint import canonical, text_sha256
from lineage.paths import state_path
from lineage.record import database
from lineage.record.events import EventKind
from lineage.record.standalone_verifier import GENESIS, check_chain, hashed_text
from lineage.record.verdict import Outcome, Verdict

PAGE = 10_000


@dataclass(frozen=True)
class Event:
    """One event. `hash` is the SHA-256 of `hashed_text` of the stored columns; `previous` is the hash before it."""

    seq: int
    at: str
    kind: str
    subject: str
    actor: str
    payload: dict[str, Any]
    previous: str
    hash: str


def append(kind: EventKind, subject: str, payload: dict[str, Any], actor: str = "system") -> Event:
    """Append one event to the chain and note the new head outside the database. Safe in several processes."""
    for name, value in (("kind", kind), ("subject", subject), ("actor", actor)):
        if not value or not value.isprintable():
            raise Fault(f"the {name} of an event must be one printable line, not {value!r}")
    with database.writing() as connection:
        last = (
            connection.execute(database.ledger.select().order_by(database.ledger.c.seq.desc()).limit(1))
            .mappings()
            .first()
        )
        row: dict[str, Any] = {
            "seq": last["seq"] + 1 if last else 1,
            "at": database.now(),
            "kind": str(kind),
            "subject": subject,
            "actor": actor,
            "payload": canonical(payload),
            "previous": last["hash"] if last else GENESIS,
        }
        row["hash"] = text_sha256(hashed_text(row))
        connection.execute(database.ledger.insert().values(row))
    _note_head(row["seq"], row["hash"])
    return _event(row)


def record_verdict(verdict: Verdict, actor: str = "system", **context: Any) -> Event:
    """Record a verdict, with further facts in `context`."""
    return append(EventKind.VERDICT, verdict.subject, verdict.to_dict() | context, actor)


def events(kind: EventKind | None = None, subject: str | None = None, limit: int | None = None) -> list[Event]:
    """The events of a kind and subject, oldest first; with `limit` only that many of the newest."""
    table = database.ledger
    query = table.select().order_by(table.c.seq.desc())
    if kind is not None:
        query = query.where(table.c.kind == kind)
    if subject is not None:
        query = query.where(table.c.subject == subject)
    if limit is not None:
        query = query.limit(limit)
    return [_event(row) for row in reversed(database.fetch(query))]


def rows(after: int = 0, limit: int = PAGE) -> list[dict[str, Any]]:
    """The stored rows after the sequence number `after`, with the payload as text."""
    table = database.ledger
    return database.fetch(table.select().where(table.c.seq > after).order_by(table.c.seq).limit(limit))


def head() -> tuple[int, str] | None:
    """The sequence number and hash of the newest event as noted outside the database; None if never noted."""
    path = state_path("ledger.head")
    if not path.exists():
        return None
    seq, _, hash_value = path.read_text().strip().partition(" ")
    if not seq.isdigit():
        raise Fault(f"{path} is damaged; compare it with a backup before anything else is written")
    return int(seq), hash_value


def verify() -> Verdict:
    """Check the chain, compare it with the head noted outside the database, and check the triggers.

    Fail: the record was changed. Inconclusive: no head is noted outside the database, so the chain's end is unproven.
    """
    noted = head()
    reasons, count, value = check_chain(stored_rows(), noted)
    reasons += [f"the trigger {name} is missing, off or altered" for name in database.missing_guards()]
    outcome = Outcome.FAIL if reasons else Outcome.PASS
    if not reasons and noted is None:
        outcome = Outcome.INCONCLUSIVE
        reasons = ["no head is noted outside the database, so a restored older database could not be detected"]
    reasons = reasons or [f"{count} events form one chain, its head is the noted one, all triggers are in place"]
    figures = {"events": count, "head": value, "noted": noted[0] if noted else None}
    return Verdict("ledger", "ledger", outcome, tuple(reasons), figures)


def stored_rows() -> Iterator[dict[str, Any]]:
    """Every stored row in order, read page by page."""
    last = 0
    while page := rows(after=last):
        yield from page
        last = page[-1]["seq"]


def _event(row: dict[str, Any]) -> Event:
    return Event(**row | {"payload": json.loads(row["payload"])})


def _note_head(seq: int, hash_value: str) -> None:
    """Write the head next to the database; never an earlier one, since another process may have noted a later one."""
    path = state_path("ledger.head")
    with state_path("run", "ledger.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        noted = head()
        if noted and noted[0] >= seq:
            return
        atomic_write.write_text(path, f"{seq} {hash_value}\n", durable=True)
