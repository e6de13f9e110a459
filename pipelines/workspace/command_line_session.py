"""The sign-in on the command line: begun with a one-time link, valid as long as a browser session."""

from __future__ import annotations

import os
from pathlib import Path

from lineage import accounts as lineage_accounts
from lineage import paths, sessions
from lineage.errors import Fault

SIGN_IN = "sign in first: oncoloop login NAME | oncoloop signin -"


def sign_in(link: str) -> lineage_accounts.Person:
    """Sign in with a one-time link (or the token at its end), for this user account of the machine."""
    account = lineage_accounts.redeem(link.strip().rpartition("token=")[2])
    if account is None:
        raise Fault("this link is not valid: a link works once and for a short time; ask for a new one")
    sign_out()
    path = _session_file()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(sessions.begin(account.name, sessions.COMMANDS))
    return account


def sign_out() -> str | None:
    """End the sign-in of this user account of the machine; return the name of the person, or None."""
    session = _current_session()
    if session:
        sessions.end(session[1])
    _session_file().unlink(missing_ok=True)
    return session[0].name if session else None


def current_person() -> str:
    """The name of the signed-in person; without a sign-in, the system's."""
    session = _current_session()
    return session[0].name if session else lineage_accounts.SYSTEM


def authorised_person(action: str) -> str:
    """The name of the person who takes an action; the system's as long as there are no accounts.

    Fault if nobody is signed in, and if the person may not take the action.
    """
    person = current_person()
    if person == lineage_accounts.SYSTEM and _has_decider(action):
        raise Fault(f"a decision needs a person; {SIGN_IN}")
    if not lineage_accounts.may(person, action):
        raise Fault(f"{person} may not do this: it is for {' and '.join(lineage_accounts.ACTIONS[action])}s")
    return person


def _has_decider(action: str) -> bool:
    """Whether an account exists that could decide. Only an engineer adds people, so the first is added without."""
    accounts = lineage_accounts.open_accounts()
    return any(lineage_accounts.may(account, action) for account in accounts) if action == "people" else bool(accounts)


def _current_session() -> tuple[lineage_accounts.Person, str] | None:
    path = _session_file()
    return sessions.holder(path.read_text().strip(), sessions.COMMANDS) if path.is_file() else None


def _session_file() -> Path:
    """The file of the sign-in, in a separate folder for each user account of the machine."""
    path = paths.state_path(f"signed-in-{os.getuid()}", "session")
    if path.parent.stat().st_mode & paths.PRIVATE:
        path.parent.chmod(0o700)
    return path
