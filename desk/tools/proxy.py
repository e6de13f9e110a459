"""A proxy for the pages of Prefect and MLflow, for signed-in people: a second origin with its own cookie.

`uvicorn --factory desk.tools.proxy:create` serves it beside the desk. It is the only way to both tools: Prefect
requires a secret that only the desk sends, and MLflow listens on a socket that only the workspace's user can open. The
scripts of these pages are not ours; on the desk's own origin they could make decisions in a person's name. Here they
can request only what `allowed_routes` allows for the role.
"""

from __future__ import annotations

import base64
import json
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import yarl
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from desk.accounts import signin
from desk.tools import allowed_routes
from desk.visitor import Visitor
from lineage import keys, paths, sessions
from lineage.errors import Fault
from lineage.record import database

log = logging.getLogger(__name__)

COOKIE = "oncoloop_tools"
TICKET_HOURS = 1 / 60
TOOLS = {
    "prefect": ("Prefect: runs and schedules", "/"),
    "mlflow": ("MLflow: runs and versions", "/mlflow/#/experiments"),
}
BODY_BYTES = 4 << 20
SECONDS = 60.0
RESPONSE_HEADERS = (
    "content-type",
    "content-encoding",
    "content-length",
    "content-disposition",
    "etag",
    "last-modified",
    "location",
)
REQUEST_HEADERS = (
    "accept",
    "accept-encoding",
    "content-type",
    "if-none-match",
    "if-modified-since",
    "range",
    "user-agent",
)
POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; connect-src 'self'; object-src 'none'; "
    "base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)
ARTIFACT_POLICY = f"sandbox; {POLICY}"  # an artifact of a run may be a page with scripts
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "private, no-cache",
    "Content-Security-Policy": POLICY,
}
NOT_SIGNED_IN = "Sign in at the desk, and open this page from there."
NOT_ALLOWED = "This request is not allowed: through the desk, these pages are read-only."
UNREACHABLE = "{} does not answer at the moment. Try again in a few seconds."


def create() -> Starlette:
    """The application of the workspace that ONCOLOOP_HOME names."""
    paths.set_environment()
    return Starlette(
        routes=[
            Route("/healthz", health),
            Route("/enter", enter),
            Route("/{path:path}", forward, methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]),
        ],
        middleware=[Middleware(RequestBodyLimitMiddleware, max_body_size=BODY_BYTES)],
        exception_handlers={HTTPException: error_response, Fault: error_response},
        lifespan=lifespan,
    )


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """Migrate the database, and keep the connections to both tools open until the end."""
    await run_in_threadpool(database.migrate)
    address = paths.socket_address(paths.mlflow_socket())
    timeout = aiohttp.ClientTimeout(total=SECONDS, sock_connect=5.0)
    options: dict[str, Any] = {"timeout": timeout, "cookie_jar": aiohttp.DummyCookieJar(), "auto_decompress": False}
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(address), **options) as mlflow,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), **options) as prefect,
    ):
        app.state.clients = {"mlflow": mlflow, "prefect": prefect}
        yield


async def health(request: Request) -> Response:
    """GET /healthz: the proxy is running."""
    del request
    return PlainTextResponse("ok")


def issue_ticket(visitor: Visitor) -> str:
    """A ticket that signs a visitor of the desk in here, once and within a minute."""
    return sessions.begin(visitor.name, sessions.TICKET, TICKET_HOURS)


def redeem_ticket(ticket: str) -> str | None:
    """Use a ticket up and return the new session's cookie; None for an unknown, used or expired ticket."""
    holder = sessions.holder(ticket, sessions.TICKET)
    if holder is None or not sessions.end(holder[1]):
        return None
    hours = sessions.hours_left(holder[0].name)
    return sessions.begin(holder[0].name, sessions.TOOLS, hours) if hours > 0 else None


async def enter(request: Request) -> Response:
    """GET /enter?ticket=...&to=prefect: sign in with a ticket of the desk."""
    cookie = await run_in_threadpool(redeem_ticket, request.query_params.get("ticket", ""))
    if cookie is None:
        raise HTTPException(403, NOT_SIGNED_IN)
    _, path = TOOLS.get(request.query_params.get("to", ""), TOOLS["prefect"])
    response = RedirectResponse(path, status_code=303, headers=HEADERS)
    signin.open_session(request, response, COOKIE, cookie)
    return response


async def forward(request: Request) -> Response:
    """Forward a request to its tool, without the sender's cookie and with the tool's secret."""
    _require_own_page(request)
    holder = await run_in_threadpool(sessions.holder, request.cookies.get(COOKIE, ""), sessions.TOOLS)
    if holder is None:
        raise HTTPException(401, NOT_SIGNED_IN)
    path, tool = request.scope["path"], allowed_routes.tool_of(request.scope["path"])
    wants_secrets = "include_secrets" in request.query_params
    if not allowed_routes.is_allowed(holder[0].role, request.method, path) or wants_secrets:
        raise HTTPException(403, NOT_ALLOWED)
    try:
        return await _request_tool(request, tool, path)
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        log.warning("%s does not answer: %r", tool, error)
        raise HTTPException(502, UNREACHABLE.format(TOOLS[tool][0].partition(":")[0])) from error


