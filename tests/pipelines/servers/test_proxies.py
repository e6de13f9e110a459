"""The servers of a workspace, all on loopback, are reached without the proxy of the user's environment."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from lineage import mlflow_registry, paths, subprocess_environment
from lineage.errors import Fault
from pipelines.servers import services

PROXY_VARIABLES = (
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "ws_proxy",
    "WS_PROXY",
)
DEAD_PROXY = "http://127.0.0.1:9"  # the discard port: nothing listens there


@pytest.fixture
def address() -> Iterator[str]:
    """A server on loopback that answers everything."""

    class Yes(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"yes")

        def log_message(self, *_arguments: object) -> None:
            """Nothing is printed."""

    server = HTTPServer(("127.0.0.1", 0), Yes)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture(params=[DEAD_PROXY, "socks5://127.0.0.1:9", "socks://proxy.example:1080", "proxy.example:3128"])
def proxied(request: pytest.FixtureRequest, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of a user behind a proxy, after the first step of a command."""
    for name in (*PROXY_VARIABLES, "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name in PROXY_VARIABLES:
        monkeypatch.setenv(name, request.param)
    monkeypatch.setattr(urllib.request, "_opener", None)
    paths.set_environment()


def test_every_http_client_reaches_the_loopback(proxied: None, address: str) -> None:
    import aiohttp
    import httpx
    import requests

    async def by_aiohttp() -> int:
        async with aiohttp.ClientSession(trust_env=True) as session, session.get(address) as response:
            return response.status

    for host in (address, address.replace("127.0.0.1", "localhost")):
        assert services.answers(host)
        assert httpx.get(host, timeout=5).text == "yes"
        assert requests.get(host, timeout=5).text == "yes"
    assert asyncio.run(by_aiohttp()) == 200


def test_websockets_to_the_loopback_use_no_proxy(proxied: None) -> None:
    from websockets.proxy import get_proxy
    from websockets.uri import parse_uri

    assert get_proxy(parse_uri("ws://127.0.0.1:4200/api/events/in")) is None
    assert get_proxy(parse_uri("ws://localhost:4200/api/events/in")) is None


def test_an_mlflow_server_on_loopback_is_reached_directly(proxied: None, address: str) -> None:
    mlflow_registry._check_server(address)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        started_at = time.monotonic()
        with pytest.raises(Fault, match="does not answer"):
            mlflow_registry._check_server(f"http://127.0.0.1:{probe.getsockname()[1]}")
        assert time.monotonic() - started_at < 5


def test_proxy_exceptions_of_the_user_are_kept() -> None:
    environment = subprocess_environment.without_proxy(
        {"NO_PROXY": "intra.example, 10.0.0.0/8", "no_proxy": "localhost,.lan"}
    )
    assert environment["NO_PROXY"] == environment["no_proxy"] == "localhost,.lan,intra.example,10.0.0.0/8,127.0.0.1,::1"
    assert subprocess_environment.without_proxy({"no_proxy": "*"})["NO_PROXY"] == "*"
    assert subprocess_environment.isolated_environment({"HTTPS_PROXY": DEAD_PROXY})["HTTPS_PROXY"] == DEAD_PROXY, (
        "other machines are reached as before"
    )


def test_child_processes_inherit_the_exceptions(proxied: None, address: str) -> None:
    code = f"import urllib.request as r; print(r.urlopen({address!r}, timeout=5).read())"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "yes" in process.stdout
