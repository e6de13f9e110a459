"""A shadow gets a copy of each request after the live answer, in its own name, without delaying anybody."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.testclient import TestClient

from desk.traffic import shadow_proxy
from lineage import accounts, decisions
from lineage.record import ledger
from lineage.record.events import EventKind
from tests.desk.conftest import FakeRelease, serve

Desk = Callable[[str], TestClient]


def start_shadow(url: str) -> None:
    """Record what a person and the supervisor record when a version is in shadow."""
    decisions.record(EventKind.SHADOW_STARTED, "lung-ct", {"version": "5", "release": "dark"}, "enno")
    ledger.append(EventKind.SHADOW_SERVED, "lung-ct", {"version": "5", "release": "dark", "url": url})


@pytest.fixture
def shadow(release: FakeRelease) -> Iterator[FakeRelease]:
    """A second release over HTTP, in shadow."""
    assert release.requests == []
    accounts.add(accounts.SHADOW_ACCOUNT, "engineer")
    shadow_release = FakeRelease()
    for url in serve(Starlette(routes=[Route("/predict", shadow_release.predict, methods=["POST"])])):
        start_shadow(url)
        yield shadow_release


@pytest.fixture
def client(open_desk: Desk) -> TestClient:
    client = open_desk("")
    client.headers["authorization"] = f"Bearer {accounts.issue('cleo', 'predict', 1)}"
    return client


def send(client: TestClient, content: bytes = b"scan") -> Any:
    return client.post("/api/predict", files=[("files", ("a.dcm", content))], data={"task": "lung-ct"})


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert condition()


def shadow_queue(client: TestClient) -> shadow_proxy.ShadowQueue:
    return client.app.state.gateway.shadow_queue  # type: ignore[attr-defined,no-any-return]


def test_the_shadow_gets_the_same_request_in_its_own_name(
    shadow: FakeRelease, release: FakeRelease, client: TestClient
) -> None:
    answer = send(client, b"scan" * 50_000).json()
    wait_until(lambda: shadow_queue(client).answered == 1)
    assert (
        shadow.requests[0] | {"actor": ""} == release.requests[0] | {"actor": ""}
        and shadow.requests[0]["actor"] == accounts.SHADOW_ACCOUNT
    )
    assert shadow.headers[0]["shadows"] == shadow.headers[0]["idempotency-key"] == answer["id"]
    assert "oncoloop-site" not in shadow.headers[0]
    assert "cookie" not in shadow.headers[0] and release.headers[0].get("shadows") is None
    assert (shadow_queue(client).queued, shadow_queue(client).queued_bytes) == (0, 0)


def test_a_refused_request_is_not_sent_to_the_shadow(
    shadow: FakeRelease, release: FakeRelease, client: TestClient
) -> None:
    release.problem = (422, "not a scan")
    assert send(client).status_code == 422
    release.problem = None
    assert send(client).status_code == 200
    wait_until(lambda: len(shadow.requests) == 1)


def test_answers_of_other_tasks_are_not_sent_to_the_shadow(
    shadow: FakeRelease, release: FakeRelease, client: TestClient
) -> None:
    release.changes = {"task": "pancreas-ct"}
    assert send(client).status_code == 200
    release.changes = {}
    answer = send(client).json()
    wait_until(lambda: len(shadow.requests) == 1)
    assert shadow.headers[0]["shadows"] == answer["id"]


@pytest.mark.usefixtures("release")
def test_a_shadow_that_is_down_does_not_disturb_live_answers(client: TestClient) -> None:
    accounts.add(accounts.SHADOW_ACCOUNT, "engineer")
    start_shadow("http://127.0.0.1:9")
    time.sleep(0.5)
    assert [send(client).status_code for _ in range(3)] == [200, 200, 200]
    wait_until(lambda: shadow_queue(client).failed == 3 and shadow_queue(client).queued == 0)
    assert shadow_queue(client).queued_bytes == 0


def test_a_request_that_exceeds_the_queue_is_dropped_and_counted(
    shadow: FakeRelease, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shadow_proxy, "MAX_QUEUED_BYTES", 1000)
    assert send(client, b"0" * 2000).status_code == 200 and send(client, b"0").status_code == 200
    wait_until(lambda: len(shadow.requests) == 1)
    assert shadow_queue(client).dropped == 1 and shadow.requests[0]["files"] == [("a.dcm", 1)]


def test_the_shadow_gets_the_site_of_the_sender(shadow: FakeRelease, client: TestClient) -> None:
    client.headers["authorization"] = f"Bearer {accounts.issue('cleo', 'predict', 1, site='5f' * 16)}"
    send(client)
    wait_until(lambda: shadow_queue(client).answered == 1)
    assert shadow.headers[0]["oncoloop-site"] == "5f" * 16
