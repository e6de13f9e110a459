from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
import pytest
import sqlalchemy

from bench.serving import load_generator
from lineage import accounts, keys
from lineage.record import database, journal
from lineage.record.verdict import Outcome
from serving.bundle import bento_server
from serving.http.request_guard import MAX_REQUESTS
from serving.inference.predict import Upload, predict, to_json
from serving.inference.release import load_release
from tests.serving.conftest import Endpoint, dicom, png

pytestmark = pytest.mark.usefixtures("served_home")


@pytest.fixture
def client(endpoint: Endpoint) -> Iterator[httpx.Client]:
    headers = bento_server.request_headers(endpoint.token)
    with httpx.Client(base_url=endpoint.server.url, headers=headers, timeout=30) as client:
        yield client


def send(client: httpx.Client, *files: tuple[str, bytes], task: str = "", **extra: Any) -> httpx.Response:
    return client.post("/predict", files=[("files", file) for file in files], data={"task": task}, **extra)


def test_the_check_sent_every_warm_up_scan_and_measured_no_difference(endpoint: Endpoint) -> None:
    verdict = endpoint.verdict
    assert (verdict.gate, verdict.subject, verdict.outcome) == ("release", "oncoloop:r1", Outcome.PASS)
    assert verdict.figures["largest_difference"] == {"00-a.dcm": 0.0, "01-b.dcm": 0.0}
    assert verdict.figures["seconds_to_ready"] > 0
    assert set(journal.rows()["actor"]) >= {accounts.CHECK_ACCOUNT}


def test_an_answer_is_that_of_predict_and_has_one_journal_row(client: httpx.Client, endpoint: Endpoint) -> None:
    before = journal.count()
    answer = send(client, ("a.dcm", dicom(True))).json()
    assert journal.count() == before + 1
    row = journal.get(answer["id"])
    assert row.actor == "eve" and row.answer == answer["answer"] == "tumour"
    expected = to_json(predict(load_release(endpoint.folder), [Upload("a.dcm", dicom(True))]))
    different = {key for key in expected if expected[key] != answer[key]}
    assert different == {"id", "at", "duration_ms", "note"} and answer["duration_ms"] > 0 and answer["release"] == "r1"


def test_the_server_runs_the_code_inside_the_bento(client: httpx.Client) -> None:
    """The fixture changed one word of the packaged code before the server started."""
    assert send(client, ("a.dcm", dicom(True))).json()["note"].startswith("Packaged. Research use only.")


def test_several_files_of_one_case_get_one_answer(client: httpx.Client) -> None:
    files = [(f"{place}.dcm", dicom(place == 2, place, float(place))) for place in (2, 0, 1)]
    answer = send(client, *files).json()
    assert answer["shown"] == 2 and len(answer["slices"]) == len(answer["inputs"]) == 3


def test_an_abstention_is_answered_and_journalled(client: httpx.Client) -> None:
    response = send(client, ("a.dcm", dicom(True, BodyPartExamined="KNEE")), task="tiny-mr")
    answer = response.json()
    assert response.status_code == 200 and answer["answer"] is None and answer["verdict"]["outcome"] == "inconclusive"
    assert "KNEE" in answer["verdict"]["reasons"][0]
    assert journal.get(answer["id"]).outcome == "inconclusive"


def test_bentomls_client_gets_an_answer(endpoint: Endpoint, tmp_path: Path) -> None:
    (tmp_path / "scan.dcm").write_bytes(dicom(True))
    script = (
        "import bentoml, sys; from pathlib import Path\n"
        "with bentoml.SyncHTTPClient(sys.argv[1], token=sys.argv[2]) as client:\n"
        "    client.client.headers['oncoloop-desk'] = sys.argv[3]\n"
        "    print(client.predict(files=[Path(sys.argv[4])], task='')['answer'])\n"
    )
    command = [sys.executable, "-c", script, endpoint.server.url, endpoint.token, keys.server_secret("release")]
    command.append(str(tmp_path / "scan.dcm"))
    process = subprocess.run(command, capture_output=True, text=True, env=bento_server.environment(), check=False)
    assert process.stdout.strip() == "tumour", process.stderr


