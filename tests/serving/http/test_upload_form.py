"""Upload forms over ASGI without a server: slow uploads end, and other requests pass through."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import anyio
import pytest
from starlette.responses import JSONResponse, Response

from serving.http import upload_form
from serving.inference.request import Requester, Upload


def respond(uploads: Sequence[Upload], task: str, requester: Requester) -> Response:
    return JSONResponse(
        {
            "names": [upload.name for upload in uploads],
            "bytes": len(uploads[0].content),
            "account and task": requester.account + task,
        }
    )


async def next_app(scope: Any, receive: Any, send: Any) -> None:
    await JSONResponse({"passed": "on"})(scope, receive, send)


def request(
    body: bytes,
    kind: str = "multipart/form-data; boundary=b",
    ends: bool = True,
    query: bytes = b"",
    method: str = "POST",
) -> tuple[int, Any]:
    """Status and JSON of the middleware's response to one body."""
    sent: list[Any] = []
    headers = [(b"content-type", kind.encode("latin-1"))]
    scope = {
        "type": "http",
        "method": method,
        "path": "/predict",
        "headers": headers,
        "state": {"actor": "eve"},
        "query_string": query,
    }
    messages = [{"type": "http.request", "body": body, "more_body": not ends}]

    async def receive() -> Any:
        if not messages:
            await anyio.sleep_forever()
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    anyio.run(upload_form.UploadForms(next_app, respond), scope, receive, send)
    return sent[0]["status"], json.loads(sent[1]["body"])


def part(name: str, content: bytes, file: str | None = None) -> bytes:
    file_name = f'; filename="{file}"' if file is not None else ""
    return f'--b\r\nContent-Disposition: form-data; name="{name}"{file_name}\r\n\r\n'.encode() + content + b"\r\n"


def test_a_form_is_read_with_clean_file_names() -> None:
    body = part("files", b"12345", "../../a.dcm") + part("files", b"6", "") + part("task", b"lung-ct") + b"--b--\r\n"
    status, result = request(body)
    assert status == 200
    assert result == {"names": ["a.dcm", "upload 2"], "bytes": 5, "account and task": "evelung-ct"}
    quoted = part("files", b"1", "a") + part("task", b'"lung-ct"') + b"--b--\r\n"  # as BentoML's client writes text
    assert request(quoted)[1]["account and task"] == "evelung-ct"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (part("task", b"lung-ct") + b"--b--\r\n", "no `files`"),
        (part("files", b"text") + b"--b--\r\n", "send the files themselves"),
        (part("file", b"1", "a") + b"--b--\r\n", "the unknown field 'file'"),
        (part("files", b"1", "a") + part("task", b"x", "b") + b"--b--\r\n", "`task` contains a file"),
        (b"".join(part(f"field{number}", b"x") for number in range(20)) + b"--b--\r\n", "Too many fields"),
        (b"--b\r\nrubbish", "cannot be read"),
    ],
)
def test_a_form_without_files_is_a_client_error(body: bytes, reason: str) -> None:
    status, result = request(body)
    assert status == 400 and reason in result["detail"]


def test_an_upload_that_never_ends_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload_form, "UPLOAD_SECONDS", 0.05)
    status, result = request(part("files", b"12345", "a.dcm"), ends=False)
    assert status == 408 and "not complete" in result["detail"]


def test_a_body_is_one_file_and_the_query_names_the_task() -> None:
    status, result = request(b"12345", "application/dicom", query=b"task=lung-ct")
    assert status == 200 and result == {"names": ["the body"], "bytes": 5, "account and task": "evelung-ct"}
    assert request(b"", "application/zip") == (400, request(b"", "application/dicom")[1])
    assert request(b"{}", "application/json")[0] == 415


@pytest.mark.parametrize("task", [b'"', b'""', b'"\0"', b'"\n', b"\xff\xfe", b"[1", "\U0001f600".encode()])
def test_a_task_may_contain_any_bytes(task: bytes) -> None:
    assert request(part("files", b"1", "a") + part("task", task) + b"--b--\r\n")[0] == 200


@pytest.mark.parametrize("charset", [b"unicode_escape", b"utf-7", b"hex", b"idna", b"zlib", b"utf-16", b"\xff"])
def test_no_charset_breaks_a_form(charset: bytes) -> None:
    body = part("files", b"1", "\\ud800.dcm") + part("task", b"\\ud800") + b"--b--\r\n"
    assert request(body, f"multipart/form-data; boundary=b; charset={charset.decode('latin-1')}")[0] in (200, 400)


def test_a_task_has_a_maximum_length() -> None:
    status, result = request(part("files", b"1", "a") + part("task", b"x" * 5000) + b"--b--\r\n")
    assert status == 422 and "over 100 characters" in result["detail"] and len(result["detail"]) < 200


def test_other_requests_pass_through_to_the_service() -> None:
    assert request(b"{}", "application/json", method="GET") == (200, {"passed": "on"})
