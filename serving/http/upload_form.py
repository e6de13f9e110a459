"""Read the uploads to /predict in memory and answer them; BentoML's own route would write temporary files."""

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
from serving.http.problem_details import problem
from serving.inference.request import SITE_HEADER, Requester, Upload, clean_name

PREDICT_PATH = "/predict"
THREADS = 2  # answers at once in one worker; other requests wait without a thread
MAX_FIELDS = 8
MAX_TASK_LENGTH = 100  # characters
UPLOAD_SECONDS = 100.0  # that a sender may take for one upload, which counts as an active request meanwhile
FORM_MEDIA = "multipart/form-data"
FILE_MEDIA = ("application/dicom", "application/zip")  # the body is one file
BODY_NAME = "the body"
UPLOAD_ENDED = "The upload ended before it was complete."

Respond = Callable[[Sequence[Upload], str, Requester], Response]


class UploadForms:
    """ASGI middleware: `respond` (uploads, task, requester) answers POST /predict; other requests pass through.

    A form contains one or more `files`; a DICOM or zip body is one file. `task` is a form field or a query parameter.
    """

    def __init__(self, app: ASGIApp, respond: Respond) -> None:
        self.app = app
        self.respond = respond
        self.limiter: CapacityLimiter | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer an upload, or pass a request on."""
        if scope["type"] != "http" or scope["path"] != PREDICT_PATH or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        try:
            response = await self._answer(Request(scope, receive))
        except ClientDisconnect:  # the sender may have gone, but BentoML still waits for a response
            response = problem(400, UPLOAD_ENDED)
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        media = media_type(request.headers)
        if media != FORM_MEDIA and media not in FILE_MEDIA:
            return problem(415, f"Send {FORM_MEDIA} with `files`, or one file as {' or '.join(FILE_MEDIA)}.")
        try:
            with fail_after(UPLOAD_SECONDS):
                uploads, task = await (_read_form(request) if media == FORM_MEDIA else _read_body(request))
        except TimeoutError:
            text = f"The upload was not complete after {UPLOAD_SECONDS:g} seconds; send it again."
            return problem(408, text, {"Connection": "close"})
        except (HTTPException, MultiPartException, ValueError) as error:
            reason = getattr(error, "detail", "") or getattr(error, "message", "") or str(error)
            return problem(400, f"The upload cannot be read: {reason.rstrip('.')}.")
        if len(task) > MAX_TASK_LENGTH:
            text = f"The name of the task is over {MAX_TASK_LENGTH} characters; /manifest lists the tasks."
            return problem(422, text)
        self.limiter = self.limiter or CapacityLimiter(THREADS)
        headers = request.headers
        requester = Requester(
            request.state.actor,
            headers.get("idempotency-key", ""),
            headers.get("shadows", ""),
            headers.get(SITE_HEADER, ""),
        )
        return await to_thread.run_sync(self.respond, uploads, task, requester, limiter=self.limiter)


def media_type(headers: Headers) -> str:
    """The content type without its parameters."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()


async def _read_form(request: Request) -> tuple[list[Upload], str]:
    async with request.form(max_files=LONGEST_SERIES, max_fields=MAX_FIELDS) as form:
        unknown_field = next((name for name in form if name not in ("files", "task")), None)
        if unknown_field is not None:
            raise ValueError(f"it has the unknown field {unknown_field[:60]!r}; send `files` and `task`")
        tasks = form.getlist("task") or [request.query_params.get("task", "")]
        if len(tasks) > 1:
            raise ValueError("it has the field `task` more than once")
        if not isinstance(tasks[0], str):
            raise ValueError("the field `task` contains a file; send the name of a task, or omit the field")
        return await _read_files(form), _unquoted(tasks[0])


async def _read_body(request: Request) -> tuple[list[Upload], str]:
    content = await request.body()
    if not content:
        raise ValueError("it is empty; send one scan as the body")
    return [Upload(BODY_NAME, content)], request.query_params.get("task", "")


def _unquoted(task: str) -> str:
    """The text of a field without JSON quotes, which BentoML's own client adds.

    Characters that UTF-8 cannot encode, from an odd charset, are replaced.
    """
    text = task.encode(errors="replace").decode()
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] == '"' else text


async def _read_files(form: FormData) -> list[Upload]:
    """The files of the field `files` under safe names. Raises ValueError for a form without files."""
    files = form.getlist("files")
    if not files:
        raise ValueError("it has no `files`; send at least one scan")
    uploads = []
    for position, file in enumerate(files, 1):
        if not isinstance(file, UploadFile):
            raise ValueError("the field `files` contains text; send the files themselves")
        name = clean_name(file.filename) if file.filename else f"upload {position}"
        uploads.append(Upload(name, await file.read()))
    return uploads