@pytest.mark.parametrize(
    ("files", "task", "status", "reason"),
    [
        ([("junk.dcm", b"\0" * 999)], "", 422, "junk.dcm"),
        ([("../../etc/<svg>.dcm", b"x")], "", 422, "<svg>.dcm"),
        ([("x" * 300 + "é.png", b"x")], "", 422, "xxé.png"),
        ([("a.png", png(True))], "", 422, "a.png: the file names no modality"),
        ([("a.dcm", dicom(True))], "liver", 422, "no task 'liver'"),
        ([("a.dcm", dicom(True))], "17", 422, "no task '17'"),
        ([], "tiny-mr", 415, "files"),
        ([("big.dcm", bytes(3_000_000))], "", 413, "over 1 MB"),
    ],
)
def test_a_request_without_an_answer_gets_a_problem_with_a_reason(
    client: httpx.Client, files: list[tuple[str, bytes]], task: str, status: int, reason: str
) -> None:
    before = journal.count()
    response = send(client, *files, task=task)
    assert response.status_code == status and response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["status"] == status and reason in problem["detail"] and "etc" not in problem["detail"]
    assert journal.count() == before


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"x", "multipart/form-data"),
        (b"--b\r\nrubbish", "multipart/form-data; boundary=b"),
        (b"[" * 9000, "application/json"),
        (b"task=" + b"[" * 9000, "application/x-www-form-urlencoded"),
        (b"x", "text/html"),
        (b"", "image/png"),
        (b"x", "application/vnd.bentoml+pickle"),
    ],
)
def test_a_malformed_request_is_a_client_error(client: httpx.Client, content: bytes, kind: str) -> None:
    response = client.post("/predict", content=content, headers={"Content-Type": kind})
    assert 400 <= response.status_code < 500 and response.headers["content-type"] == "application/problem+json"
    assert response.json()["detail"]


def test_an_address_instead_of_a_file_is_not_fetched(client: httpx.Client) -> None:
    response = client.post("/predict", files=[("files", (None, "http://example.org/scan.dcm"))])
    assert response.status_code == 400 and "send the files themselves" in response.json()["detail"]


def test_a_body_without_a_length_is_refused_over_the_limit(client: httpx.Client) -> None:
    def long_body() -> Iterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.dcm"\r\n\r\n'
        yield from (bytes(100_000) for _ in range(40))

    response = client.post("/predict", content=long_body(), headers={"Content-Type": "multipart/form-data; boundary=b"})
    assert response.status_code == 413 and "over 1 MB" in response.json()["detail"]


def test_only_a_valid_token_with_the_scope_gets_an_answer(endpoint: Endpoint) -> None:
    accounts.add("mallory", "clinician")
    wrong_scope, closed = accounts.issue("mallory", "cases", 1), accounts.issue("mallory", "predict", 1)
    accounts.disable("mallory")
    before = journal.count()
    for headers in (
        {},
        {"Authorization": f"Basic {endpoint.token}"},
        *({"Authorization": f"Bearer {token}"} for token in ("guess", wrong_scope, closed)),
    ):
        for response in (
            httpx.post(f"{endpoint.server.url}/predict", files={"files": dicom(True)}, headers=headers),
            httpx.get(f"{endpoint.server.url}/manifest", headers=headers),
        ):
            assert response.status_code == 401 and response.headers["www-authenticate"].startswith("Bearer")
            assert response.json()["title"] == "Unauthorized"
    assert journal.count() == before


def test_a_release_answers_only_the_desk(endpoint: Endpoint) -> None:
    """A person's token is valid only at the desk, because releases in shadow and retired releases run too."""
    before, bearer = journal.count(), {"Authorization": f"Bearer {endpoint.token}"}
    for headers in (bearer, bearer | {"oncoloop-desk": ""}, bearer | {"oncoloop-desk": "0" * 64}):
        for response in (
            httpx.post(f"{endpoint.server.url}/predict", files={"files": dicom(True)}, headers=headers),
            httpx.get(f"{endpoint.server.url}/manifest", headers=headers),
        ):
            assert response.status_code == 403 and "only the desk" in response.json()["detail"]
    assert journal.count() == before


