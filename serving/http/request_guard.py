"""Middleware of the endpoint: known paths only, a bearer token, the desk's header, and a limit of the body."""

from __future__ import annotations

import hmac
import logging
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from anyio import to_thread
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lineage import keys
from lineage.fingerprint import text_sha256
from serving.http import upload_limit
from serving.http.problem_details import ProblemSender, problem
from serving.inference.request import DESK_HEADER

if TYPE_CHECKING:
    from lineage.accounts import Person

log = logging.getLogger(__name__)
GUARDED_PATHS = ("/predict", "/manifest")
INTERNAL_ERROR = "Something went wrong here; the log of the release has the details."
DESK_ONLY = "A release answers only the desk; send this request to the desk (POST /api/predict)."
MAX_REQUESTS = 64  # requests in one worker at once; more get status 503
TOKEN_CACHE_SECONDS = 2.0  # a valid token is trusted for this long, also after its account was disabled
BUSY = "The release is answering too many scans at the moment; send this one again shortly."


class PathFilter:
    """ASGI middleware: answers only known paths, and neither websockets nor headers that are not ASCII."""

    def __init__(self, app: ASGIApp, paths: Iterable[str]) -> None:
        self.app = app
        self.paths = frozenset(paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it with a problem."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000, "reason": ""})
        elif scope["type"] != "http":
            await self.app(scope, receive, send)
        elif scope["path"] not in self.paths:
            response = problem(404, "There is nothing at this address; /docs.json lists all addresses.")
            await response(scope, receive, send)
        elif not (Headers(scope=scope).get("content-type", "").isascii() and scope["query_string"].isascii()):
            response = problem(400, "The content type or the query contains bytes that are not ASCII.")
            await response(scope, receive, send)
        else:
            await self.app(scope, receive, send)


class RequestGuard:
    """ASGI middleware: requires a bearer token with scope `predict` and the desk's header, and limits the body.

    Every error becomes a problem detail. `limit_mb` is called once, at the start of the server; it returns the
    megabytes that one request may send.
    """

    def __init__(self, app: ASGIApp, limit_mb: Callable[[], float]) -> None:
        self.app = app
        self.limit = int(limit_mb() * 1e6)
        self.active_requests = 0
        self.token_cache: dict[str, tuple[Person, float]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it with a problem."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if scope["path"] not in GUARDED_PATHS:
            await self.app(scope, receive, ProblemSender(send))
            return
        try:
            refusal = await self._refusal(scope, Headers(scope=scope))
        except Exception:  # the database may fail in many ways; without it no token is accepted
            log.exception("a token could not be checked")
            refusal = problem(503, "No sign-in can be checked at the moment; try again.", {"Retry-After": "5"})
        if refusal:
            await refusal(scope, receive, send)
            return
        if self.active_requests >= MAX_REQUESTS:
            await problem(503, BUSY, {"Retry-After": "1"})(scope, receive, send)
            return
        self.active_requests += 1
        try:
            await self._run_bounded(scope, receive, send)
        finally:
            self.active_requests -= 1

    async def _token_holder(self, token: str) -> Person | None:
        """The holder of a token. A valid token is checked again after `TOKEN_CACHE_SECONDS`."""
        from lineage import accounts  # imports the database library, which the head process does not need

        digest = text_sha256(token)
        person, expires_at = self.token_cache.get(digest, (None, 0.0))
        if person is None or time.monotonic() > expires_at:
            self.token_cache = {
                other_digest: entry
                for other_digest, entry in self.token_cache.items()
                if entry[1] > time.monotonic() and other_digest != digest
            }
            person = await to_thread.run_sync(accounts.bearer, token, "predict")
            if person is not None:
                self.token_cache[digest] = (person, time.monotonic() + TOKEN_CACHE_SECONDS)
        return person

    async def _refusal(self, scope: Scope, headers: Headers) -> JSONResponse | None:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        person = await self._token_holder(token.strip()) if scheme.lower() == "bearer" else None
        if person is None:
            detail = "Send a valid bearer token with the scope `predict` (`oncoloop login NAME --token`)."
            return problem(401, detail, {"WWW-Authenticate": 'Bearer realm="oncoloop", scope="predict"'})
        if not hmac.compare_digest(keys.server_secret("release").encode(), headers.get(DESK_HEADER, "").encode()):
            return problem(403, DESK_ONLY)
        scope.setdefault("state", {})["actor"] = person.name
        length = headers.get("content-length", "0")
        if not length.isdecimal() or len(length) > 18:
            return problem(400, "The Content-Length header is not a number.")
        return self._too_large() if upload_limit.is_too_large(int(length), self.limit) else None

    def _too_large(self) -> JSONResponse:
        return problem(413, upload_limit.refusal_sentence(self.limit))

    async def _run_bounded(self, scope: Scope, receive: Receive, send: Send) -> None:
        received_bytes, is_too_large = 0, False

        async def receive_counted() -> Message:
            nonlocal received_bytes, is_too_large
            message = await receive()
            received_bytes += len(message.get("body", b""))
            is_too_large = upload_limit.is_too_large(received_bytes, self.limit)
            return {"type": "http.disconnect"} if is_too_large else message

        problem_sender = ProblemSender(send)

        async def send_within_limit(message: Message) -> None:
            if not is_too_large:
                await problem_sender(message)

        try:
            await self.app(scope, receive_counted, send_within_limit)
        except Exception:  # BentoML would leave the sender without a response until its timeout
            log.exception("%s failed", scope["path"])
        if not problem_sender.has_started:
            await (self._too_large() if is_too_large else problem(500, INTERNAL_ERROR))(scope, receive, send)
