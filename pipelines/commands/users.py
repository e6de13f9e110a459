"""user, login, signin, signout: accounts, roles, tokens and sign-ins."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from lineage import accounts, sessions, site_hash
from lineage.errors import Fault
from pipelines.cli import Answer
from pipelines.servers import services
from pipelines.workspace import command_line_session

SCOPE = "predict"


def user(args: argparse.Namespace) -> Answer:
    """list; add NAME --role ROLE; disable, enable, sign-out, tokens NAME; revoke NAME SHA256."""
    if args.action == "list":
        rows = [
            {
                "name": account.name,
                "role": account.role,
                "active": account.disabled_at is None,
                "signed_in": _places(account.name),
            }
            for account in accounts.people()
        ]
        lines = [f"{row['name']:16} {row['role']:10} {_state(row)}".rstrip() for row in rows]
        return Answer(rows, "\n".join(lines) or "no accounts yet")
    if not args.name:
        raise Fault(f"`oncoloop user {args.action}` needs a name")
    if args.action == "tokens":
        tokens = accounts.tokens(args.name)
        lines = [f"{row['sha256'][:12]}  {row['scope']}  until {row['expires_at']}" for row in tokens]
        return Answer(tokens, "\n".join(lines) or f"{args.name} has no token")
    person = command_line_session.authorised_person("people")
    return {"add": _add, "disable": _disable, "enable": _enable, "sign-out": _sign_out, "revoke": _revoke}[args.action](
        args, person
    )


def _add(args: argparse.Namespace, person: str) -> Answer:
    if args.role not in accounts.ROLES:
        raise Fault(f"--role must be one of {', '.join(accounts.ROLES)}")
    accounts.add(args.name, args.role, person)
    return Answer(
        {"name": args.name, "role": args.role}, f"{args.name} is {args.role}; `oncoloop login {args.name}` makes a link"
    )


def _disable(args: argparse.Namespace, person: str) -> Answer:
    accounts.disable(args.name, person)
    text = f"{args.name} may no longer sign in; every sign-in and token of {args.name} is ended"
    return Answer({"name": args.name, "active": False}, text)


def _enable(args: argparse.Namespace, person: str) -> Answer:
    accounts.enable(args.name, person)
    return Answer({"name": args.name, "active": True}, f"{args.name} may sign in again, with a new link")


def _sign_out(args: argparse.Namespace, person: str) -> Answer:
    session_count = sessions.end_all(args.name, person)
    return Answer({"name": args.name, "sessions": session_count}, f"{session_count} sign-ins of {args.name} are ended")


def _revoke(args: argparse.Namespace, person: str) -> Answer:
    token_hash = accounts.revoke(args.name, args.token or "", person)
    return Answer({"name": args.name, "sha256": token_hash}, f"the token {token_hash[:12]} of {args.name} is revoked")


def _places(name: str) -> list[str]:
    return sorted({session.place for session in sessions.open_sessions(name)})


def _state(row: dict[str, Any]) -> str:
    return ", ".join(row["signed_in"]) if row["active"] else "disabled"


def login(args: argparse.Namespace) -> Answer:
    """Make a one-time link for a person, or a bearer token for a program.

    Everybody who may write the workspace's files may make one, so that the first person can sign in.
    """
    if args.token:
        site = site_hash.hash_site(args.site)
        token = accounts.issue(args.name, SCOPE, args.days, command_line_session.current_person(), site)
        return Answer({"token": token, "scope": SCOPE, "days": args.days}, token)
    if args.site:
        raise Fault("--site is for a token; a person who signs in sends scans of the desk's own site")
    token = accounts.invite(args.name, actor=command_line_session.current_person())
    front = services.url("desk") or "http://127.0.0.1:7800"
    return Answer({"link": f"{front}/enter?token={token}"}, f"{front}/enter?token={token}")


def signin(args: argparse.Namespace) -> Answer:
    """Sign in on the command line for as long as in a browser; without a link, show who is signed in."""
    if not args.link:
        person = command_line_session.current_person()
        return Answer(
            {"name": person}, f"signed in as {person}" if person != accounts.SYSTEM else "nobody is signed in here"
        )
    account = command_line_session.sign_in(sys.stdin.readline() if args.link == "-" else args.link)
    return Answer(
        {"name": account.name, "role": account.role},
        f"signed in as {account.name} ({account.role}) for {sessions.HOURS} hours",
    )


def signout(_args: argparse.Namespace) -> Answer:
    """End the sign-in on the command line."""
    person = command_line_session.sign_out()
    return Answer({"name": person}, f"{person} is signed out" if person else "nobody was signed in here")
