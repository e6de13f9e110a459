"""The auditor's pages: the ledger, its verification, the chain behind a prediction, and the people."""

from __future__ import annotations

import json

from starlette.requests import Request
from starlette.responses import Response

from desk.templates import page
from desk.visitor import Visitor
from lineage import accounts
from lineage.errors import Fault
from lineage.record import database, ledger
from lineage.record.ledger import Event

PAGE = 100


def events(request: Request, who: Visitor) -> Response:
    """GET /ledger: the events, newest first, by kind, subject and person."""
    asked = {name: request.query_params.get(name, "").strip()[:200] for name in ("kind", "subject", "actor", "before")}
    found = _filtered(asked)
    older = found[PAGE - 1].seq if len(found) > PAGE else None
    column = database.ledger.c.kind
    kinds = sorted(row["kind"] for row in database.fetch(database.ledger.select().with_only_columns(column).distinct()))
    return page(request, "ledger.html", {"events": found[:PAGE], "asked": asked, "older": older, "kinds": kinds}, who)


def _filtered(asked: dict[str, str]) -> list[Event]:
    table = database.ledger
    query = table.select().order_by(table.c.seq.desc()).limit(PAGE + 1)
    if asked["kind"]:
        query = query.where(table.c.kind == asked["kind"])
    if asked["subject"]:
        query = query.where(table.c.subject.contains(asked["subject"], autoescape=True))
    if asked["actor"]:
        query = query.where(table.c.actor == asked["actor"])
    if asked["before"].isdecimal() and len(asked["before"]) < 19:
        query = query.where(table.c.seq < int(asked["before"]))
    return [Event(**row | {"payload": json.loads(row["payload"])}) for row in database.fetch(query)]


def verify(request: Request, who: Visitor) -> Response:
    """GET /verify: walk the whole chain now."""
    return page(request, "verify.html", {"verdict": ledger.verify(), "at": database.now()}, who)


def traced(request: Request, who: Visitor) -> Response:
    """GET /trace?id=...: from a prediction back to release, model, run, data, verdicts and people."""
    from lineage.audit import trace

    wanted, chain, missing = request.query_params.get("id", "").strip()[:100], None, ""
    if wanted:
        try:
            chain = trace.trace(wanted)
        except Fault as fault:
            missing = str(fault)
    values = {"wanted": wanted, "chain": chain, "missing": missing}
    return page(request, "trace.html", values, who, 404 if missing else 200)


def listed(request: Request, who: Visitor) -> Response:
    """GET /people: who has an account, and who had one."""
    return page(request, "people.html", {"people": accounts.people()}, who)
