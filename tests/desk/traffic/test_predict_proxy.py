"""Uploads on their way to the live release: in whose name, how large, and what is said when it fails."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from desk.traffic import traffic
from lineage import accounts
from lineage.record import ledger

Desk = Callable[[str], TestClient]
Token = Callable[..., str]
RELEASE = "0123456789ab"


def send(client: TestClient, token: str | None, content: bytes = b"scan", **headers: str) -> httpx.Response:
    """Upload one file as a page does."""
    given = headers | ({"x-csrf-token": token} if token else {})
    return client.post(
        "/api/predict", files=[("files", ("scan.png", content))], data={"task": "lung-ct"}, headers=given
    )


def test_a_page_sends_in_the_persons_own_name(open_desk: Desk, csrf: Token, release: Any, picture: bytes) -> None:
    client = open_desk("clinician")
    answer = send(client, csrf(client, "/"), picture)
    assert answer.status_code == 200 and answer.json()["answer"] == "malignant"
    assert release.seen == [{"actor": "cleo", "files": [("scan.png", len(picture))], "task": "lung-ct"}]


@pytest.mark.usefixtures("release")
def test_the_desk_asks_for_one_token_however_many_scans(open_desk: Desk, csrf: Token) -> None:
    client = open_desk("clinician")
    token = csrf(client, "/")
    assert [send(client, token).status_code for _ in range(3)] == [200, 200, 200]
    assert len(ledger.events(kind="token.issued")) == 1


def test_a_program_brings_its_own_token(open_desk: Desk, release: Any) -> None:
    client, token = open_desk(""), accounts.issue("enno", "predict", 1)
    assert send(client, None, authorization=f"Bearer {token}").status_code == 200
    assert release.seen[-1]["actor"] == "enno"
    refused = send(client, None, authorization="Bearer made-up")
    assert refused.status_code == 401 and refused.headers["content-type"] == "application/problem+json"


def test_without_sign_in_or_token_nothing_is_sent(open_desk: Desk, release: Any) -> None:
    assert send(open_desk(""), None).status_code == 401
    assert send(open_desk("clinician"), None).status_code == 403
    assert send(open_desk("clinician"), "0" * 64).status_code == 403
    auditor = send(open_desk("auditor"), "0" * 64)
    assert auditor.status_code == 403 and "clinicians" in auditor.json()["detail"]
    assert release.seen == []


def test_the_releases_own_words_come_through(open_desk: Desk, csrf: Token, release: Any) -> None:
    release.problem = (422, "scan.png: is not DICOM, NIfTI, PNG or JPEG")
    client = open_desk("clinician")
    answer = send(client, csrf(client, "/"))
    assert (answer.status_code, answer.json()["detail"]) == release.problem


def test_too_large_is_said_before_a_byte_is_passed_on(open_desk: Desk, csrf: Token, release: Any) -> None:
    client = open_desk("clinician")
    answer = send(client, csrf(client, "/"), b"\0" * 2_200_000)
    assert answer.status_code == 413 and "over 1 MB" in answer.json()["detail"] and release.seen == []


def test_a_body_that_hides_its_length_is_cut_off(open_desk: Desk, csrf: Token, release: Any) -> None:
    client = open_desk("clinician")
    headers = {"x-csrf-token": csrf(client, "/"), "content-type": "multipart/form-data; boundary=b"}
    answer = client.post("/api/predict", content=(b"\0" * 100_000 for _ in range(40)), headers=headers)
    assert answer.status_code == 413 and release.seen == []


@pytest.mark.parametrize("length", ["-1", "many"])
@pytest.mark.usefixtures("release")
def test_a_length_that_is_no_number_is_refused(open_desk: Desk, length: str) -> None:
    token = accounts.issue("cleo", "predict", 1)
    headers = {"authorization": f"Bearer {token}", "content-length": length}
    assert open_desk("").post("/api/predict", content=b"", headers=headers).status_code == 400


def test_no_release_is_a_clear_page_and_a_clear_problem(open_desk: Desk, csrf: Token) -> None:
    client = open_desk("clinician")
    page = client.get("/")
    assert page.status_code == 200 and "Nothing can answer yet" in page.text
    answer = send(client, csrf(client, "/"))
    assert (
        answer.status_code == 503
        and "No release is live" in answer.json()["detail"]
        and "retry-after" in answer.headers
    )


def test_a_release_that_is_down_is_said_plainly(open_desk: Desk, csrf: Token) -> None:
    traffic.move(RELEASE, "http://127.0.0.1:9", "system")
    client = open_desk("clinician")
    answer = send(client, csrf(client, "/"))
    assert answer.status_code == 503 and "can't be reached" in answer.json()["detail"]


class Brittle:
    """A release's port behind which a worker dies under the first requests, after it has read them."""

    def __init__(self, deaths: int) -> None:
        self.deaths = deaths
        self.asked: list[tuple[dict[str, str], bytes]] = []
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as stream:
                stream.readline()
                headers: dict[str, str] = {}
                while line := stream.readline().strip().decode():
                    headers |= {line.partition(":")[0].lower(): line.partition(":")[2].strip()}
                self.asked.append((headers, stream.read(int(headers["content-length"]))))
                if len(self.asked) > self.deaths:
                    connection.sendall(b'HTTP/1.1 200 OK\r\ncontent-length: 10\r\nconnection: close\r\n\r\n{"id":"1"}')


