"""Who works on the command line: signed in with a one-time link, for as long as a browser would be."""

from __future__ import annotations

import os
from pathlib import Path

from lineage import accounts as lineage_accounts
from lineage import paths, sessions
from lineage.errors import Fault

SIGN_IN = "sign in first: oncoloop login NAME | oncoloop signin -"


def sign_in(link: str) -> lineage_accounts.Person:
    """Use a one-time link (or the token at its end) up, and stay signed in on this account of the machine."""
    account = lineage_accounts.redeem(link.strip().rpartition("token=")[2])
    if account is None:
        raise Fault("this link does not work (any more): it works once, and for a short time; ask for a new one")
    sign_out()
    path = _file()
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as stream:
        stream.write(sessions.begin(account.name, sessions.COMMANDS))
    return account


def sign_out() -> str | None:
    """End the sign-in of this account of the machine; whose it was."""
    known = _known()
    if known:
        sessions.end(known[1])
    _file().unlink(missing_ok=True)
    return known[0].name if known else None


def name() -> str:
    """Who works here: the signed-in person, else the system."""
    known = _known()
    return known[0].name if known else lineage_accounts.SYSTEM


def deciding(action: str) -> str:
    """Who decides; the system only where there are no accounts yet. Fault for nobody, and for who may not."""
    who = name()
    if who == lineage_accounts.SYSTEM and _accounts(action):
        raise Fault(f"a decision needs a person; {SIGN_IN}")
    if not lineage_accounts.may(who, action):
        raise Fault(f"{who} may not do this: it is for {' and '.join(lineage_accounts.ACTIONS[action])}s")
    return who


def _accounts(action: str) -> bool:
    """Whether somebody could decide. People may be added as long as there is no engineer, who does that."""
    accounts = lineage_accounts.open_accounts()
    return any(lineage_accounts.may(each, action) for each in accounts) if action == "people" else bool(accounts)


def _known() -> tuple[lineage_accounts.Person, str] | None:
    path = _file()
    return sessions.holder(path.read_text().strip(), sessions.COMMANDS) if path.is_file() else None


def _file() -> Path:
    """Where a sign-in on the command line is kept: in a folder of its own for each account of the machine."""
    path = paths.place(f"signed-in-{os.getuid()}", "session")
    if path.parent.stat().st_mode & paths.PRIVATE:
        path.parent.chmod(0o700)
    return path
