"""Events to Prefect: an event counts as sent only if the server accepted it, and no proxy is used on loopback."""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

import httpx
import pytest
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

from lineage import subprocess_environment
from pipelines.flows import deployments

DEAD_PROXY = "http://127.0.0.1:9"  # the discard port: nothing listens there
PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")
SECRET = "admin:a-secret"


@dataclass
class EventServer:
    """A server with the address of Prefect's API: the status of its answers, and the events that it received."""

    url: str
    status: int = 204
    paths: list[str] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    authorizations: list[str] = field(default_factory=list)


@pytest.fixture
def event_server() -> Iterator[EventServer]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            state.paths.append(self.path)
            state.events.extend(json.loads(content))
            state.authorizations.append(self.headers["Authorization"])
            self.send_response(state.status)
            self.end_headers()

        def do_GET(self) -> None:
            """Prefect's client asks for a CSRF token first. This server has none."""
            self.send_response(404)
            self.end_headers()

        def log_message(self, *_arguments: object) -> None:
            """Nothing is printed."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    state = EventServer(f"http://127.0.0.1:{server.server_port}/api")
    Thread(target=server.serve_forever, daemon=True).start()
    with temporary_settings({PREFECT_API_URL: state.url, PREFECT_API_AUTH_STRING: SECRET}):
        yield state
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def proxy_environment(home: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of a command whose user works behind a proxy."""
    for name in PROXY_VARIABLES:
        monkeypatch.setenv(name, DEAD_PROXY)
    for name, value in subprocess_environment.without_proxy({}).items():
        monkeypatch.setenv(name, value)


def test_an_accepted_event_names_its_task_and_carries_the_secret(event_server: EventServer) -> None:
    deployments.emit_task_event(deployments.APPROVAL_EVENT, {"task": "lung-ct"})
    [event] = event_server.events
    assert event_server.paths == ["/api/events"]
    assert (event["event"], event["payload"]) == (deployments.APPROVAL_EVENT, {"task": "lung-ct"})
    assert event["resource"]["prefect.resource.id"] == "oncoloop.task.lung-ct"
    assert event_server.authorizations == [f"Basic {base64.b64encode(SECRET.encode()).decode()}"]


@pytest.mark.parametrize("status", [401, 422, 500])
def test_a_refused_event_raises(event_server: EventServer, status: int) -> None:
    event_server.status = status
    with pytest.raises(httpx.HTTPStatusError):
        deployments.emit_task_event(deployments.RETRAIN_EVENT, {"task": "lung-ct"})
    assert len(event_server.events) == 1


def test_an_unreachable_server_raises() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}/api"
        with temporary_settings({PREFECT_API_URL: url}), pytest.raises(httpx.ConnectError):
            deployments.emit_task_event(deployments.RETRAIN_EVENT, {"task": "lung-ct"})
