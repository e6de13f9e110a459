"""POST /api/predict: hands an upload on to the live release, in the person's own name. No byte of it is kept.

The upload and the answer pass through memory whole. A release's worker that dies under a request has not answered it,
so the desk asks once more, with the same idempotency key: the row of an answer takes its id from the key, so that the
second try finds the row of the first, if that one was written, and gives the answer that stands there. Every answer
that is given has exactly one row (serving/inference/answer.py says what remains if no try comes through).
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus

import aiohttp
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from desk.accounts import credentials
from desk.traffic.live_route import Route, Routes
from desk.traffic.shadow_proxy import Behind
from desk.traffic.traffic import Target
from desk.traffic.upload_buffer import Room, Upload
from lineage import keys
from serving.inference.request import DESK

log = logging.getLogger(__name__)

SECONDS = 150.0
TRIES = 2  # of a request whose connection broke: one that brings its worker down does it no more than twice
KEPT = 4.0  # seconds that a connection may rest: a release closes its end after five
ENVELOPE = 1 << 20  # bytes that form fields and part headers may add to the files
KEY = "idempotency-key"
PASSED_ON = ("content-type", "retry-after", "www-authenticate")
GONE = "The release that should answer can't be reached. Try again in a moment."


@dataclass(frozen=True)
class Counter:
    """What one open desk hands uploads on with: the way, the connections, the room, and who is asked behind.

    `client` keeps its connections, `fresh` opens one for each request.
    """

    routes: Routes
    client: aiohttp.ClientSession
    fresh: aiohttp.ClientSession
    room: Room
    behind: Behind


@asynccontextmanager
async def counter() -> AsyncIterator[Counter]:
    """Open for as long as the desk is; no proxy of the environment stands between desk and release."""
    kept = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEPT)
    single = aiohttp.TCPConnector(limit=0, force_close=True)
    async with Routes().followed() as routes, _session(kept) as client, _session(single) as fresh:
        behind = Behind(client)
        yield Counter(routes, client, fresh, Room(), behind)
        await behind.close()


def _session(connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
    timeout = aiohttp.ClientTimeout(total=SECONDS, sock_connect=5.0)
    return aiohttp.ClientSession(
        connector=connector, timeout=timeout, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False
    )


def problem(status: int, detail: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """An error as problem details (RFC 9457). `detail` is one sentence for the user."""
    body = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    return JSONResponse(body, status, headers, media_type="application/problem+json")


async def predict(request: Request) -> Response:
    """Answer from the live release. A program sends its own bearer token, a page the token of its session."""
    desk: Counter = request.app.state.counter
    try:
        authorization = await credentials.authorization(request)
        route = await desk.routes.now()
        if route.target is None:
            return problem(
                503, "No release is live yet, so nothing can answer. Try again later.", {"Retry-After": "60"}
            )
        if _length(request) > route.limit + ENVELOPE:
            return problem(413, f"The upload is over {route.limit / 1e6:g} MB; send fewer or smaller files.")
        with desk.room.upload(request, route.limit + ENVELOPE) as upload:
            headers = _headers(request, authorization)
            response = await _handed_on(desk, route.target, headers, upload)
            if response.status_code == 401:
                response = await _asked_again(desk, request, headers, upload)
            _shadowed(desk, route, headers, upload, response)
        return response
    except HTTPException as refused:
        return problem(refused.status_code, refused.detail, refused.headers)
    except ClientDisconnect:
        return problem(400, "The upload ended before it was complete.")


def _shadowed(desk: Counter, route: Route, headers: dict[str, str], upload: Upload, response: Response) -> None:
    """Once the answer has left, the shadow is asked too, if one stands behind the live release."""
    if route.dark and response.status_code == 200:
        response.background = desk.behind.after(route.dark, headers, list(upload.parts), bytes(response.body))


def _length(request: Request) -> int:
    length = request.headers.get("content-length", "0")
    if not length.isdecimal():
        raise HTTPException(400, "The Content-Length header is not a number.")
    return int(length)


def _headers(request: Request, authorization: str) -> dict[str, str]:
    """What the release is told. A sender who gives no idempotency key of its own gets one for this request."""
    headers = {"Authorization": authorization, DESK: keys.server_secret("release"), "Accept": "application/json"}
    headers |= {name: request.headers[name] for name in ("content-type", "content-length") if name in request.headers}
    return headers | {KEY: request.headers.get(KEY) or uuid.uuid4().hex}


async def _asked_again(desk: Counter, request: Request, headers: dict[str, str], upload: Upload) -> Response:
    """The release no longer knows the token that the desk remembered: look who asks, and ask with what is true now."""
    credentials.forget(request)
    headers["Authorization"] = await credentials.authorization(request)
    route = await desk.routes.look()
    if route.target is None:
        return problem(503, GONE, {"Retry-After": "5"})
    return await _handed_on(desk, route.target, headers, upload)


async def _handed_on(desk: Counter, target: Target, headers: dict[str, str], upload: Upload) -> Response:
    """The release's answer. One that broke off is asked for once more, on a new connection, since others that were kept
    may lead to the same dead worker; one that has gone, from where traffic is now."""
    gone, broken = set[Target](), 0
    while broken < TRIES:
        try:
            return await _asked(desk.fresh if broken else desk.client, target, headers, upload)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
            log.warning("release %s does not answer at %s", target.release, target.url)
            gone.add(target)
            moved = (await desk.routes.look()).target
            if moved is None or moved in gone:
                return problem(503, GONE, {"Retry-After": "5"})
            target = moved
        except TimeoutError:
            return problem(504, f"There was no answer within {SECONDS:g} seconds. Try again.")
        except (aiohttp.ClientError, OSError) as error:
            if upload.refused:
                raise upload.refused from error
            broken += 1
            log.warning("release %s broke off: %r", target.release, error)
    return problem(502, "The connection to the release broke off. Try again.", {"Retry-After": "5"})


async def _asked(client: aiohttp.ClientSession, target: Target, headers: dict[str, str], upload: Upload) -> Response:
    async with client.post(
        f"{target.url}/predict", data=upload.sent(), headers=headers, allow_redirects=False
    ) as answer:
        content = await answer.read()
        if not upload.complete:  # refused before all of it was read
            answer.close()
    kept = {name: answer.headers[name] for name in PASSED_ON if name in answer.headers}
    return Response(content, answer.status, kept)
