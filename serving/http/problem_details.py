"""Errors as RFC 9457 problem details, and the guard in front of the endpoint: who asks, and how much they send."""

from __future__ import annotations

import hmac
import json
import logging
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from anyio import to_thread
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lineage import keys
from lineage.fingerprint import text_sha256
from serving.inference.request import DESK

if TYPE_CHECKING:
    from lineage.accounts import Person

log = logging.getLogger(__name__)
MEDIA = "application/problem+json"
GUARDED = ("/predict", "/manifest")
FAILED = "Something went wrong here; the log of the release has the details."
ELSEWHERE = "A release answers the desk alone; send this to the desk (POST /api/predict)."
ENDED = "The upload ended before it was complete."
ROOM = 64  # requests in one worker at once; one more is told to come back
TRUSTED = 2.0  # seconds that a good token stays good without another look: a disabled account is let in for so long
BUSY = "Too many scans are being answered at once; send this one again in a moment."
ENVELOPE = 1 << 20  # bytes that form fields and part headers may add to the files


def details(status: int, detail: str) -> dict[str, Any]:
    """Problem details. `detail` is one sentence for the user."""
    return {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}


def problem(status: int, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """A problem-details response."""
    return JSONResponse(details(status, detail), status, headers, media_type=MEDIA)


class Guard:
    """ASGI middleware: a bearer token with scope `predict` that the desk hands on, a bound on the body, every error a
    problem detail.

    `limit_mb` is called once, when the server starts, and gives the megabytes that one request may send.
    """

    def __init__(self, app: ASGIApp, limit_mb: Callable[[], float]) -> None:
        self.app = app
        self.limit = int(limit_mb() * 1e6)
        self.inside = 0
        self.seen: dict[str, tuple[Person, float]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it with a problem."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if scope["path"] not in GUARDED:
            await self.app(scope, receive, _Translated(send))
            return
        try:
            refused = await self._refusal(scope, Headers(scope=scope))
        except Exception:  # whatever the database's reason is: who cannot be known is not let in
            log.exception("a token could not be looked up")
            refused = problem(503, "Nobody can be let in at the moment; try again.", {"Retry-After": "5"})
        if refused:
            await refused(scope, receive, send)
            return
        if self.inside >= ROOM:
            await problem(503, BUSY, {"Retry-After": "1"})(scope, receive, send)
            return
        self.inside += 1
        try:
            await self._bounded(scope, receive, send)
        finally:
            self.inside -= 1

    async def _person(self, token: str) -> Person | None:
        """Whose token it is. One that was good is asked about again after `TRUSTED` seconds."""
        from lineage import accounts  # and with it the database's library

        known = text_sha256(token)
        person, until = self.seen.get(known, (None, 0.0))
        if person is None or time.monotonic() > until:
            self.seen = {name: one for name, one in self.seen.items() if one[1] > time.monotonic() and name != known}
            person = await to_thread.run_sync(accounts.bearer, token, "predict")
            if person is not None:
                self.seen[known] = (person, time.monotonic() + TRUSTED)
        return person

    async def _refusal(self, scope: Scope, headers: Headers) -> JSONResponse | None:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        person = await self._person(token.strip()) if scheme.lower() == "bearer" else None
        if person is None:
            detail = "Send a valid bearer token with the scope `predict` (`oncoloop login NAME --token`)."
            return problem(401, detail, {"WWW-Authenticate": 'Bearer realm="oncoloop", scope="predict"'})
        if not hmac.compare_digest(keys.server_secret("release").encode(), headers.get(DESK, "").encode()):
            return problem(403, ELSEWHERE)
        scope.setdefault("state", {})["actor"] = person.name
        length = headers.get("content-length", "0")
        if not length.isdecimal() or len(length) > 18:
            return problem(400, "The Content-Length header is not a number.")
        return self._too_large() if int(length) > self.limit + ENVELOPE else None

    def _too_large(self) -> JSONResponse:
        return problem(413, f"The upload is over {self.limit / 1e6:g} MB; send fewer or smaller files.")

    async def _bounded(self, scope: Scope, receive: Receive, send: Send) -> None:
        received, over = 0, False

        async def counted() -> Message:
            nonlocal received, over
            message = await receive()
            received += len(message.get("body", b""))
            over = received > self.limit + ENVELOPE
            return {"type": "http.disconnect"} if over else message

        translated = _Translated(send)

        async def answered(message: Message) -> None:
            if not over:
                await translated(message)

        try:
            await self.app(scope, counted, answered)
        except Exception:  # BentoML would let the sender wait for its timeout, and say nothing
            log.exception("%s failed", scope["path"])
        if not translated.started:
            await (self._too_large() if over else problem(500, FAILED))(scope, receive, send)


class _Translated:
    """Passes a response on; an error in another form than problem details is rewritten into it."""

    def __init__(self, send: Send) -> None:
        self.send = send
        self.started = False
        self.status = 0
        self.allow = ""
        self.body = b""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            self.allow = Headers(raw=message["headers"]).get("allow", "")
            media = Headers(raw=message["headers"]).get("content-type", "")
            if message["status"] >= 400 and not media.startswith(MEDIA):
                self.status = message["status"]
                return
        if not self.status:
            await self.send(message)
            return
        self.body += message.get("body", b"")
        if not message.get("more_body"):
            kept = {"Allow": self.allow} if self.allow else None
            response = problem(self.status, _sentence(self.status, self.body), kept)
            await self.send({"type": "http.response.start", "status": self.status, "headers": response.raw_headers})
            await self.send({"type": "http.response.body", "body": bytes(response.body)})


def _sentence(status: int, body: bytes) -> str:
    """One sentence out of BentoML's own error body."""
    try:
        said: Any = json.loads(body)
    except ValueError:
        return f"The request failed: {HTTPStatus(status).phrase}."
    said = said[0] if isinstance(said, list) and said else said
    if not isinstance(said, dict):
        return str(said)
    fields = said.get("detail")
    if isinstance(fields, list):
        return "; ".join(f"{'.'.join(map(str, field['loc']))}: {field['msg']}" for field in fields)
    return str(said.get("error", said))
