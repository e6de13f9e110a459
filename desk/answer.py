"""POST /api/predict: hands an upload on to the live release, in the person's own name. No byte of it is kept."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator
from http import HTTPStatus

import httpx
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from desk import releases, signin, traffic
from desk.traffic import Target
from lineage import people

log = logging.getLogger(__name__)

SECONDS = 150.0
TOKEN_DAYS, TOKEN_SECONDS = 1, 12 * 3600
ENVELOPE = 1 << 20  # bytes that form fields and part headers may add to the files
PASSED_ON = ("content-type", "retry-after", "www-authenticate")
_tokens: dict[str, tuple[str, float]] = {}


def client() -> httpx.AsyncClient:
    """The connections to the releases; no proxy of the environment stands between."""
    return httpx.AsyncClient(timeout=httpx.Timeout(SECONDS, connect=5.0), trust_env=False, follow_redirects=False)


def problem(status: int, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """An error as problem details (RFC 9457). `detail` is one sentence for the user."""
    body = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    return JSONResponse(body, status, headers, media_type="application/problem+json")


async def predict(request: Request) -> Response:
    """Answer from the live release. A program sends its own bearer token, a page the token of its session."""
    try:
        authorization = request.headers.get("authorization")
        if authorization is None:
            authorization = await run_in_threadpool(_as_person, request)
        target = await run_in_threadpool(traffic.live)
        if target is None:
            return problem(
                503, "No release is live yet, so nothing can answer. Try again later.", {"Retry-After": "60"}
            )
        limit = await run_in_threadpool(releases.upload_limit_mb, target.release)
        if _length(request) > limit * 1e6 + ENVELOPE:
            return problem(413, f"The upload is over {limit:g} MB; send fewer or smaller files.")
        return await _handed_on(request, target, authorization, int(limit * 1e6) + ENVELOPE)
    except HTTPException as refused:
        return problem(refused.status_code, refused.detail)
    except ClientDisconnect:
        return problem(400, "The upload ended before it was complete.")


def _as_person(request: Request) -> str:
    """The authorization that the desk sends for the person of this session."""
    who = signin.visitor(request)
    if who is None:
        raise HTTPException(401, "You are not signed in any more. Ask for a new link.")
    if not people.may(who.name, "predict"):
        raise HTTPException(403, f"Scans are sent by clinicians; you are signed in as {who.role}.")
    if not signin.genuine(who, request.headers.get(signin.HEADER, "")):
        raise HTTPException(403, signin.EXPIRED)
    return f"Bearer {_token(who.name)}"


def _token(name: str) -> str:
    """A token with the scope `predict`, kept in memory alone and renewed twice a day."""
    token, until = _tokens.get(name, ("", 0.0))
    if time.monotonic() > until:
        token = people.issue(name, "predict", TOKEN_DAYS)
        _tokens[name] = (token, time.monotonic() + TOKEN_SECONDS)
    return token


def _length(request: Request) -> int:
    length = request.headers.get("content-length", "0")
    if not length.isdecimal():
        raise HTTPException(400, "The Content-Length header is not a number.")
    return int(length)


async def _handed_on(request: Request, target: Target, authorization: str, limit: int) -> Response:
    """The release's answer. A release that has just gone is asked for once more by the newest entry."""
    headers = {"authorization": authorization, "accept": "application/json"}
    headers |= {name: request.headers[name] for name in ("content-type", "content-length") if name in request.headers}
    connections: httpx.AsyncClient = request.app.state.client
    for attempt in (1, 2):
        try:
            body = _bounded(request, limit)
            answer = await connections.post(f"{target.url}/predict", content=body, headers=headers)
        except httpx.ConnectError:
            moved = await run_in_threadpool(traffic.live)
            if attempt == 1 and moved and moved != target:
                target = moved
                continue
            log.warning("release %s does not answer at %s", target.release, target.url)
            return problem(
                503, "The release that should answer can't be reached. Try again in a moment.", {"Retry-After": "5"}
            )
        except httpx.TimeoutException:
            return problem(504, f"There was no answer within {SECONDS:g} seconds. Try again.")
        except httpx.TransportError as error:
            log.warning("release %s broke off: %r", target.release, error)
            return problem(502, "The connection to the release broke off. Try again.", {"Retry-After": "5"})
        kept = {name: answer.headers[name] for name in PASSED_ON if name in answer.headers}
        return Response(answer.content, answer.status_code, kept)
    raise AssertionError("both attempts answer or go on")


async def _bounded(request: Request, limit: int) -> AsyncIterator[bytes]:
    received = 0
    async for chunk in request.stream():
        received += len(chunk)
        if received > limit:
            raise HTTPException(413, f"The upload is over {limit / 1e6:.0f} MB; send fewer or smaller files.")
        yield chunk
