"""A shadow is asked behind the live release: after the answer has left, in its own name, in nobody's way."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.testclient import TestClient

from desk.traffic import shadow_proxy
from lineage import accounts
from lineage.record import ledger
from tests.desk.conftest import Answering, serve

Desk = Callable[[str], TestClient]


@pytest.fixture
def dark(release: Answering) -> Iterator[Answering]:
    """A second release over HTTP, in shadow behind the live one."""
    assert release.seen == []
    accounts.add(accounts.SHADOW_ACCOUNT, "engineer")
    answering = Answering()
    for url in serve(Starlette(routes=[Route("/predict", answering.predict, methods=["POST"])])):
        ledger.append("shadow.served", "lung-ct", {"version": "5", "release": "dark", "url": url})
        yield answering


@pytest.fixture
def client(open_desk: Desk) -> TestClient:
    made = open_desk("")
    made.headers["authorization"] = f"Bearer {accounts.issue('cleo', 'predict', 1)}"
    return made


def send(client: TestClient, content: bytes = b"scan") -> Any:
    return client.post("/api/predict", files=[("files", ("a.dcm", content))], data={"task": "lung-ct"})


def until(found: Callable[[], object]) -> None:
    end = time.monotonic() + 10
    while not found() and time.monotonic() < end:
        time.sleep(0.02)
    assert found()


def behind(client: TestClient) -> shadow_proxy.Behind:
    return client.app.state.counter.behind  # type: ignore[attr-defined,no-any-return]


def test_the_shadow_is_asked_the_same_in_its_own_name(dark: Answering, release: Answering, client: TestClient) -> None:
    said = send(client, b"scan" * 50_000).json()
    until(lambda: behind(client).handed_on == 1)
    assert (
        dark.seen[0] | {"actor": ""} == release.seen[0] | {"actor": ""}
        and dark.seen[0]["actor"] == accounts.SHADOW_ACCOUNT
    )
    assert dark.headers[0]["shadows"] == dark.headers[0]["idempotency-key"] == said["id"]
    assert "cookie" not in dark.headers[0] and release.headers[0].get("shadows") is None
    assert (behind(client).waiting, behind(client).held) == (0, 0)


def test_what_was_refused_has_no_shadow(dark: Answering, release: Answering, client: TestClient) -> None:
    release.problem = (422, "not a scan")
    assert send(client).status_code == 422
    release.problem = None
    assert send(client).status_code == 200
    until(lambda: len(dark.seen) == 1)


def test_the_answers_of_other_tasks_have_none(dark: Answering, release: Answering, client: TestClient) -> None:
    release.changes = {"task": "pancreas-ct"}
    assert send(client).status_code == 200
    release.changes = {}
    said = send(client).json()
    until(lambda: len(dark.seen) == 1)
    assert dark.headers[0]["shadows"] == said["id"]


@pytest.mark.usefixtures("release")
def test_a_shadow_that_is_down_is_in_nobodys_way(client: TestClient) -> None:
    accounts.add(accounts.SHADOW_ACCOUNT, "engineer")
    ledger.append("shadow.served", "lung-ct", {"version": "5", "release": "dark", "url": "http://127.0.0.1:9"})
    time.sleep(0.5)
    assert [send(client).status_code for _ in range(3)] == [200, 200, 200]
    until(lambda: behind(client).failed == 3 and behind(client).waiting == 0)
    assert behind(client).held == 0


def test_what_finds_no_room_is_left_out_and_counted(
    dark: Answering, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shadow_proxy, "BYTES", 1000)
    assert send(client, b"0" * 2000).status_code == 200 and send(client, b"0").status_code == 200
    until(lambda: len(dark.seen) == 1)
    assert behind(client).dropped == 1 and dark.seen[0]["files"] == [("a.dcm", 1)]
