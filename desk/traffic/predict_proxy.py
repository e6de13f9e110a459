"""POST /api/predict: forward an upload to the live release in the person's name, without storing any of it.

Upload and answer are complete in memory. If a release's worker dies during a request, the desk sends the request once
more with the same idempotency key. The id of an answer's row is derived from the key. So the second try finds the row
of the first, if it was written, and returns its answer. Every returned answer has exactly one row
(serving/inference/answer.py describes the one gap).
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from desk.accounts import credentials
from desk.traffic.live_route import Route, RouteCache
from desk.traffic.shadow_proxy import ShadowQueue
from desk.traffic.targets import Target
from desk.traffic.upload_buffer import Upload, UploadMemory
from lineage import keys
from serving.http import upload_limit
from serving.http.problem_details import problem
from serving.inference.request import DESK_HEADER, SITE_HEADER

log = logging.getLogger(__name__)

SECONDS = 150.0
TRIES = 2  # of a request whose connection broke, so that a harmful upload kills at most two workers
KEEPALIVE_SECONDS = 4.0  # of an idle connection; a release closes its end after five
IDEMPOTENCY_KEY = "idempotency-key"
RESPONSE_HEADERS = ("content-type", "retry-after", "www-authenticate")
UNREACHABLE = "The live release cannot be reached. Try again in a moment."


@dataclass(frozen=True)
class Gateway:
    """What one desk forwards uploads with: route, connections, upload memory and the shadow's queue.

    `reused` keeps its connections open, `single_use` opens one per request.
    """

    routes: RouteCache
    reused: aiohttp.ClientSession
    single_use: aiohttp.ClientSession
    memory: UploadMemory
    shadow_queue: ShadowQueue


@asynccontextmanager
async def open_gateway() -> AsyncIterator[Gateway]:
    """A gateway that is open during the block. It ignores the environment's HTTP proxies."""
    keepalive = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_SECONDS)
    closing = aiohttp.TCPConnector(limit=0, force_close=True)
    async with RouteCache().refreshing() as routes, _session(keepalive) as reused, _session(closing) as single_use:
        shadow_queue = ShadowQueue(reused)
        yield Gateway(routes, reused, single_use, UploadMemory(), shadow_queue)
        await shadow_queue.close()


def _session(connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
    timeout = aiohttp.ClientTimeout(total=SECONDS, sock_connect=5.0)
    return aiohttp.ClientSession(
        connector=connector, timeout=timeout, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False
    )


async def predict(request: Request) -> Response:
    """Answer from the live release. A program sends its own bearer token, a page the token of its session."""
    gateway: Gateway = request.app.state.gateway
    try:
        sender = await credentials.check_sender(request)
        route = await gateway.routes.current()
        if route.target is None:
            return problem(
                503, "No release is live yet, so there is no answer. Try again later.", {"Retry-After": "60"}
            )
        if upload_limit.is_too_large(_content_length(request), route.limit):
            return problem(413, upload_limit.refusal_sentence(route.limit))
        with gateway.memory.upload(request, route.limit) as upload:
            headers = _headers(request, sender)
            response = await _forward(gateway, route.target, headers, upload)
            if response.status_code == 401:
                response = await _forward_with_new_token(gateway, request, headers, upload)
            _queue_for_shadow(gateway, route, headers, upload, response)
        return response
    except HTTPException as error:
        return problem(error.status_code, error.detail, error.headers)
    except ClientDisconnect:
        return problem(400, "The upload ended before it was complete.")


def _queue_for_shadow(
    gateway: Gateway, route: Route, headers: dict[str, str], upload: Upload, response: Response
) -> None:
    """Send the request to the shadow too, if there is one, after the response was sent."""
    if route.shadow and response.status_code == 200:
        parts, answer = list(upload.parts), bytes(response.body)
        response.background = gateway.shadow_queue.background_task(route.shadow, headers, parts, answer)


def _content_length(request: Request) -> int:
    length = request.headers.get("content-length", "0")
    if not length.isdecimal():
        raise HTTPException(400, "The Content-Length header is not a number.")
    return int(length)


def _headers(request: Request, sender: credentials.Sender) -> dict[str, str]:
    """The headers for the release. A request without an idempotency key gets a new one.

    The site is the sender's by the desk's own record; a site in the request's headers is ignored.
    """
    secret = keys.server_secret("release")
    headers = {"Authorization": sender.authorization, DESK_HEADER: secret, "Accept": "application/json"}
    headers |= {SITE_HEADER: sender.site} if sender.site else {}
    headers |= {name: request.headers[name] for name in ("content-type", "content-length") if name in request.headers}
    return headers | {IDEMPOTENCY_KEY: request.headers.get(IDEMPOTENCY_KEY) or uuid.uuid4().hex}


async def _forward_with_new_token(
    gateway: Gateway, request: Request, headers: dict[str, str], upload: Upload
) -> Response:
    """The release refused the cached token: check the sender again, and forward the upload with a current token."""
    credentials.forget(request)
    sender = await credentials.check_sender(request)
    headers["Authorization"] = sender.authorization
    route = await gateway.routes.refresh()
    if route.target is None:
        return problem(503, UNREACHABLE, {"Retry-After": "5"})
    return await _forward(gateway, route.target, headers, upload)


async def _forward(gateway: Gateway, target: Target, headers: dict[str, str], upload: Upload) -> Response:
    """The release's answer, with a second try after a broken connection, or at a new live release.

    The second try opens a new connection, because other reused ones may lead to the same dead worker.
    """
    unreachable, broken_tries = set[Target](), 0
    while broken_tries < TRIES:
        try:
            return await _post(gateway.single_use if broken_tries else gateway.reused, target, headers, upload)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
            log.warning("release %s does not answer at %s", target.release, target.url)
            unreachable.add(target)
            new_target = (await gateway.routes.refresh()).target
            if new_target is None or new_target in unreachable:
                return problem(503, UNREACHABLE, {"Retry-After": "5"})
            target = new_target
        except TimeoutError:
            return problem(504, f"There was no answer within {SECONDS:g} seconds. Try again.")
        except (aiohttp.ClientError, OSError) as error:
            if upload.error:
                raise upload.error from error
            broken_tries += 1
            log.warning("the connection to release %s broke off: %r", target.release, error)
    return problem(502, "The connection to the release broke off. Try again.", {"Retry-After": "5"})


async def _post(client: aiohttp.ClientSession, target: Target, headers: dict[str, str], upload: Upload) -> Response:
    async with client.post(
        f"{target.url}/predict", data=upload.stream(), headers=headers, allow_redirects=False
    ) as answer:
        content = await answer.read()
        if not upload.is_complete:  # the release refused before it had read everything
            answer.close()
    response_headers = {name: answer.headers[name] for name in RESPONSE_HEADERS if name in answer.headers}
    return Response(content, answer.status, response_headers)
