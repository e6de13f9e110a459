"""The endpoint as a program uses it: all kinds of request, the OpenAPI document, and tokens."""

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
from serving.http.request_guard import TOKEN_CACHE_SECONDS
from tests.serving.conftest import Endpoint, dicom, png

pytestmark = pytest.mark.usefixtures("served_home")
SERIES = {f"{place}.dcm": dicom(place == 1, place, float(place)) for place in (2, 0, 1)}


@pytest.fixture
def client(endpoint: Endpoint) -> Iterator[httpx.Client]:
    headers = bento_server.request_headers(endpoint.token)
    with httpx.Client(base_url=endpoint.server.url, headers=headers, timeout=30) as client:
        yield client


def send_body(client: httpx.Client, content: bytes, kind: str, task: str | None = None) -> httpx.Response:
    query = {} if task is None else {"task": task}
    return client.post("/predict", content=content, headers={"Content-Type": kind}, params=query)


def send_form(client: httpx.Client, files: dict[str, bytes], **fields: str) -> httpx.Response:
    return client.post("/predict", files=[("files", file) for file in files.items()], data=fields)


def are_same(answers: list[dict[str, Any]], ignored: tuple[str, ...] = ()) -> bool:
    """Whether answers are equal, except for id, time and duration, and the ignored fields."""
    keys_to_skip = ("id", "at", "duration_ms", *ignored)
    compared = [{key: answer[key] for key in answer if key not in keys_to_skip} for answer in answers]
    return all(answer == compared[0] for answer in compared)


def test_one_file_gets_the_same_answer_by_every_kind_of_request(client: httpx.Client) -> None:
    scan = dicom(True)
    responses = [
        send_form(client, {"a.dcm": scan}),
        send_body(client, scan, "application/dicom"),
        send_body(client, scan, "application/dicom; transfer-syntax=*", "tiny-mr"),
        send_form(client, {"a.zip": zip_archive.pack_files({"a.dcm": scan})}),
        send_body(client, zip_archive.pack_files({"a.dcm": scan}), "application/zip"),
    ]
    assert [response.status_code for response in responses] == [200] * 5, [response.text for response in responses]
    answers = [response.json() for response in responses]
    assert are_same(answers[:3]) and are_same(answers, ("inputs",)) and answers[0]["answer"] == "tumour"
    assert {journal.get(answer["id"]).actor for answer in answers} == {"eve"}


def test_a_series_gets_the_same_answer_as_files_and_as_a_zip(client: httpx.Client) -> None:
    packed = zip_archive.pack_files(SERIES)
    responses = [
        send_form(client, SERIES),
        send_form(client, {"s.zip": packed}),
        send_body(client, packed, "application/zip"),
    ]
    answers = [response.json() for response in responses]
    assert are_same(answers, ("inputs",)) and len(answers[0]["slices"]) == 3 and answers[0]["shown"] == 1


def test_the_task_is_a_field_or_a_query_parameter(client: httpx.Client) -> None:
    picture = {"a.png": png(True)}
    assert send_form(client, picture, task="tiny-mr").json()["task"] == "tiny-mr"
    by_query = client.post("/predict", files={"files": ("a.png", png(True))}, params={"task": "tiny-mr"})
    assert by_query.json()["task"] == "tiny-mr"
    for response in (
        send_body(client, dicom(True), "application/dicom", "liver"),
        send_form(client, SERIES, task="liver"),
    ):
        assert response.status_code == 422 and "no task 'liver'" in response.json()["detail"]
    twice = client.post("/predict", files={"files": ("a.png", png(True))}, data={"task": ["tiny-mr", "liver"]})
    assert twice.status_code == 400 and "more than once" in twice.json()["detail"]


def test_a_body_that_is_not_a_scan_is_named(client: httpx.Client) -> None:
    response = send_body(client, b"\0" * 500, "application/dicom")
    assert response.status_code == 422 and response.json()["detail"].startswith("the body: is not DICOM")
    assert send_body(client, b"", "application/dicom").status_code == 400
    for kind in ("application/json", "image/png", "application/x-www-form-urlencoded", ""):
        response = send_body(client, b'{"files": ["x"]}', kind)
        assert response.status_code == 415 and "multipart/form-data" in response.json()["detail"]


def test_bentomls_client_sends_a_series(endpoint: Endpoint, tmp_path: Path) -> None:
    for name, content in SERIES.items():
        (tmp_path / name).write_bytes(content)
    script = (
        "import bentoml, sys; from pathlib import Path\n"
        "with bentoml.SyncHTTPClient(sys.argv[1], token=sys.argv[2]) as client:\n"
        "    client.client.headers['oncoloop-desk'] = sys.argv[3]\n"
        "    answer = client.predict(files=[Path(file) for file in sys.argv[4:]], task='tiny-mr')\n"
        "    print(answer['answer'], len(answer['slices']))\n"
    )
    command = [sys.executable, "-c", script, endpoint.server.url, endpoint.token, keys.server_secret("release")]
    command += [str(tmp_path / name) for name in SERIES]
    process = subprocess.run(command, capture_output=True, text=True, env=bento_server.environment(), check=False)
    assert process.stdout.split()[1:] == ["3"], process.stderr


def test_the_openapi_document_lists_every_route_and_every_field_of_an_answer(client: httpx.Client) -> None:
    page = httpx.get(client.base_url.join("/docs.json")).json()
    assert page == openapi.page("r1", ["tiny-mr"])
    assert set(page["components"]["schemas"]["Answer"]["properties"]) == set(send_form(client, SERIES).json())
    for path, operations in page["paths"].items():
        if "get" in operations:
            response = client.get(path)
            media = response.headers["content-type"].partition(";")[0]
            assert (response.status_code, media) == (200, *operations["get"]["responses"]["200"]["content"]), path
    predict = page["paths"]["/predict"]["post"]
    assert predict["security"] == [{"token": []}] and set(predict["requestBody"]["content"]) == {
        "multipart/form-data",
        "application/dicom",
        "application/zip",
    }
    html = client.get("/")
    assert html.status_code == 200 and "//" not in html.text, "the page loads nothing from other servers"
    assert all(client.get(f"/{part}").status_code == 200 for part in html.text.split('"') if "static_content" in part)


def test_metrics_need_no_token_and_count_answers(client: httpx.Client, endpoint: Endpoint) -> None:
    send_form(client, SERIES)
    metrics = httpx.get(f"{endpoint.server.url}/metrics").text
    assert 'endpoint="/predict"' in metrics and 'http_response_code="200"' in metrics
    assert httpx.get(f"{endpoint.server.url}/manifest").status_code == 401


def test_a_token_needs_time_scope_and_an_open_account(endpoint: Endpoint) -> None:
    def status(token: str) -> int:
        headers = bento_server.request_headers(token) | {"Content-Type": "application/dicom"}
        return httpx.post(f"{endpoint.server.url}/predict", content=dicom(True), headers=headers).status_code

    accounts.add("trent", "clinician")
    valid, expired = accounts.issue("trent", "predict", 1), accounts.issue("trent", "predict", 1)
    table, digest = database.tokens, text_sha256(expired)
    database.execute(table.update().where(table.c.sha256 == digest).values(expires_at="2020-01-01T00:00:00Z"))
    invalid = [expired, accounts.issue("trent", "cases", 1), accounts.invite("trent"), "x" * 5000]
    assert [status(token) for token in invalid] == [401] * 4
    assert status(valid) == 200
    accounts.disable("trent")
    time.sleep(TOKEN_CACHE_SECONDS + 0.1)
    assert status(valid) == 401
