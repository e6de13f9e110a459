"""The web front: routes, headers and errors. `desk/server.py` serves it."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from desk.accounts import signin
from desk.pages import audit, cases, decisions, models, report, tool_reports, watch
from desk.templates import FOLDER, page
from desk.tools import allowed_routes, proxy
from desk.traffic import predict_proxy
from lineage import paths
from lineage.errors import Fault
from lineage.record import database

log = logging.getLogger(__name__)

FORM_BYTES = 64 * 1024
POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cache-Control": "no-store",
}


def create() -> Starlette:
    """The application of the workspace that ONCOLOOP_HOME names."""
    paths.set_environment()
    return Starlette(
        routes=routes(),
        middleware=[Middleware(Guarded)],
        exception_handlers={HTTPException: refused, Fault: faulty, Exception: failed},
        lifespan=lifespan,
    )


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """The database is brought up to date, and the connections to the releases are held, while the desk is open."""
    await run_in_threadpool(database.migrate)
    async with predict_proxy.counter() as counter:
        app.state.counter = counter
        yield


def routes() -> list[BaseRoute]:
    """Every address, who may come there, and what is done."""
    shown, done = signin.shown, signin.done
    forms = [Middleware(RequestBodyLimitMiddleware, max_body_size=FORM_BYTES)]
    return [
        Route("/healthz", healthy),
        Route("/enter", signin.enter),
        Route("/enter", signin.entered(signin.redeemed), methods=["POST"], middleware=forms),
        Route("/signin", signin.signin),
        Route("/leave", done(signin.leave), methods=["POST"], middleware=forms),
        Route("/", shown(cases.home)),
        Route("/api/predict", predict_proxy.predict, methods=["POST"]),
        Route("/cases", shown(cases.listed, "clinician")),
        Route("/cases/{id}", shown(cases.one, "clinician")),
        Route("/cases/{id}/card", shown(cases.card, "clinician")),
        Route("/cases/{id}/report", shown(report.show, "clinician")),
        Route("/models", shown(models.listed, "engineer")),
        Route("/verdicts/{seq:int}", shown(models.verdict, "engineer", "auditor")),
        Route("/watch", shown(watch.listed, "engineer")),
        Route("/decisions", shown(decisions.listed, "engineer")),
        Route("/decisions", done(decisions.decide, "engineer"), methods=["POST"], middleware=forms),
        Route("/tools/{name}", shown(proxy.opened, *allowed_routes.READERS)),
        Route("/ledger", shown(audit.events, "auditor")),
        Route("/verify", shown(audit.verify, "auditor")),
        Route("/trace", shown(audit.traced, "auditor")),
        Route("/people", shown(audit.listed, "auditor")),
        Route("/shelf/{permit}/{room}/{path:path}", tool_reports.show),
        Mount("/static", StaticFiles(directory=FOLDER / "static")),
    ]


async def healthy(request: Request) -> Response:
    """GET /healthz: the desk is open."""
    del request
    return PlainTextResponse("ok")


async def refused(request: Request, error: Exception) -> Response:
    """An answer that says no: a page for people, problem details for programs."""
    status, said = (error.status_code, error.detail) if isinstance(error, HTTPException) else (500, "")
    return await _sorry(request, status, SENTENCES.get(said, said))


async def faulty(request: Request, error: Exception) -> Response:
    """A Fault is a sentence for people already."""
    log.warning("%s: %s", request.url.path, error)
    return await _sorry(request, 503, f"{str(error)[:1].upper()}{str(error)[1:]}.")


async def failed(request: Request, error: Exception) -> Response:
    """What nobody foresaw; the log has the details, the page has none."""
    log.error("%s failed", request.url.path, exc_info=error)
    response = await _sorry(request, 500, "Something went wrong here; the log of the desk has the details.")
    response.headers.update(HEADERS)  # this handler stands outside the middleware that sets them
    return response


SENTENCES = {"Not Found": "There is no such page.", "Method Not Allowed": "This can't be done here."}


async def _sorry(request: Request, status: int, sentence: str) -> Response:
    if request.url.path.startswith("/api/"):
        return predict_proxy.problem(status, sentence)
    try:
        who = await run_in_threadpool(signin.visitor, request)
        _ = who and who.csrf
    except Fault:  # without keys or a database there is nobody to greet
        who = None
    return page(request, "sorry.html", {"status": status, "sentence": sentence}, who, status)


class Guarded:
    """ASGI middleware: the security headers, unless a response brings its own."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on and add the headers to what comes back."""

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self.app(scope, receive, guarded if scope["type"] == "http" else send)
