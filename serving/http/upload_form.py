"""What is sent to /predict, read and answered without detours; BentoML's own route goes through temporary files."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from anyio import CapacityLimiter, fail_after, to_thread
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from data.scan.size_limits import LONGEST_SERIES
from serving.http.problem_details import ENDED, problem
from serving.inference.request import Asker, Upload, clean_name

PATH = "/predict"
THREADS = 2  # answers at once in one worker; the others wait for their turn without holding a thread
FIELDS = 8
LONGEST_TASK = 100  # characters
PATIENCE = 100.0  # seconds that a sender may take for one upload, who holds a place as long
FORM = "multipart/form-data"
BODIES = ("application/dicom", "application/zip")  # the body is the one file itself
NAMELESS = "the body"

Respond = Callable[[Sequence[Upload], str, Asker], Response]


class Forms:
    """ASGI middleware: POST /predict is answered by `respond` (uploads, task, who asks); the rest goes on.

    A form holds one or more `files`; a body of DICOM or zip is one file. `task` is a field, or stands in the query.
    """

    def __init__(self, app: ASGIApp, respond: Respond) -> None:
        self.app = app
        self.respond = respond
        self.turns: CapacityLimiter | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer an upload, or pass a request on."""
        if scope["type"] != "http" or scope["path"] != PATH or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        try:
            response = await self._answered(Request(scope, receive))
        except ClientDisconnect:  # nobody may be left to be told; BentoML waits for an answer all the same
            response = problem(400, ENDED)
        await response(scope, receive, send)

    async def _answered(self, request: Request) -> Response:
        media = media_type(request.headers)
        if media != FORM and media not in BODIES:
            return problem(415, f"Send {FORM} with `files`, or one file as {' or '.join(BODIES)}.")
        try:
            with fail_after(PATIENCE):
                uploads, task = await (_form(request) if media == FORM else _body(request))
        except TimeoutError:
            return problem(408, f"The upload was not complete after {PATIENCE:g} seconds; send it again.")
        except (HTTPException, MultiPartException, ValueError) as error:
            reason = getattr(error, "detail", "") or getattr(error, "message", "") or str(error)
            return problem(400, f"The upload cannot be read: {reason.rstrip('.')}.")
        if len(task) > LONGEST_TASK:
            return problem(422, f"The name of the task is over {LONGEST_TASK} characters; /manifest lists the tasks.")
        self.turns = self.turns or CapacityLimiter(THREADS)
        headers = request.headers
        asker = Asker(request.state.actor, headers.get("idempotency-key", ""), headers.get("shadows", ""))
        return await to_thread.run_sync(self.respond, uploads, task, asker, limiter=self.turns)


def media_type(headers: Headers) -> str:
    """The content type without its parameters."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()


async def _form(request: Request) -> tuple[list[Upload], str]:
    async with request.form(max_files=LONGEST_SERIES, max_fields=FIELDS) as form:
        unread = next((name for name in form if name not in ("files", "task")), None)
        if unread is not None:
            raise ValueError(f"it has the field {unread[:60]!r}, which is not read; send `files` and `task`")
        tasks = form.getlist("task") or [request.query_params.get("task", "")]
        if len(tasks) > 1:
            raise ValueError("it has the field `task` more than once")
        if not isinstance(tasks[0], str):
            raise ValueError("the field `task` holds a file; send the name of a task, or leave it out")
        return await _uploads(form), _plain(tasks[0])


async def _body(request: Request) -> tuple[list[Upload], str]:
    content = await request.body()
    if not content:
        raise ValueError("it is empty; send one scan as the body")
    return [Upload(NAMELESS, content)], request.query_params.get("task", "")


def _plain(task: str) -> str:
    """The text of a field; BentoML's own client writes it as JSON, in quotes. A charset can make what no text holds."""
    text = task.encode(errors="replace").decode()
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] == '"' else text


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