async def error_response(request: Request, error: Exception) -> Response:
    """An error as one sentence of plain text."""
    del request
    status, sentence = (error.status_code, error.detail) if isinstance(error, HTTPException) else (503, str(error))
    return PlainTextResponse(sentence, status, HEADERS)


async def _request_tool(request: Request, tool: str, path: str) -> Response:
    headers = {name: request.headers[name] for name in REQUEST_HEADERS if name in request.headers}
    is_settings = tool == "prefect" and path.endswith("/ui-settings")
    if is_settings:
        headers["accept-encoding"] = "identity"
    base = "http://localhost"  # the only host name that MLflow accepts
    if tool == "prefect":
        base = await run_in_threadpool(_prefect_url)
        headers["authorization"] = "Basic " + base64.b64encode(keys.prefect_secret().encode()).decode()
    body = await request.body() if request.method not in allowed_routes.READ_METHODS else None
    client: aiohttp.ClientSession = request.app.state.clients[tool]
    url = f"{base}{request.scope.get('raw_path', path.encode()).decode('ascii').partition('?')[0]}"
    url += f"?{request.url.query}" if request.url.query else ""
    answer = await client.request(
        request.method, yarl.URL(url, encoded=True), headers=headers, data=body, allow_redirects=False
    )
    if is_settings and answer.status == 200:
        async with answer:
            return _prefect_settings(request, await answer.json(content_type=None))
    response_headers = {name: answer.headers[name] for name in RESPONSE_HEADERS if name in answer.headers}
    if "location" in response_headers:
        response_headers["location"] = _without_host(response_headers["location"])
    is_artifact = "get-artifact" in path or "/mlflow-artifacts/" in path
    policy = {"Content-Security-Policy": ARTIFACT_POLICY} if is_artifact else {}
    return StreamingResponse(_bytes(answer), answer.status, HEADERS | policy | response_headers)


async def _bytes(answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    async with answer:
        async for part in answer.content.iter_chunked(64 * 1024):
            yield part


def _prefect_settings(request: Request, settings: dict[str, Any]) -> Response:
    """Prefect's UI settings, with this proxy as the API's address and no second sign-in."""
    address = f"{request.url.scheme}://{request.headers.get('host', '')}/api"
    return JSONResponse(settings | {"api_url": address, "auth": None}, headers=HEADERS)


def _without_host(location: str) -> str:
    """The path of a tool's redirect, without the tool's own address."""
    parts = urlsplit(location)
    return parts._replace(scheme="", netloc="").geturl()


def _require_own_page(request: Request) -> None:
    """Raise HTTPException for a request from another origin, also from the desk; a link of the desk may open a page."""
    is_navigation = request.method == "GET" and request.headers.get("sec-fetch-mode") == "navigate"
    if not (is_navigation and request.headers.get("sec-fetch-site") == "same-site"):
        signin.require_own_origin(request)


def _prefect_url() -> str:
    """Prefect's address. HTTPException if Prefect does not run."""
    url = service_url("prefect")
    if url is None:
        raise HTTPException(502, UNREACHABLE.format("Prefect"))
    return url


def service_url(name: str) -> str | None:
    """The address of a service of the workspace, from `run/NAME.json`; None if it does not run."""
    path = Path(paths.home(), "run", f"{name}.json")
    try:
        record: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        log.warning("%s cannot be read: %s", path, error)
        return None
    url = record.get("url") if isinstance(record, dict) else None
    return url if isinstance(url, str) and url.startswith(("http://", "https://")) else None


def is_started(name: str) -> bool:
    """Whether a tool was started in this workspace."""
    return (paths.home() / "run" / f"{name}.json").is_file()


def public_url(request: Request) -> str | None:
    """The address of this proxy for the browser that sent a request to the desk; None if it does not run.

    `ONCOLOOP_TOOLS_URL` sets the address if another proxy is in front of both.
    """
    if configured := os.environ.get("ONCOLOOP_TOOLS_URL"):
        return configured.rstrip("/")
    local_url = service_url("tools")
    return f"{request.url.scheme}://{request.url.hostname}:{urlsplit(local_url).port}" if local_url else None


def open_tool(request: Request, visitor: Visitor) -> Response:
    """GET /tools/{name} at the desk: redirect to the tool's page with a new ticket."""
    url, name = public_url(request), request.path_params["name"]
    if url is None or name not in TOOLS:
        raise HTTPException(404, "There is no such page, or `oncoloop up` does not run it.")
    return RedirectResponse(f"{url}/enter?ticket={issue_ticket(visitor)}&to={name}", status_code=303)
