"""user, login: who may do what."""

from __future__ import annotations

import argparse

from lineage import people
from lineage.fault import Fault
from pipelines import services
from pipelines.cli import Answer

SCOPE = "predict"


def user(args: argparse.Namespace) -> Answer:
    """add NAME --role ROLE, list, disable NAME."""
    if args.action == "list":
        rows = [
            {"name": person.name, "role": person.role, "active": person.disabled_at is None}
            for person in people.people()
        ]
        return Answer(rows, "\n".join(f"{row['name']:16} {row['role']}" for row in rows) or "nobody yet")
    if not args.name:
        raise Fault(f"`oncoloop user {args.action}` needs a name")
    if args.action == "disable":
        people.disable(args.name)
        return Answer({"name": args.name, "active": False}, f"{args.name} may no longer sign in")
    if args.role not in people.ROLES:
        raise Fault(f"--role must be one of {', '.join(people.ROLES)}")
    people.add(args.name, args.role, people.SYSTEM)
    return Answer(
        {"name": args.name, "role": args.role}, f"{args.name} is {args.role}; `oncoloop login {args.name}` makes a link"
    )


def login(args: argparse.Namespace) -> Answer:
    """A one-time link for a person, or a bearer token for a program."""
    if args.token:
        token = people.issue(args.name, SCOPE, args.days)
        return Answer({"token": token, "scope": SCOPE, "days": args.days}, token)
    token = people.invite(args.name)
    front = services.url("desk") or "http://127.0.0.1:7800"
    return Answer({"link": f"{front}/enter?token={token}"}, f"{front}/enter?token={token}")
