"""Sign-in sessions: one row for each person and place; they end by expiry, sign-out, or with the account."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from lineage import accounts
from lineage.accounts import Person
from lineage.fingerprint import text_sha256
from lineage.record import database, ledger
from lineage.record.events import EventKind

HOURS = 12
DESK, TOOLS, COMMANDS = "desk", "tools", "command line"
TICKET = "ticket to the tools"  # for one redirect, from the desk to the tools
RECORDED_PLACES = (DESK, COMMANDS)  # sign-ins that the ledger records; people enter the tools from the desk


@dataclass(frozen=True)
class Session:
    """One sign-in. `id` is the SHA-256 of the secret in the browser or command line; the id gives no access."""

    id: str
    name: str
    place: str
    opened_at: str
    expires_at: str


def begin(name: str, place: str, hours: float = HOURS) -> str:
    """Sign a person in at a place; the secret of the session. Fault if there is no such open account."""
    accounts.require_open_account(name)
    secret = secrets.token_urlsafe(32)
    expires_at = (datetime.now(UTC) + timedelta(hours=hours)).strftime("%Y-%m-%dT%H:%M:%SZ")
    row = {
        "sha256": text_sha256(secret),
        "name": name,
        "place": place,
        "opened_at": database.now(),
        "expires_at": expires_at,
    }
    database.execute(database.sessions.insert().values(row))
    if place in RECORDED_PLACES:
        ledger.append(EventKind.PERSON_SIGNED_IN, name, {"place": place}, name)
    return secret


def holder(secret: str, place: str) -> tuple[Person, str] | None:
    """The person of a session's secret, and its id; None if it is unknown, expired, ended or of another place."""
    person = person_of_session(text_sha256(secret), place) if secret else None
    return (person, text_sha256(secret)) if person else None


def person_of_session(session_id: str, place: str = DESK) -> Person | None:
    """The person of a session id, if the session is open."""
    table = database.sessions
    rows = database.fetch(table.select().where((table.c.sha256 == session_id) & (table.c.place == place) & _is_open()))
    person = accounts.person(rows[0]["name"]) if rows else None
    return person if person and person.disabled_at is None else None


def hours_left(name: str) -> float:
    """Hours until a person's last session at the desk ends; 0 without one."""
    expiries = [datetime.fromisoformat(session.expires_at) for session in open_sessions(name) if session.place == DESK]
    return max(((expiry - datetime.now(UTC)).total_seconds() / 3600 for expiry in expiries), default=0.0)


def end(session_id: str) -> bool:
    """End one sign-in; whether it was open."""
    table = database.sessions
    return (
        database.execute(
            table.update().where((table.c.sha256 == session_id) & _is_open()).values(ended_at=database.now())
        )
        > 0
    )


def end_at(name: str, place: str) -> None:
    """End a person's sessions at one place."""
    table = database.sessions
    matches = (table.c.name == name) & (table.c.place == place) & _is_open()
    database.execute(table.update().where(matches).values(ended_at=database.now()))


def end_all(name: str, actor: str) -> int:
    """End every session of a person and record it in the ledger; the number of ended sessions."""
    accounts.person(name)
    table = database.sessions
    ended = database.execute(table.update().where((table.c.name == name) & _is_open()).values(ended_at=database.now()))
    if ended:
        ledger.append(EventKind.PERSON_SIGNED_OUT, name, {"sessions": ended}, actor)
    return ended


def open_sessions(name: str) -> list[Session]:
    """The open sessions of a person, the newest first."""
    table = database.sessions
    query = table.select().where((table.c.name == name) & _is_open()).order_by(table.c.opened_at.desc())
    return [
        Session(row["sha256"], row["name"], row["place"], row["opened_at"], row["expires_at"])
        for row in database.fetch(query)
    ]


def _is_open() -> database.Condition:
    table = database.sessions
    return table.c.ended_at.is_(None) & (table.c.expires_at > database.now())