def test_the_manifest_and_bentomls_own_routes_answer(client: httpx.Client, endpoint: Endpoint) -> None:
    assert client.get("/manifest").json() == bento_server.read_manifest(endpoint.folder)
    for path in ("/livez", "/readyz", "/metrics", "/docs.json"):
        assert httpx.get(endpoint.server.url + path).status_code == 200
    assert "/predict" in httpx.get(endpoint.server.url + "/docs.json").json()["paths"]


def test_an_answer_that_cannot_be_journalled_is_withheld(client: httpx.Client) -> None:
    with database.engine().begin() as connection:
        connection.execute(sqlalchemy.text("ALTER TABLE journal RENAME TO away"))
    try:
        response = send(client, ("a.dcm", dicom(True)))
    finally:
        with database.engine().begin() as connection:
            connection.execute(sqlalchemy.text("ALTER TABLE away RENAME TO journal"))
    assert response.status_code == 503 and response.headers["retry-after"]
    assert "withheld" in response.json()["detail"] and "tumour" not in response.text
    assert send(client, ("a.dcm", dicom(True))).status_code == 200


def test_too_many_requests_are_refused_at_once_and_answered_later(client: httpx.Client, endpoint: Endpoint) -> None:
    """Senders that never finish use up all request slots; further requests get a 503, and an answer afterwards."""
    complete_request = load_generator.form(
        [("a.dcm", dicom(True))], "tiny-mr", "/predict", bento_server.request_headers(endpoint.token)
    )
    address = (urlsplit(endpoint.server.url).hostname, urlsplit(endpoint.server.url).port)
    slow_connections: list[socket.socket] = []
    refusals: list[httpx.Response] = []
    try:
        while len(refusals) < 8 and len(slow_connections) < 20 * MAX_REQUESTS:
            slow_connections += [socket.create_connection(address) for _ in range(MAX_REQUESTS // 2)]
            for connection in slow_connections[-MAX_REQUESTS // 2 :]:
                connection.sendall(complete_request[:-300])
            time.sleep(0.2)
            responses = [
                httpx.post(f"{endpoint.server.url}/predict", content=b"", headers=client.headers) for _ in range(8)
            ]
            refusals = [response for response in responses if response.status_code == 503]
        assert len(refusals) == 8 and all(response.headers["retry-after"] == "1" for response in refusals)
        assert "send this one again shortly" in refusals[0].json()["detail"]
    finally:
        for connection in slow_connections:
            connection.close()
    time.sleep(0.5)
    before = journal.count()
    crowd = load_generator.ask(endpoint.server.url, complete_request, 40, 0, 3)
    assert crowd.statuses == {200: 120} and journal.count() == before + 120


def test_no_upload_remains_on_disk(client: httpx.Client, served_home: Path) -> None:
    send(client, ("a.dcm", dicom(True)), ("big.png", b"x" * 500_000))
    folders = (served_home / "run").glob("serve-*")
    remaining_files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert remaining_files == []


TRAINING = {"tensorflow", "keras", "jax", "jaxlib", "torch", "h5py"}


def _package(path: str) -> str:
    """The installed package that a mapped file belongs to."""
    return path.partition("site-packages/")[2].partition("/")[0]


def workers(endpoint: Endpoint) -> list[psutil.Process]:
    children = psutil.Process(endpoint.server.process.pid).children(recursive=True)
    return [child for child in children if "_bentoml_impl.worker.service" in child.cmdline()]


def test_two_workers_run_without_a_training_framework(endpoint: Endpoint) -> None:
    worker_processes = workers(endpoint)
    assert len(worker_processes) == 2
    for worker in worker_processes:
        mapped_packages = {_package(mapped.path) for mapped in worker.memory_maps() if "site-packages" in mapped.path}
        assert "openvino" in mapped_packages and not mapped_packages & TRAINING
        assert worker.memory_info().rss < 450e6


def test_the_service_imports_no_training_or_orchestration_package() -> None:
    script = "import sys, serving.http.service; print(' '.join(name for name in sys.modules if '.' not in name))"
    process = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=bento_server.environment(), check=True
    )
    loaded = set(process.stdout.split())
    assert {"serving", "bentoml"} <= loaded
    assert not loaded & TRAINING and not loaded & {"mlflow", "prefect", "great_expectations", "evidently", "dvc"}
