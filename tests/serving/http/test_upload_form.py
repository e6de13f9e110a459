"""Forms over ASGI, read without a server: what holds a place too long is let go, and what is no form goes on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import anyio
import pytest
from starlette.responses import JSONResponse, Response

from serving.http import upload_form
from serving.inference.request import Asker, Upload


def respond(uploads: Sequence[Upload], task: str, asker: Asker) -> Response:
    return JSONResponse(
        {"names": [one.name for one in uploads], "bytes": len(uploads[0].content), "who": asker.name + task}
    )


async def elsewhere(scope: Any, receive: Any, send: Any) -> None:
    await JSONResponse({"passed": "on"})(scope, receive, send)


def asked(
    body: bytes,
    kind: str = "multipart/form-data; boundary=b",
    ends: bool = True,
    query: bytes = b"",
    method: str = "POST",
) -> tuple[int, Any]:
    """Status and JSON of what the middleware answers to one body."""
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

    anyio.run(upload_form.Forms(elsewhere, respond), scope, receive, send)
    return sent[0]["status"], json.loads(sent[1]["body"])


def part(name: str, content: bytes, file: str | None = None) -> bytes:
    more = f'; filename="{file}"' if file is not None else ""
    return f'--b\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'.encode() + content + b"\r\n"


def test_a_form_is_answered_with_clean_names() -> None:
    body = part("files", b"12345", "../../a.dcm") + part("files", b"6", "") + part("task", b"lung-ct") + b"--b--\r\n"
    status, said = asked(body)
    assert status == 200 and said == {"names": ["a.dcm", "upload 2"], "bytes": 5, "who": "evelung-ct"}
    quoted = part("files", b"1", "a") + part("task", b'"lung-ct"') + b"--b--\r\n"  # as BentoML's client writes text
    assert asked(quoted)[1]["who"] == "evelung-ct"


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (part("task", b"lung-ct") + b"--b--\r\n", "no `files`"),
        (part("files", b"text") + b"--b--\r\n", "send the files themselves"),
        (part("file", b"1", "a") + b"--b--\r\n", "the field 'file', which is not read"),
        (part("files", b"1", "a") + part("task", b"x", "b") + b"--b--\r\n", "`task` holds a file"),
        (b"".join(part(f"field{at}", b"x") for at in range(20)) + b"--b--\r\n", "Too many fields"),
        (b"--b\r\nrubbish", "cannot be read"),
    ],
)
def test_what_is_no_form_of_files_is_the_senders_error(body: bytes, why: str) -> None:
    status, said = asked(body)
    assert status == 400 and why in said["detail"]


def test_who_never_finishes_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload_form, "PATIENCE", 0.05)
    status, said = asked(part("files", b"12345", "a.dcm"), ends=False)
    assert status == 408 and "not complete" in said["detail"]


def test_a_body_is_one_file_and_the_query_names_the_task() -> None:
    status, said = asked(b"12345", "application/dicom", query=b"task=lung-ct")
    assert status == 200 and said == {"names": ["the body"], "bytes": 5, "who": "evelung-ct"}
    assert asked(b"", "application/zip") == (400, asked(b"", "application/dicom")[1])
    assert asked(b"{}", "application/json")[0] == 415


@pytest.mark.parametrize("task", [b'"', b'""', b'"\0"', b'"\n', b"\xff\xfe", b"[1", "\U0001f600".encode()])
def test_any_bytes_may_stand_in_the_place_of_a_task(task: bytes) -> None:
    assert asked(part("files", b"1", "a") + part("task", task) + b"--b--\r\n")[0] == 200


@pytest.mark.parametrize("charset", [b"unicode_escape", b"utf-7", b"hex", b"idna", b"zlib", b"utf-16", b"\xff"])
def test_no_charset_breaks_a_form(charset: bytes) -> None:
    body = part("files", b"1", "\\ud800.dcm") + part("task", b"\\ud800") + b"--b--\r\n"
    assert asked(body, f"multipart/form-data; boundary=b; charset={charset.decode('latin-1')}")[0] in (200, 400)


def test_a_task_is_no_novel() -> None:
    status, said = asked(part("files", b"1", "a") + part("task", b"x" * 5000) + b"--b--\r\n")
    assert status == 422 and "over 100 characters" in said["detail"] and len(said["detail"]) < 200


def test_anything_else_goes_on_to_the_service() -> None:
    assert asked(b"{}", "application/json", method="GET") == (200, {"passed": "on"})
