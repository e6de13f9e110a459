"""The auditor's pages: the ledger, its verification, the trace of a prediction, and the people."""

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

PAGE_SIZE = 100


def ledger_page(request: Request, visitor: Visitor) -> Response:
    """GET /ledger: the events, newest first, filtered by kind, subject and person."""
    names = ("kind", "subject", "actor", "before")
    filters = {name: request.query_params.get(name, "").strip()[:200] for name in names}
    events = _filtered_events(filters)
    older = events[PAGE_SIZE - 1].seq if len(events) > PAGE_SIZE else None
    column = database.ledger.c.kind
    kinds = sorted(row["kind"] for row in database.fetch(database.ledger.select().with_only_columns(column).distinct()))
    values = {"events": events[:PAGE_SIZE], "filters": filters, "older": older, "kinds": kinds}
    return page(request, "ledger.html", values, visitor)


def _filtered_events(filters: dict[str, str]) -> list[Event]:
    table = database.ledger
    query = table.select().order_by(table.c.seq.desc()).limit(PAGE_SIZE + 1)
    if filters["kind"]:
        query = query.where(table.c.kind == filters["kind"])
    if filters["subject"]:
        query = query.where(table.c.subject.contains(filters["subject"], autoescape=True))
    if filters["actor"]:
        query = query.where(table.c.actor == filters["actor"])
    if filters["before"].isdecimal() and len(filters["before"]) < 19:
        query = query.where(table.c.seq < int(filters["before"]))
    return [Event(**row | {"payload": json.loads(row["payload"])}) for row in database.fetch(query)]


def verify_page(request: Request, visitor: Visitor) -> Response:
    """GET /verify: verify the whole ledger now."""
    return page(request, "verify.html", {"verdict": ledger.verify(), "at": database.now()}, visitor)


def trace_page(request: Request, visitor: Visitor) -> Response:
    """GET /trace?id=...: from a prediction back to release, model, run, data, verdicts and people."""
    from lineage.audit import trace

    prediction_id, chain, missing = request.query_params.get("id", "").strip()[:100], None, ""
    if prediction_id:
        try:
            chain = trace.trace(prediction_id)
        except Fault as fault:
            missing = str(fault)
    values = {"prediction_id": prediction_id, "chain": chain, "missing": missing}
    return page(request, "trace.html", values, visitor, 404 if missing else 200)


def people_page(request: Request, visitor: Visitor) -> Response:
    """GET /people: all accounts, including closed ones."""
    return page(request, "people.html", {"people": accounts.people()}, visitor)
