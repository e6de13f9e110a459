"""The endpoint as a program uses it: every way of asking, the page that describes them, and who is let in."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from data.scan import zip_archive
from lineage import accounts, keys
from lineage.fingerprint import text_sha256
from lineage.record import database, journal
from serving.bundle import bento_server
from serving.http import openapi
from serving.http.problem_details import TRUSTED
from tests.serving.conftest import Endpoint, dicom, png

pytestmark = pytest.mark.usefixtures("house")
SERIES = {f"{place}.dcm": dicom(place == 1, place, float(place)) for place in (2, 0, 1)}


@pytest.fixture
def client(endpoint: Endpoint) -> Iterator[httpx.Client]:
    headers = bento_server.request_headers(endpoint.token)
    with httpx.Client(base_url=endpoint.server.url, headers=headers, timeout=30) as client:
        yield client


def body(client: httpx.Client, content: bytes, kind: str, task: str | None = None) -> httpx.Response:
    query = {} if task is None else {"task": task}
    return client.post("/predict", content=content, headers={"Content-Type": kind}, params=query)


def form(client: httpx.Client, files: dict[str, bytes], **fields: str) -> httpx.Response:
    return client.post("/predict", files=[("files", file) for file in files.items()], data=fields)


def same(answers: list[dict[str, Any]], but: tuple[str, ...] = ()) -> bool:
    """Whether answers differ in nothing but what is new each time, and what `but` names."""
    kept = [{key: one[key] for key in one if key not in ("id", "at", "duration_ms", *but)} for one in answers]
    return all(one == kept[0] for one in kept)


def test_one_file_is_answered_alike_however_it_is_sent(client: httpx.Client) -> None:
    one = dicom(True)
    replies = [
        form(client, {"a.dcm": one}),
        body(client, one, "application/dicom"),
        body(client, one, "application/dicom; transfer-syntax=*", "tiny-mr"),
        form(client, {"a.zip": zip_archive.pack_files({"a.dcm": one})}),
        body(client, zip_archive.pack_files({"a.dcm": one}), "application/zip"),
    ]
    assert [reply.status_code for reply in replies] == [200] * 5, [reply.text for reply in replies]
    answers = [reply.json() for reply in replies]
    assert same(answers[:3]) and same(answers, ("inputs",)) and answers[0]["answer"] == "tumour"
    assert {journal.get(answer["id"])["actor"] for answer in answers} == {"eve"}


def test_a_series_is_answered_alike_as_files_and_as_a_zip(client: httpx.Client) -> None:
    packed = zip_archive.pack_files(SERIES)
    replies = [form(client, SERIES), form(client, {"s.zip": packed}), body(client, packed, "application/zip")]
    answers = [reply.json() for reply in replies]
    assert same(answers, ("inputs",)) and len(answers[0]["slices"]) == 3 and answers[0]["shown"] == 1


def test_the_task_is_a_field_or_stands_in_the_query(client: httpx.Client) -> None:
    picture = {"a.png": png(True)}
    assert form(client, picture, task="tiny-mr").json()["task"] == "tiny-mr"
    asked = client.post("/predict", files={"files": ("a.png", png(True))}, params={"task": "tiny-mr"})
    assert asked.json()["task"] == "tiny-mr"
    for reply in (body(client, dicom(True), "application/dicom", "liver"), form(client, SERIES, task="liver")):
        assert reply.status_code == 422 and "no task 'liver'" in reply.json()["detail"]
    twice = client.post("/predict", files={"files": ("a.png", png(True))}, data={"task": ["tiny-mr", "liver"]})
    assert twice.status_code == 400 and "more than once" in twice.json()["detail"]


def test_a_body_that_is_no_scan_is_named(client: httpx.Client) -> None:
    reply = body(client, b"\0" * 500, "application/dicom")
    assert reply.status_code == 422 and reply.json()["detail"].startswith("the body: is not DICOM")
    assert body(client, b"", "application/dicom").status_code == 400
    for kind in ("application/json", "image/png", "application/x-www-form-urlencoded", ""):
        reply = body(client, b'{"files": ["x"]}', kind)
        assert reply.status_code == 415 and "multipart/form-data" in reply.json()["detail"]


def test_bentos_own_client_sends_a_series(endpoint: Endpoint, tmp_path: Path) -> None:
    for name, content in SERIES.items():
        (tmp_path / name).write_bytes(content)
    script = (
        "import bentoml, sys; from pathlib import Path\n"
        "with bentoml.SyncHTTPClient(sys.argv[1], token=sys.argv[2]) as client:\n"
        "    client.client.headers['oncoloop-desk'] = sys.argv[3]\n"
        "    said = client.predict(files=[Path(file) for file in sys.argv[4:]], task='tiny-mr')\n"
        "    print(said['answer'], len(said['slices']))\n"
    )
    command = [sys.executable, "-c", script, endpoint.server.url, endpoint.token, keys.server_secret("release")]
    command += [str(tmp_path / name) for name in SERIES]
    ran = subprocess.run(command, capture_output=True, text=True, env=bento_server.environment(), check=False)
    assert ran.stdout.split()[1:] == ["3"], ran.stderr


def test_the_page_names_every_address_and_every_field_of_an_answer(client: httpx.Client) -> None:
    page = httpx.get(client.base_url.join("/docs.json")).json()
    assert page == openapi.page("r1", ["tiny-mr"])
    assert set(page["components"]["schemas"]["Answer"]["properties"]) == set(form(client, SERIES).json())
    for path, operations in page["paths"].items():
        if "get" in operations:
            reply = client.get(path)
            media = reply.headers["content-type"].partition(";")[0]
            assert (reply.status_code, media) == (200, *operations["get"]["responses"]["200"]["content"]), path
    described = page["paths"]["/predict"]["post"]
    assert described["security"] == [{"token": []}] and set(described["requestBody"]["content"]) == {
        "multipart/form-data",
        "application/dicom",
        "application/zip",
    }
    shown = client.get("/")
    assert shown.status_code == 200 and "//" not in shown.text, "the page fetches nothing from elsewhere"
    assert all(client.get(f"/{part}").status_code == 200 for part in shown.text.split('"') if "static_content" in part)


def test_readiness_and_metrics_need_no_token_and_count_answers(client: httpx.Client, endpoint: Endpoint) -> None:
    form(client, SERIES)
    counted = httpx.get(f"{endpoint.server.url}/metrics").text
    assert 'endpoint="/predict"' in counted and 'http_response_code="200"' in counted
    assert httpx.get(f"{endpoint.server.url}/manifest").status_code == 401


def test_a_token_ends_with_its_time_its_scope_and_its_holder(endpoint: Endpoint) -> None:
    def status(token: str) -> int:
        headers = bento_server.request_headers(token) | {"Content-Type": "application/dicom"}
        return httpx.post(f"{endpoint.server.url}/predict", content=dicom(True), headers=headers).status_code

    accounts.add("trent", "clinician")
    kept, expired = accounts.issue("trent", "predict", 1), accounts.issue("trent", "predict", 1)
    table, digest = database.tokens, text_sha256(expired)
    database.execute(table.update().where(table.c.sha256 == digest).values(expires_at="2020-01-01T00:00:00Z"))
    wrong = [expired, accounts.issue("trent", "cases", 1), accounts.invite("trent"), "x" * 5000]
    assert [status(token) for token in wrong] == [401] * 4
    assert status(kept) == 200
    accounts.disable("trent")
    time.sleep(TRUSTED + 0.1)
    assert status(kept) == 401
