"""The pages of Prefect and MLflow, for people who are signed in at the desk: a second origin, with a cookie of its own.

`uvicorn --factory desk.tools.proxy:create` serves it beside the desk. Neither tool can be reached without this:
Prefect asks
for a secret that nobody is told, MLflow listens on a socket that only the workspace's own user can open. Scripts of
these pages are not ours; on the desk's own origin they could decide in a person's name. Here they can ask what
`tool_rules` allows for the role.
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
KEPT = (
    "content-type",
    "content-encoding",
    "content-length",
    "content-disposition",
    "etag",
    "last-modified",
    "location",
)
PASSED_ON = ("accept", "accept-encoding", "content-type", "if-none-match", "if-modified-since", "range", "user-agent")
POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; connect-src 'self'; object-src 'none'; "
    "base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)
ARTIFACT_POLICY = f"sandbox; {POLICY}"  # what a run holds may be a page with scripts
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "private, no-cache",
    "Content-Security-Policy": POLICY,
}
NOT_SIGNED_IN = "Sign in at the desk, and open this page from there."
NOT_ALLOWED = "This can't be done here: through the desk, these pages are for reading."
AWAY = "{} does not answer at the moment. Try again in a few seconds."


def create() -> Starlette:
    """The application of the workspace that ONCOLOOP_HOME names."""
    paths.set_environment()
    return Starlette(
        routes=[
            Route("/healthz", healthy),
            Route("/enter", enter),
            Route("/{path:path}", passed_on, methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]),
        ],
        middleware=[Middleware(RequestBodyLimitMiddleware, max_body_size=BODY_BYTES)],
        exception_handlers={HTTPException: refused, Fault: refused},
        lifespan=lifespan,
    )


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """The connections to both tools are held while this is open."""
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


async def healthy(request: Request) -> Response:
    """GET /healthz: this is open."""
    del request
    return PlainTextResponse("ok")


def ticket(who: Visitor) -> str:
    """What takes a visitor of the desk over to here: once, and within a minute."""
    return sessions.begin(who.name, sessions.TICKET, TICKET_HOURS)


def redeem(shown: str) -> str | None:
    """Use a ticket up; what the browser shows here from now on. None where it is none (any more)."""
    holder = sessions.holder(shown, sessions.TICKET)
    if holder is None or not sessions.end(holder[1]):
        return None
    hours = sessions.hours_left(holder[0].name)
    return sessions.begin(holder[0].name, sessions.TOOLS, hours) if hours > 0 else None


async def enter(request: Request) -> Response:
    """GET /enter?ticket=...&to=prefect: the way over from the desk."""
    shown = await run_in_threadpool(redeem, request.query_params.get("ticket", ""))
    if shown is None:
        raise HTTPException(403, NOT_SIGNED_IN)
    _, path = TOOLS.get(request.query_params.get("to", ""), TOOLS["prefect"])
    response = RedirectResponse(path, status_code=303, headers=HEADERS)
    signin.open_session(request, response, COOKIE, shown)
    return response


async def passed_on(request: Request) -> Response:
    """Hand a request on to the tool, without the sender's cookie and with the tool's own secret."""
    _own_page(request)
    holder = await run_in_threadpool(sessions.holder, request.cookies.get(COOKIE, ""), sessions.TOOLS)
    if holder is None:
        raise HTTPException(401, NOT_SIGNED_IN)
    path, tool = request.scope["path"], allowed_routes.tool_of(request.scope["path"])
    secrets_asked = "include_secrets" in request.query_params
    if not allowed_routes.may_ask(holder[0].role, request.method, path) or secrets_asked:
        raise HTTPException(403, NOT_ALLOWED)
    try:
        return await _asked(request, tool, path)
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        log.warning("%s does not answer: %r", tool, error)
        raise HTTPException(502, AWAY.format(TOOLS[tool][0].partition(":")[0])) from error


async def refused(request: Request, error: Exception) -> Response:
    """A sentence, for whoever asks."""
    del request
    status, said = (error.status_code, error.detail) if isinstance(error, HTTPException) else (503, str(error))
    return PlainTextResponse(said, status, HEADERS)


async def _asked(request: Request, tool: str, path: str) -> Response:
    headers = {name: request.headers[name] for name in PASSED_ON if name in request.headers}
    is_settings = tool == "prefect" and path.endswith("/ui-settings")
    if is_settings:
        headers["accept-encoding"] = "identity"
    base = "http://localhost"  # the only host that MLflow answers for
    if tool == "prefect":
        base = await run_in_threadpool(_prefect)
        headers["authorization"] = "Basic " + base64.b64encode(keys.prefect_secret().encode()).decode()
    body = await request.body() if request.method not in allowed_routes.READING else None
    client: aiohttp.ClientSession = request.app.state.clients[tool]
    url = f"{base}{request.scope.get('raw_path', path.encode()).decode('ascii').partition('?')[0]}"
    url += f"?{request.url.query}" if request.url.query else ""
    answer = await client.request(
        request.method, yarl.URL(url, encoded=True), headers=headers, data=body, allow_redirects=False
    )
    if is_settings and answer.status == 200:
        async with answer:
            return _settings(request, await answer.json(content_type=None))
    response_headers = {name: answer.headers[name] for name in KEPT if name in answer.headers}
    if "location" in response_headers:
        response_headers["location"] = _here(response_headers["location"])
    is_artifact = "get-artifact" in path or "/mlflow-artifacts/" in path
    policy = {"Content-Security-Policy": ARTIFACT_POLICY} if is_artifact else {}
    return StreamingResponse(_bytes(answer), answer.status, HEADERS | policy | response_headers)


async def _bytes(answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    async with answer:
        async for part in answer.content.iter_chunked(64 * 1024):
            yield part


def _settings(request: Request, told: dict[str, Any]) -> Response:
    """Where Prefect's page finds its interface: here, and without a sign-in of its own."""
    address = f"{request.url.scheme}://{request.headers.get('host', '')}/api"
    return JSONResponse(told | {"api_url": address, "auth": None}, headers=HEADERS)


