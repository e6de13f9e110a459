"""Uploads through the desk to the live release: credentials, size limits, and errors."""

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

from lineage import accounts, site_hash
from lineage.record import ledger
from lineage.record.events import EventKind

Desk = Callable[[str], TestClient]
Token = Callable[..., str]
RELEASE = "0123456789ab"


def send(client: TestClient, token: str | None, content: bytes = b"scan", **headers: str) -> httpx.Response:
    """Upload one file as a page does."""
    all_headers = headers | ({"x-csrf-token": token} if token else {})
    return client.post(
        "/api/predict", files=[("files", ("scan.png", content))], data={"task": "lung-ct"}, headers=all_headers
    )


def test_a_page_sends_in_the_persons_own_name(open_desk: Desk, csrf: Token, release: Any, picture: bytes) -> None:
    client = open_desk("clinician")
    answer = send(client, csrf(client, "/"), picture)
    assert answer.status_code == 200 and answer.json()["answer"] == "malignant"
    assert release.requests == [{"actor": "cleo", "files": [("scan.png", len(picture))], "task": "lung-ct"}]


@pytest.mark.usefixtures("release")
def test_the_desk_issues_one_token_for_several_scans(open_desk: Desk, csrf: Token) -> None:
    client = open_desk("clinician")
    token = csrf(client, "/")
    assert [send(client, token).status_code for _ in range(3)] == [200, 200, 200]
    assert len(ledger.events(kind=EventKind.TOKEN_ISSUED)) == 1


def test_a_program_sends_its_own_token(open_desk: Desk, release: Any) -> None:
    client, token = open_desk(""), accounts.issue("enno", "predict", 1)
    assert send(client, None, authorization=f"Bearer {token}").status_code == 200
    assert release.requests[-1]["actor"] == "enno"
    refused = send(client, None, authorization="Bearer made-up")
    assert refused.status_code == 401 and refused.headers["content-type"] == "application/problem+json"


def test_the_release_gets_the_site_of_the_token_and_none_that_the_sender_claims(
    open_desk: Desk, csrf: Token, release: Any
) -> None:
    client, claim = open_desk(""), {"oncoloop-site": "0" * 32}
    site = site_hash.hash_site("Birch")
    token = accounts.issue("enno", "predict", 1, site=site)
    assert accounts.token_site(token) == site and accounts.token_site("unknown") == ""
    assert send(client, None, authorization=f"Bearer {token}", **claim).status_code == 200
    assert release.headers[-1]["oncoloop-site"] == site
    assert ledger.events(kind=EventKind.TOKEN_ISSUED)[-1].payload["site"] == site
    plain = accounts.issue("enno", "predict", 1)
    assert send(client, None, authorization=f"Bearer {plain}", **claim).status_code == 200
    person = open_desk("clinician")
    assert send(person, csrf(person, "/"), **claim).status_code == 200
    assert all("oncoloop-site" not in headers for headers in release.headers[-2:])


def test_without_sign_in_or_token_nothing_is_forwarded(open_desk: Desk, release: Any) -> None:
    assert send(open_desk(""), None).status_code == 401
    assert send(open_desk("clinician"), None).status_code == 403
    assert send(open_desk("clinician"), "0" * 64).status_code == 403
    auditor = send(open_desk("auditor"), "0" * 64)
    assert auditor.status_code == 403 and "clinicians" in auditor.json()["detail"]
    assert release.requests == []


def test_the_releases_own_error_is_returned(open_desk: Desk, csrf: Token, release: Any) -> None:
    release.problem = (422, "scan.png: is not DICOM, NIfTI, PNG or JPEG")
    client = open_desk("clinician")
    answer = send(client, csrf(client, "/"))
    assert (answer.status_code, answer.json()["detail"]) == release.problem


def test_a_too_large_upload_is_refused_before_it_is_forwarded(open_desk: Desk, csrf: Token, release: Any) -> None:
    client = open_desk("clinician")
    answer = send(client, csrf(client, "/"), b"\0" * 2_200_000)
    assert answer.status_code == 413 and "over 1 MB" in answer.json()["detail"] and release.requests == []


def test_a_too_large_body_without_a_length_is_refused(open_desk: Desk, csrf: Token, release: Any) -> None:
    client = open_desk("clinician")
    headers = {"x-csrf-token": csrf(client, "/"), "content-type": "multipart/form-data; boundary=b"}
    answer = client.post("/api/predict", content=(b"\0" * 100_000 for _ in range(40)), headers=headers)
    assert answer.status_code == 413 and "over 1 MB" in answer.json()["detail"] and release.requests == []


@pytest.mark.parametrize("length", ["-1", "many"])
@pytest.mark.usefixtures("release")
def test_a_length_that_is_not_a_number_is_refused(open_desk: Desk, length: str) -> None:
    token = accounts.issue("cleo", "predict", 1)
    headers = {"authorization": f"Bearer {token}", "content-length": length}
    assert open_desk("").post("/api/predict", content=b"", headers=headers).status_code == 400


