"""Accounts: users and their roles, one-time links, bearer tokens, and permissions."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from lineage.errors import Fault
from lineage.fingerprint import text_sha256
from lineage.record import database, ledger
from lineage.record.events import EventKind

ROLES = ("engineer", "clinician", "auditor")
SYSTEM = "system"
CHECK_ACCOUNT, SHADOW_ACCOUNT = "release-check", "release-shadow"
# Accounts of the loop itself: CHECK sends the warm-up scans, SHADOW sends requests to a shadow release.
PROGRAMS = (CHECK_ACCOUNT, SHADOW_ACCOUNT)
NAME = re.compile(r"[a-z0-9][a-z0-9._@-]{0,63}")
INVITATION = "sign-in"
INVITATION_MINUTES = 10

# The roles that may do each action. The system (scheduled runs, and commands before accounts exist) may do all of them.
ACTIONS: dict[str, tuple[str, ...]] = {
    "predict": ("clinician", "engineer"),
    "cases": ("clinician",),  # read cases and their reports
    "outcome": ("clinician",),  # record the confirmed diagnosis of a case
    "models": ("engineer", "auditor"),  # read versions, verdicts and runs
    "drift": ("engineer", "auditor"),  # read the drift pages
    "acknowledge": ("engineer",),
    "ingest": ("engineer",),
    "retrain": ("engineer",),
    "approve": ("engineer",),  # approve or reject a challenger
    "traffic": ("engineer",),  # route traffic between releases, roll back
    "withdraw": ("engineer",),
    "people": ("engineer",),  # add, disable, invite
    "trace": ("engineer", "auditor"),
    "ledger": ("engineer", "auditor"),  # read and verify the record
    "evidence": ("engineer", "auditor"),
}


@dataclass(frozen=True)
class Person:
    """A user. `disabled_at` is None while the account is open."""

    name: str
    role: str
    added_at: str
    added_by: str
    disabled_at: str | None = None


def add(name: str, role: str, actor: str = SYSTEM) -> Person:
    """Open an account. Fault if the name is taken or malformed, or the role unknown."""
    if role not in ROLES:
        raise Fault(f"{role!r} is not a role; the roles are {', '.join(ROLES)}")
    if name == SYSTEM or not NAME.fullmatch(name):
        raise Fault(f"{name!r} can't be a user's name; use lower-case letters, digits and . _ @ - (at most 64)")
    person = Person(name, role, database.now(), actor)
    if not database.insert_new(database.people, vars(person).copy()):
        raise Fault(f"there is a user {name!r} already; choose another name")
    ledger.append(EventKind.PERSON_ADDED, name, {"role": role}, actor)
    return person


def people() -> list[Person]:
    """Every account by name, including disabled ones."""
    return [Person(**row) for row in database.fetch(database.people.select().order_by(database.people.c.name))]


def open_accounts() -> list[Person]:
    """The accounts of people, without programs, that may sign in."""
    return [account for account in people() if account.disabled_at is None and account.name not in PROGRAMS]


def require_open_account(name: str) -> Person:
    """The account of a person who may sign in. Fault for any other name."""
    account = person(name)
    if account.disabled_at is not None:
        raise Fault(f"the account {name!r} is disabled; `oncoloop user enable {name}` opens it again")
    if name in PROGRAMS:
        raise Fault(f"{name} is an account of the loop itself; nobody signs in with it")
    return account


def person(name: str) -> Person:
    """The account of this name. Fault if there is none."""
    rows = database.fetch(database.people.select().where(database.people.c.name == name))
    if not rows:
        raise Fault(f"there is no user {name!r}; `oncoloop user` lists them")
    return Person(**rows[0])


def disable(name: str, actor: str = SYSTEM) -> None:
    """Close an account: its links, tokens and sign-ins stop working at once. Its name stays reserved for the record.

    Tokens and sign-ins stay ended when the account is enabled again.
    """
    if person(name).disabled_at is None:
        moment, account_table, token_table, session_table = (
            database.now(),
            database.people,
            database.tokens,
            database.sessions,
        )
        with database.writing() as connection:
            connection.execute(account_table.update().where(account_table.c.name == name).values(disabled_at=moment))
            is_unrevoked = (token_table.c.name == name) & token_table.c.revoked_at.is_(None)
            connection.execute(token_table.update().where(is_unrevoked).values(revoked_at=moment))
            is_open = (session_table.c.name == name) & session_table.c.ended_at.is_(None)
            connection.execute(session_table.update().where(is_open).values(ended_at=moment))
        ledger.append(EventKind.PERSON_DISABLED, name, {}, actor)


def enable(name: str, actor: str = SYSTEM) -> None:
    """Enable a disabled account again."""
    if person(name).disabled_at is not None:
        table = database.people
        database.execute(table.update().where(table.c.name == name).values(disabled_at=None))
        ledger.append(EventKind.PERSON_ENABLED, name, {}, actor)


def invite(name: str, minutes: int = INVITATION_MINUTES, actor: str = SYSTEM) -> str:
    """A one-time token for a sign-in link, valid for `minutes`; the ledger records the invitation."""
    require_open_account(name)
    ledger.append(EventKind.PERSON_INVITED, name, {"minutes": minutes}, actor)
    return _issue(name, INVITATION, timedelta(minutes=minutes))


def is_invitation(token: str) -> bool:
    """Whether a one-time token is valid now. This does not use it up."""
    return bool(database.fetch(database.tokens.select().where(_unused(token)))) and _holder(token) is not None


def redeem(token: str) -> Person | None:
    """Use up a one-time token; its person, or None if it is unknown, used or expired."""
    if not database.execute(database.tokens.update().where(_unused(token)).values(used_at=database.now())):
        return None
    return _holder(token)


def issue(name: str, scope: str, days: int, actor: str = SYSTEM, site: str = "") -> str:
    """A bearer token for a program that acts for a person, for one scope (an action). Only its SHA-256 is stored.

    `site` is the hash of the site whose scans the program sends (lineage/site_hash.py); "" for none.
    """
    if scope not in ACTIONS:
        raise Fault(f"{scope!r} is not a scope; the scopes are {', '.join(ACTIONS)}")
    if not may(person(name), scope):
        raise Fault(f"{name} is {person(name).role} and may not {scope}; issue the token for someone who may")
    if days < 1:
        raise Fault(f"a token must be valid for at least one day, not {days}")
    token = _issue(name, scope, timedelta(days=days), site)
    facts = {"scope": scope, "days": days, "sha256": text_sha256(token)} | ({"site": site} if site else {})
    ledger.append(EventKind.TOKEN_ISSUED, name, facts, actor)
    return token


def token_site(token: str) -> str:
    """The hash of the site of a bearer token; "" for a token without a site and for an unknown token."""
    rows = database.fetch(database.tokens.select().where(database.tokens.c.sha256 == text_sha256(token)))
    return str(rows[0]["site"]) if rows else ""


def bearer(token: str, scope: str) -> Person | None:
    """The person for whom a program acts; None if the token is unknown, expired, revoked or for another scope."""
    table = database.tokens
    matches = (table.c.sha256 == text_sha256(token)) & (table.c.scope == scope)
    is_valid = matches & (table.c.expires_at > database.now()) & table.c.revoked_at.is_(None)
    if scope == INVITATION or not database.fetch(table.select().where(is_valid)):
        return None
    holder = _holder(token)
    return holder if holder and may(holder, scope) else None


def tokens(name: str) -> list[dict[str, str]]:
    """The valid bearer tokens of a person, the newest first: sha256, scope, issued_at, expires_at."""
    person(name)
    table = database.tokens
    is_valid = (table.c.name == name) & (table.c.scope != INVITATION) & table.c.revoked_at.is_(None)
    query = table.select().where(is_valid & (table.c.expires_at > database.now())).order_by(table.c.issued_at.desc())
    return [{key: row[key] for key in ("sha256", "scope", "issued_at", "expires_at")} for row in database.fetch(query)]


def revoke(name: str, sha256: str, actor: str = SYSTEM) -> str:
    """Revoke one bearer token of a person, given the first characters of its SHA-256; the full SHA-256."""
    hashes = [row["sha256"] for row in tokens(name) if sha256 and row["sha256"].startswith(sha256.lower())]
    if len(hashes) != 1:
        raise Fault(f"{len(hashes)} tokens of {name} begin with {sha256!r}; `oncoloop user tokens {name}` lists them")
    database.execute(
        database.tokens.update().where(database.tokens.c.sha256 == hashes[0]).values(revoked_at=database.now())
    )
    ledger.append(EventKind.TOKEN_REVOKED, name, {"sha256": hashes[0]}, actor)
    return hashes[0]


def may(person_or_name: Person | str, action: str) -> bool:
    """Whether a person, or the system, may do an action. Fault for an unknown action."""
    if action not in ACTIONS:
        raise Fault(f"{action!r} is not an action; the actions are {', '.join(ACTIONS)}")
    if person_or_name == SYSTEM:
        return True
    account = person(person_or_name) if isinstance(person_or_name, str) else person_or_name
    return account.disabled_at is None and account.role in ACTIONS[action]


def _issue(name: str, scope: str, lifetime: timedelta, site: str = "") -> str:
    if person(name).disabled_at is not None:
        raise Fault(f"the account {name!r} is disabled; `oncoloop user enable {name}` opens it again")
    token = secrets.token_urlsafe(32)
    expires = (datetime.now(UTC) + lifetime).strftime("%Y-%m-%dT%H:%M:%SZ")
    row = {
        "sha256": text_sha256(token),
        "name": name,
        "scope": scope,
        "issued_at": database.now(),
        "expires_at": expires,
        "site": site,
    }
    database.execute(database.tokens.insert().values(row))
    return token


def _unused(token: str) -> database.Condition:
    table = database.tokens
    matches = (table.c.sha256 == text_sha256(token)) & (table.c.scope == INVITATION)
    return matches & table.c.used_at.is_(None) & table.c.revoked_at.is_(None) & (table.c.expires_at > database.now())


def _holder(token: str) -> Person | None:
    """The person who holds a token, if the account is open."""
    rows = database.fetch(database.tokens.select().where(database.tokens.c.sha256 == text_sha256(token)))
    holder = person(rows[0]["name"])
    return holder if holder.disabled_at is None else None