def _here(location: str) -> str:
    """A redirect of a tool, without the tool's own address."""
    parts = urlsplit(location)
    return parts._replace(scheme="", netloc="").geturl()


def _own_page(request: Request) -> None:
    """HTTPException for what a page of another origin sends, the desk's own included, but for opening a page here."""
    opens = request.method == "GET" and request.headers.get("sec-fetch-mode") == "navigate"
    if not (opens and request.headers.get("sec-fetch-site") == "same-site"):
        signin.own_origin(request)


def _prefect() -> str:
    """Where Prefect answers. HTTPException if it does not run."""
    url = address("prefect")
    if url is None:
        raise HTTPException(502, AWAY.format("Prefect"))
    return url


def address(name: str) -> str | None:
    """Where a service of the workspace answers, from `run/NAME.json`."""
    path = Path(paths.home(), "run", f"{name}.json")
    try:
        record: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        log.warning("%s can't be read: %s", path, error)
        return None
    url = record.get("url") if isinstance(record, dict) else None
    return url if isinstance(url, str) and url.startswith(("http://", "https://")) else None


def runs(name: str) -> bool:
    """Whether a tool was started in this workspace."""
    return (paths.home() / "run" / f"{name}.json").is_file()


def origin(request: Request) -> str | None:
    """The address of this origin for the browser that asks the desk; None where it does not run.

    `ONCOLOOP_TOOLS_URL` names it where a proxy stands before both.
    """
    if given := os.environ.get("ONCOLOOP_TOOLS_URL"):
        return given.rstrip("/")
    own = address("tools")
    return f"{request.url.scheme}://{request.url.hostname}:{urlsplit(own).port}" if own else None


def opened(request: Request, who: Visitor) -> Response:
    """GET /tools/{name} at the desk: over to the tool's page."""
    there, name = origin(request), request.path_params["name"]
    if there is None or name not in TOOLS:
        raise HTTPException(404, "There is no such page, or `oncoloop up` does not run it.")
    return RedirectResponse(f"{there}/enter?ticket={ticket(who)}&to={name}", status_code=303)