def test_without_a_release_there_is_a_page_and_a_problem(open_desk: Desk, csrf: Token) -> None:
    client = open_desk("clinician")
    page = client.get("/")
    assert page.status_code == 200 and "There is no release yet" in page.text
    answer = send(client, csrf(client, "/"))
    assert (
        answer.status_code == 503
        and "No release is live" in answer.json()["detail"]
        and "retry-after" in answer.headers
    )


def test_a_release_that_is_down_is_reported(open_desk: Desk, csrf: Token) -> None:
    ledger.append(EventKind.RELEASE_ACTIVATED, RELEASE, {"url": "http://127.0.0.1:9"})
    client = open_desk("clinician")
    answer = send(client, csrf(client, "/"))
    assert answer.status_code == 503 and "cannot be reached" in answer.json()["detail"]


class CrashingRelease:
    """A release's port whose worker dies during the first requests, after it has read them."""

    def __init__(self, crashes: int) -> None:
        self.crashes = crashes
        self.requests: list[tuple[dict[str, str], bytes]] = []
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
                self.requests.append((headers, stream.read(int(headers["content-length"]))))
                if len(self.requests) > self.crashes:
                    connection.sendall(b'HTTP/1.1 200 OK\r\ncontent-length: 10\r\nconnection: close\r\n\r\n{"id":"1"}')


@pytest.fixture
def crashing_release(workspace: Path) -> Iterator[Callable[[int], CrashingRelease]]:
    assert workspace.is_dir()
    releases: list[CrashingRelease] = []

    def serve(crashes: int) -> CrashingRelease:
        releases.append(CrashingRelease(crashes))
        ledger.append(EventKind.RELEASE_ACTIVATED, RELEASE, {"url": releases[-1].url})
        return releases[-1]

    yield serve
    for release in releases:
        release.socket.close()


def test_a_request_whose_worker_dies_is_sent_once_more(open_desk: Desk, crashing_release: Any) -> None:
    worker = crashing_release(1)
    answer = send(
        open_desk(""), None, b"scan" * 100_000, authorization=f"Bearer {accounts.issue('enno', 'predict', 1)}"
    )
    assert answer.status_code == 200 and answer.json() == {"id": "1"}
    (first, first_body), (second, second_body) = worker.requests
    assert first_body == second_body and b"scan" * 100_000 in first_body
    assert first["idempotency-key"] == second["idempotency-key"], "the second try finds the row of the first"
    assert "connection" not in first and second["connection"] == "close", (
        "a reused one may lead to the same dead worker"
    )


def test_a_request_is_sent_at_most_twice(open_desk: Desk, crashing_release: Any) -> None:
    worker = crashing_release(9)
    answer = send(open_desk(""), None, authorization=f"Bearer {accounts.issue('enno', 'predict', 1)}")
    assert answer.status_code == 502 and "broke off" in answer.json()["detail"] and len(worker.requests) == 2


def test_a_program_may_send_its_own_idempotency_key(open_desk: Desk, release: Any) -> None:
    client, token = open_desk(""), f"Bearer {accounts.issue('enno', 'predict', 1)}"
    for key in ({}, {}, {"idempotency-key": "mine-1"}):
        assert send(client, None, authorization=token, **key).status_code == 200
    sent_keys = [headers["idempotency-key"] for headers in release.headers]
    assert len(set(sent_keys)) == 3 and sent_keys[2] == "mine-1"


def test_a_closed_account_is_refused_although_its_check_is_cached(open_desk: Desk, csrf: Token, release: Any) -> None:
    client = open_desk("clinician")
    token = csrf(client, "/")
    assert send(client, token).status_code == 200
    accounts.disable("cleo")
    refusal = send(client, token)
    assert refusal.status_code == 401 and "not signed in any more" in refusal.json()["detail"]
    assert len(release.requests) == 1


def test_an_activation_by_another_process_takes_effect_within_half_a_second(
    open_desk: Desk, crashing_release: Any
) -> None:
    first, second = crashing_release(0), CrashingRelease(0)
    client, token = open_desk(""), f"Bearer {accounts.issue('enno', 'predict', 1)}"
    assert send(client, None, authorization=token).status_code == 200 and len(first.requests) == 1
    ledger.append(EventKind.RELEASE_ACTIVATED, "another", {"url": second.url, "port": 1})
    time.sleep(0.5)
    assert send(client, None, authorization=token).status_code == 200
    assert (len(first.requests), len(second.requests)) == (1, 1)
    second.socket.close()


def test_uploads_over_the_memory_limit_are_refused_until_later(open_desk: Desk, release: Any) -> None:
    client, token = open_desk(""), f"Bearer {accounts.issue('enno', 'predict', 1)}"
    memory = client.app.state.gateway.memory  # type: ignore[attr-defined]
    memory.limit = 300_000
    busy = send(client, None, b"0" * 400_000, authorization=token)
    assert busy.status_code == 503 and busy.headers["retry-after"] == "5" and release.requests == []
    assert memory.used_bytes == 0 and send(client, None, b"0" * 200_000, authorization=token).status_code == 200
    assert memory.used_bytes == 0