@pytest.fixture
def brittle(workspace: Path) -> Iterator[Callable[[int], Brittle]]:
    assert workspace.is_dir()
    made: list[Brittle] = []

    def serve(deaths: int) -> Brittle:
        made.append(Brittle(deaths))
        traffic.move(RELEASE, made[-1].url, "system")
        return made[-1]

    yield serve
    for one in made:
        one.socket.close()


def test_a_worker_that_dies_under_a_request_is_asked_once_more(open_desk: Desk, brittle: Any) -> None:
    worker = brittle(1)
    answer = send(
        open_desk(""), None, b"scan" * 100_000, authorization=f"Bearer {accounts.issue('enno', 'predict', 1)}"
    )
    assert answer.status_code == 200 and answer.json() == {"id": "1"}
    (first, body), (second, again) = worker.asked
    assert body == again and b"scan" * 100_000 in body
    assert first["idempotency-key"] == second["idempotency-key"], "the second try finds the row of the first"
    assert "connection" not in first and second["connection"] == "close", "a kept one may lead to the same dead worker"


def test_a_request_brings_no_more_than_two_workers_down(open_desk: Desk, brittle: Any) -> None:
    worker = brittle(9)
    answer = send(open_desk(""), None, authorization=f"Bearer {accounts.issue('enno', 'predict', 1)}")
    assert answer.status_code == 502 and "broke off" in answer.json()["detail"] and len(worker.asked) == 2


def test_a_program_may_bring_its_own_idempotency_key(open_desk: Desk, release: Any) -> None:
    client, token = open_desk(""), f"Bearer {accounts.issue('enno', 'predict', 1)}"
    for key in ({}, {}, {"idempotency-key": "mine-1"}):
        assert send(client, None, authorization=token, **key).status_code == 200
    seen = [headers["idempotency-key"] for headers in release.headers]
    assert len(set(seen)) == 3 and seen[2] == "mine-1"


def test_an_account_that_was_closed_is_told_so_though_it_was_let_in_just_now(
    open_desk: Desk, csrf: Token, release: Any
) -> None:
    client = open_desk("clinician")
    token = csrf(client, "/")
    assert send(client, token).status_code == 200
    accounts.disable("cleo")
    refused = send(client, token)
    assert refused.status_code == 401 and "not signed in any more" in refused.json()["detail"]
    assert len(release.seen) == 1


def test_what_another_process_decides_is_followed_within_half_a_second(open_desk: Desk, brittle: Any) -> None:
    first, second = brittle(0), Brittle(0)
    client, token = open_desk(""), f"Bearer {accounts.issue('enno', 'predict', 1)}"
    assert send(client, None, authorization=token).status_code == 200 and len(first.asked) == 1
    ledger.append("release.activated", "another", {"url": second.url, "port": 1})
    time.sleep(0.5)
    assert send(client, None, authorization=token).status_code == 200
    assert (len(first.asked), len(second.asked)) == (1, 1)
    second.socket.close()


def test_uploads_that_would_fill_the_memory_together_are_told_to_come_back(open_desk: Desk, release: Any) -> None:
    client, token = open_desk(""), f"Bearer {accounts.issue('enno', 'predict', 1)}"
    room = client.app.state.counter.room  # type: ignore[attr-defined]
    room.most = 300_000
    busy = send(client, None, b"0" * 400_000, authorization=token)
    assert busy.status_code == 503 and busy.headers["retry-after"] == "5" and release.seen == []
    assert room.held == 0 and send(client, None, b"0" * 200_000, authorization=token).status_code == 200
    assert room.held == 0
