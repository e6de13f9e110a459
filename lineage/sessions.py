"""Sign-ins: each is a row that says who came in where; it ends when it is old, by sign-out, or with the account."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from lineage import accounts
from lineage.accounts import Person
from lineage.fingerprint import text_sha256
from lineage.record import database, ledger

HOURS = 12
DESK, TOOLS, COMMANDS = "desk", "tools", "command line"
TICKET = "ticket to the tools"  # lasts one hop, from the desk to there
TOLD = (DESK, COMMANDS)  # places of which the ledger is told; the tools are entered from the desk


@dataclass(frozen=True)
class Session:
    """One sign-in. `id` is the SHA-256 of what the browser or the command line shows; it opens nothing."""

    id: str
    name: str
    place: str
    opened_at: str
    expires_at: str


def begin(name: str, place: str, hours: float = HOURS) -> str:
    """Sign a person in at a place; what is to be shown from now on. Fault if there is no such open account."""
    accounts.admit(name)
    shown = secrets.token_urlsafe(32)
    until = (datetime.now(UTC) + timedelta(hours=hours)).strftime("%Y-%m-%dT%H:%M:%SZ")
    row = {"sha256": text_sha256(shown), "name": name, "place": place, "opened_at": database.now(), "expires_at": until}
    database.execute(database.sessions.insert().values(row))
    if place in TOLD:
        ledger.append("person.signed-in", name, {"place": place}, name)
    return shown


def holder(shown: str, place: str) -> tuple[Person, str] | None:
    """Who shows this at a place, and the id of the session; None if it is unknown, old or ended, or of elsewhere."""
    person = of_id(text_sha256(shown), place) if shown else None
    return (person, text_sha256(shown)) if person else None


def of_id(session_id: str, place: str = DESK) -> Person | None:
    """Whose session this is, if it is open."""
    table = database.sessions
    rows = database.fetch(table.select().where((table.c.sha256 == session_id) & (table.c.place == place) & _open()))
    person = accounts.person(rows[0]["name"]) if rows else None
    return person if person and person.disabled_at is None else None


def hours_left(name: str) -> float:
    """Hours until the last of a person's sessions at the desk ends; 0 without one."""
    until = [datetime.fromisoformat(session.expires_at) for session in of(name) if session.place == DESK]
    return max(((each - datetime.now(UTC)).total_seconds() / 3600 for each in until), default=0.0)


def end(session_id: str) -> bool:
    """End one sign-in; whether it was open."""
    table = database.sessions
    return (
        database.execute(table.update().where((table.c.sha256 == session_id) & _open()).values(ended_at=database.now()))
        > 0
    )


def end_at(name: str, place: str) -> None:
    """End what a person has open at one place."""
    table = database.sessions
    here = (table.c.name == name) & (table.c.place == place) & _open()
    database.execute(table.update().where(here).values(ended_at=database.now()))


def end_all(name: str, actor: str) -> int:
    """End every sign-in of a person, and say so in the ledger; how many there were."""
    accounts.person(name)
    table = database.sessions
    ended = database.execute(table.update().where((table.c.name == name) & _open()).values(ended_at=database.now()))
    if ended:
        ledger.append("person.signed-out", name, {"sessions": ended}, actor)
    return ended


def of(name: str) -> list[Session]:
    """The sign-ins of a person that are open, the newest first."""
    table = database.sessions
    query = table.select().where((table.c.name == name) & _open()).order_by(table.c.opened_at.desc())
    return [
        Session(row["sha256"], row["name"], row["place"], row["opened_at"], row["expires_at"])
        for row in database.fetch(query)
    ]


def _open() -> database.Condition:
    table = database.sessions
    return table.c.ended_at.is_(None) & (table.c.expires_at > database.now())
