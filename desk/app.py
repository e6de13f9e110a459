"""The application of the web front: routes, headers and errors. `desk/server.py` serves it."""

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
from desk.pages import approve_versions, audit, cases, models, report, sites, tool_reports, watch
from desk.templates import FOLDER, page
from desk.tools import allowed_routes, proxy
from desk.traffic import predict_proxy
from lineage import paths
from lineage.errors import Fault
from lineage.record import database
from serving.http.problem_details import problem

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
        middleware=[Middleware(SecurityHeaders)],
        exception_handlers={HTTPException: http_error, Fault: fault_error, Exception: internal_error},
        lifespan=lifespan,
    )


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """Migrate the database at the start, and keep the connections to the releases open until the end."""
    await run_in_threadpool(database.migrate)
    async with predict_proxy.open_gateway() as gateway:
        app.state.gateway = gateway
        yield


def routes() -> list[BaseRoute]:
    """Every address with its roles and its handler."""
    page_for, form_for = signin.page_for_roles, signin.form_for_roles
    form_limit = [Middleware(RequestBodyLimitMiddleware, max_body_size=FORM_BYTES)]
    return [
        Route("/healthz", health),
        Route("/enter", signin.invitation_page),
        Route("/enter", signin.public_form(signin.redeem_invitation), methods=["POST"], middleware=form_limit),
        Route("/signin", signin.signin_page),
        Route("/leave", form_for(signin.sign_out), methods=["POST"], middleware=form_limit),
        Route("/", page_for(cases.home)),
        Route("/api/predict", predict_proxy.predict, methods=["POST"]),
        Route("/cases", page_for(cases.list_page, "clinician")),
        Route("/cases/{id}", page_for(cases.case_page, "clinician")),
        Route("/cases/{id}/card", page_for(cases.answer_card, "clinician")),
        Route("/cases/{id}/report", page_for(report.report_page, "clinician")),
        Route("/models", page_for(models.models_page, "engineer")),
        Route("/verdicts/{seq:int}", page_for(models.verdict_page, "engineer", "auditor")),
        Route("/watch", page_for(watch.monitoring_page, "engineer")),
        Route("/decisions", page_for(approve_versions.list_page, "engineer")),
        Route("/decisions", form_for(approve_versions.decide, "engineer"), methods=["POST"], middleware=form_limit),
        Route("/sites", page_for(sites.list_page, "engineer")),
        Route("/sites", form_for(sites.accept, "engineer"), methods=["POST"], middleware=form_limit),
        Route("/tools/{name}", page_for(proxy.open_tool, *allowed_routes.READERS)),
        Route("/ledger", page_for(audit.ledger_page, "auditor")),
        Route("/verify", page_for(audit.verify_page, "auditor")),
        Route("/trace", page_for(audit.trace_page, "auditor")),
        Route("/people", page_for(audit.people_page, "auditor")),
        Route("/shelf/{permit}/{tool}/{path:path}", tool_reports.show_file),
        Mount("/static", StaticFiles(directory=FOLDER / "static")),
    ]


async def health(request: Request) -> Response:
    """GET /healthz: the desk is running."""
    del request
    return PlainTextResponse("ok")


async def http_error(request: Request, error: Exception) -> Response:
    """An HTTPException as a page for people, or as problem details for programs."""
    status, detail = (error.status_code, error.detail) if isinstance(error, HTTPException) else (500, "")
    return await _error_response(request, status, SENTENCES.get(detail, detail))


async def fault_error(request: Request, error: Exception) -> Response:
    """A Fault as a response; its message is a sentence for people already."""
    log.warning("%s: %s", request.url.path, error)
    return await _error_response(request, 503, f"{str(error)[:1].upper()}{str(error)[1:]}.")


async def internal_error(request: Request, error: Exception) -> Response:
    """An unexpected error: the log gets the details, the page shows none."""
    log.error("%s failed", request.url.path, exc_info=error)
    response = await _error_response(request, 500, "Something went wrong here; the log of the desk has the details.")
    response.headers.update(HEADERS)  # this handler runs outside the middleware that sets them
    return response


SENTENCES = {"Not Found": "There is no such page.", "Method Not Allowed": "This page does not accept such a request."}


async def _error_response(request: Request, status: int, sentence: str) -> Response:
    if request.url.path.startswith("/api/"):
        return problem(status, sentence)
    try:
        visitor = await run_in_threadpool(signin.read_visitor, request)
        _ = visitor and visitor.csrf  # needs the key that may be missing
    except Fault:  # without keys or a database nobody can be signed in
        visitor = None
    return page(request, "error.html", {"status": status, "sentence": sentence}, visitor, status)


class SecurityHeaders:
    """ASGI middleware: adds the security headers that a response does not set itself."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on and add the headers to its response."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self.app(scope, receive, send_with_headers if scope["type"] == "http" else send)
