"""Errors as RFC 9457 problem details."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import Message, Send

MEDIA = "application/problem+json"


def details(status: int, detail: str) -> dict[str, Any]:
    """Problem details. `detail` is one sentence for the user."""
    return {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}


def problem(status: int, detail: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """A problem-details response."""
    return JSONResponse(details(status, detail), status, headers, media_type=MEDIA)


class ProblemSender:
    """Passes a response on, and rewrites an error of another form as problem details."""

    def __init__(self, send: Send) -> None:
        self.send = send
        self.has_started = False
        self.status = 0
        self.allow = ""
        self.body = b""

    async def __call__(self, message: Message) -> None:
        """Send one ASGI message of the response, or collect the body of an error."""
        if message["type"] == "http.response.start":
            self.has_started = True
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
            headers = {"Allow": self.allow} if self.allow else None
            response = problem(self.status, _error_sentence(self.status, self.body), headers)
            await self.send({"type": "http.response.start", "status": self.status, "headers": response.raw_headers})
            await self.send({"type": "http.response.body", "body": bytes(response.body)})


def _error_sentence(status: int, body: bytes) -> str:
    """One sentence from BentoML's own error body."""
    try:
        error: Any = json.loads(body)
    except ValueError:
        return f"The request failed: {HTTPStatus(status).phrase}."
    error = error[0] if isinstance(error, list) and error else error
    if not isinstance(error, dict):
        return str(error)
    fields = error.get("detail")
    if isinstance(fields, list):
        return "; ".join(f"{'.'.join(map(str, field['loc']))}: {field['msg']}" for field in fields)
    return str(error.get("error", error))
