"""user, login, signin, signout: who may do what, and who works here."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from lineage import accounts, sessions
from lineage.errors import Fault
from pipelines.cli import Answer
from pipelines.servers import services
from pipelines.workspace import command_line_session

SCOPE = "predict"


def user(args: argparse.Namespace) -> Answer:
    """list; add NAME --role ROLE; disable, enable, sign-out, tokens NAME; revoke NAME SHA256."""
    if args.action == "list":
        rows = [
            {"name": each.name, "role": each.role, "active": each.disabled_at is None, "signed_in": _places(each.name)}
            for each in accounts.people()
        ]
        lines = [f"{row['name']:16} {row['role']:10} {_state(row)}".rstrip() for row in rows]
        return Answer(rows, "\n".join(lines) or "nobody yet")
    if not args.name:
        raise Fault(f"`oncoloop user {args.action}` needs a name")
    if args.action == "tokens":
        tokens = accounts.tokens(args.name)
        lines = [f"{row['sha256'][:12]}  {row['scope']}  until {row['expires_at']}" for row in tokens]
        return Answer(tokens, "\n".join(lines) or f"{args.name} has no token")
    who = command_line_session.authorised_person("people")
    return {"add": _add, "disable": _disable, "enable": _enable, "sign-out": _sign_out, "revoke": _revoke}[args.action](
        args, who
    )


def _add(args: argparse.Namespace, who: str) -> Answer:
    if args.role not in accounts.ROLES:
        raise Fault(f"--role must be one of {', '.join(accounts.ROLES)}")
    accounts.add(args.name, args.role, who)
    return Answer(
        {"name": args.name, "role": args.role}, f"{args.name} is {args.role}; `oncoloop login {args.name}` makes a link"
    )


def _disable(args: argparse.Namespace, who: str) -> Answer:
    accounts.disable(args.name, who)
    text = f"{args.name} may no longer sign in; what {args.name} was signed in with is ended"
    return Answer({"name": args.name, "active": False}, text)


def _enable(args: argparse.Namespace, who: str) -> Answer:
    accounts.enable(args.name, who)
    return Answer({"name": args.name, "active": True}, f"{args.name} may sign in again, with a new link")


def _sign_out(args: argparse.Namespace, who: str) -> Answer:
    ended = sessions.end_all(args.name, who)
    return Answer({"name": args.name, "sessions": ended}, f"{ended} sign-ins of {args.name} are ended")


def _revoke(args: argparse.Namespace, who: str) -> Answer:
    ended = accounts.revoke(args.name, args.token or "", who)
    return Answer({"name": args.name, "sha256": ended}, f"the token {ended[:12]} of {args.name} is revoked")


def _places(name: str) -> list[str]:
    return sorted({session.place for session in sessions.of(name)})


def _state(row: dict[str, Any]) -> str:
    return ", ".join(row["signed_in"]) if row["active"] else "disabled"


def login(args: argparse.Namespace) -> Answer:
    """A one-time link for a person, or a bearer token for a program.

    Whoever may write the workspace's files may make one: that is how the first person comes in.
    """
    if args.token:
        token = accounts.issue(args.name, SCOPE, args.days, command_line_session.current_person())
        return Answer({"token": token, "scope": SCOPE, "days": args.days}, token)
    token = accounts.invite(args.name, actor=command_line_session.current_person())
    front = services.url("desk") or "http://127.0.0.1:7800"
    return Answer({"link": f"{front}/enter?token={token}"}, f"{front}/enter?token={token}")


def signin(args: argparse.Namespace) -> Answer:
    """Decide on the command line under one's own name, for as long as a browser's sign-in lasts; or say who does."""
    if not args.link:
        who = command_line_session.current_person()
        return Answer({"name": who}, f"signed in as {who}" if who != accounts.SYSTEM else "nobody is signed in here")
    account = command_line_session.sign_in(sys.stdin.readline() if args.link == "-" else args.link)
    return Answer(
        {"name": account.name, "role": account.role},
        f"signed in as {account.name} ({account.role}) for {sessions.HOURS} hours",
    )


def signout(_args: argparse.Namespace) -> Answer:
    """End the sign-in on the command line."""
    who = command_line_session.sign_out()
    return Answer({"name": who}, f"{who} is signed out" if who else "nobody was signed in here")
