"""A form of files, read and answered without detours; BentoML's own route would take it through temporary files."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence

from anyio import CapacityLimiter, fail_after, to_thread
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from data.labels import LONGEST_SERIES
from serving.answer import clean_name
from serving.problem import problem
from serving.upload import Upload

PATH = "/predict"
THREADS = 2  # answers at once in one worker; the others wait for their turn without holding a thread
FIELDS = 8
QUOTED = re.compile(r'"[^"\\]*"')
PATIENCE = 100.0  # seconds that a sender may take for one upload, who holds a place as long

Respond = Callable[[Sequence[Upload], str, str], Response]


class Forms:
    """ASGI middleware: POST /predict with a multipart form is answered by `respond` (uploads, task, who asks).

    Everything else goes on to the service, which gives the same answers to BentoML's other ways of asking.
    """

    def __init__(self, app: ASGIApp, respond: Respond) -> None:
        self.app = app
        self.respond = respond
        self.turns: CapacityLimiter | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a form, or pass a request on."""
        if scope["type"] != "http" or scope["path"].rstrip("/") != PATH or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        if not Headers(scope=scope).get("content-type", "").startswith("multipart/form-data"):
            await self.app(scope, receive, send)
            return
        try:
            response = await self._answered(Request(scope, receive))
        except ClientDisconnect:  # nobody is left to be told
            return
        await response(scope, receive, send)

    async def _answered(self, request: Request) -> Response:
        try:
            with fail_after(PATIENCE):
                async with request.form(max_files=LONGEST_SERIES, max_fields=FIELDS) as form:
                    uploads, task = await _uploads(form), form.get("task", "")
        except TimeoutError:
            return problem(408, f"The upload was not complete after {PATIENCE:g} seconds; send it again.")
        except (HTTPException, MultiPartException, ValueError) as error:
            reason = getattr(error, "detail", "") or getattr(error, "message", "") or str(error)
            return problem(400, f"The form cannot be read: {reason}.")
        if not isinstance(task, str):
            return problem(400, "The field `task` holds a file; send the name of a task, or leave it out.")
        self.turns = self.turns or CapacityLimiter(THREADS)
        actor = request.state.actor
        return await to_thread.run_sync(self.respond, uploads, _plain(task), actor, limiter=self.turns)


def _plain(task: str) -> str:
    """The text of a field; BentoML's own client writes it as JSON."""
    return str(json.loads(task)) if QUOTED.fullmatch(task) else task


async def _uploads(form: FormData) -> list[Upload]:
    """The files of the field `files`, under names that are safe to say. ValueError for a form without them."""
    sent = form.getlist("files")
    if not sent:
        raise ValueError("it has no `files`; send at least one scan")
    uploads = []
    for position, file in enumerate(sent, 1):
        if not isinstance(file, UploadFile):
            raise ValueError("the field `files` holds text; send the files themselves")
        name = clean_name(file.filename) if file.filename else f"upload {position}"
        uploads.append(Upload(name, await file.read()))
    return uploads
