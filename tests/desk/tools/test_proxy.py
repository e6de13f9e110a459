"""The proxy for Prefect's and MLflow's pages: sign-in, allowed routes, and the headers in both directions."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from desk.tools import allowed_routes, proxy
from lineage import accounts, keys, paths, sessions
from tests.desk.conftest import serve

Desk = Callable[[str], TestClient]
RUN = "9b2f0d2e-1111-4c1a-8f3e-0123456789ab"


class Tool:
    """A fake server of a tool, which records its requests."""

    def __init__(self) -> None:
        self.requests: list[Request] = []

    async def answer(self, request: Request) -> Response:
        """Answer any request."""
        await request.body()
        self.requests.append(request)
        if request.url.path == "/ui-settings":
            return JSONResponse({"api_url": "http://127.0.0.1:7801/api", "auth": "BASIC", "flags": []})
        if request.url.path == "/moved":
            return RedirectResponse("http://127.0.0.1:7801/v2/dashboard?a=1")
        headers = {"set-cookie": "a=b", "access-control-allow-origin": "*", "x-secret": "1"}
        return JSONResponse({"path": request.url.path}, headers=headers)


@pytest.fixture
def prefect(workspace: Path) -> Iterator[Tool]:
    """A fake Prefect, and the files with the addresses of Prefect, MLflow and the proxy."""
    tool, run = Tool(), workspace / "run"
    run.mkdir(exist_ok=True)
    methods = ["GET", "POST", "PUT", "PATCH", "DELETE"]
    for url in serve(Starlette(routes=[Route("/{path:path}", tool.answer, methods=methods)])):
        (run / "prefect.json").write_text(json.dumps({"url": url}))
        (run / "mlflow.json").write_text(json.dumps({"url": ""}))
        (run / "tools.json").write_text(json.dumps({"url": "http://127.0.0.1:7803"}))
        yield tool


@pytest.fixture
def page(prefect: Tool, open_desk: Desk) -> Iterator[Callable[[str], TestClient]]:
    """A browser at the proxy's origin, signed in from the desk."""
    assert prefect.requests == []
    clients = []

    def open_page(role: str) -> TestClient:
        client = TestClient(proxy.create(), base_url="http://testserver:7803", follow_redirects=False)
        client.__enter__()
        clients.append(client)
        if role:
            redirect = open_desk(role).get("/tools/prefect")
            assert redirect.status_code == 303, redirect.text
            assert client.get(redirect.headers["location"]).headers["location"] == "/"
        return client

    yield open_page
    for client in clients:
        client.__exit__(None, None, None)


def test_the_link_from_the_desk_is_for_readers_and_works_once(prefect: Tool, open_desk: Desk, page: Desk) -> None:
    assert open_desk("clinician").get("/tools/prefect").status_code == 403
    assert open_desk("").get("/tools/prefect").headers["location"] == "/signin"
    assert open_desk("auditor").get("/tools/vault").status_code == 404
    link = open_desk("engineer").get("/tools/mlflow").headers["location"]
    parts = urlsplit(link)
    assert (parts.hostname, parts.port, parse_qs(parts.query)["to"]) == ("testserver", 7803, ["mlflow"])
    client = page("")
    response = client.get(link)
    cookie = response.headers["set-cookie"].lower()
    assert response.headers["location"] == "/mlflow/#/experiments" and "samesite=strict" in cookie
    assert "httponly" in cookie
    client.cookies.clear()
    assert client.get(link).status_code == 403 and client.get("/enter").status_code == 403


def test_without_the_proxys_cookie_no_request_reaches_the_tool(prefect: Tool, open_desk: Desk, page: Desk) -> None:
    client, desk = page(""), open_desk("engineer")
    for value in ("", "x", *desk.cookies.values(), sessions.begin("enno", sessions.TICKET)):
        client.cookies.set(proxy.COOKIE, value)
        assert client.get("/api/health").status_code == 401
    assert prefect.requests == []


def test_the_tool_gets_its_secret_and_no_headers_of_the_person(prefect: Tool, page: Desk) -> None:
    client = page("engineer")
    headers = {"authorization": "Bearer mine", "x-forwarded-for": "1.2.3.4"}
    response = client.get("/api/flows/x?a=1%202", headers=headers)
    assert response.status_code == 200 and response.json() == {"path": "/api/flows/x"}
    [request] = prefect.requests
    assert request.headers["authorization"] == "Basic " + base64.b64encode(keys.prefect_secret().encode()).decode()
    assert "cookie" not in request.headers and "x-forwarded-for" not in request.headers
    assert dict(request.query_params) == {"a": "1 2"}
    assert not {"set-cookie", "access-control-allow-origin", "x-secret"} & set(response.headers)
    assert "connect-src 'self'" in response.headers["content-security-policy"]
    assert keys.prefect_secret() not in response.text + str(response.headers)


def test_prefects_page_uses_the_proxy_and_needs_no_second_sign_in(page: Desk) -> None:
    settings = page("auditor").get("/ui-settings").json()
    assert settings == {"api_url": "http://testserver:7803/api", "auth": None, "flags": []}


def test_a_redirect_of_a_tool_stays_at_the_proxy(page: Desk) -> None:
    assert page("engineer").get("/moved").headers["location"] == "/v2/dashboard?a=1"


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:7800"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site", "sec-fetch-mode": "no-cors"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"},
    ],
)
def test_requests_from_pages_of_other_origins_are_refused_also_from_the_desk(
    prefect: Tool, page: Desk, headers: dict[str, str]
) -> None:
    client = page("engineer")
    for ask in (client.get, client.post):
        assert ask("/api/flows/filter", headers=headers).status_code == 403
    assert prefect.requests == []
    opened = client.get("/dashboard", headers={"sec-fetch-site": "same-site", "sec-fetch-mode": "navigate"})
    assert opened.status_code == 200, "but a link of the desk opens a page"


def test_readers_read_and_engineers_write_only_the_allowed_routes(prefect: Tool, page: Desk) -> None:
    engineer, auditor = page("engineer"), page("auditor")
    assert engineer.post("/api/flow_runs/filter", json={}).status_code == 200
    assert auditor.post("/api/flow_runs/filter", json={}).status_code == 200
    assert engineer.post(f"/api/deployments/{RUN}/pause_deployment").status_code == 200
    request_count = len(prefect.requests)
    assert auditor.post(f"/api/deployments/{RUN}/pause_deployment").status_code == 403
    for method, path in (
        ("PATCH", f"/api/deployments/{RUN}"),
        ("POST", "/api/events"),
        ("POST", "/api/deployments/"),
        ("DELETE", f"/api/flow_runs/{RUN}"),
        ("POST", f"/api/deployments/{RUN}/create_flow_run"),
        ("POST", "/api/automations/"),
        ("POST", "/api/work_pools/"),
        ("POST", "/api/block_documents/filter"),
        ("PUT", "/mlflow/api/2.0/mlflow-artifacts/artifacts/x"),
        ("POST", "/api//events"),
        ("POST", "/api/events/filter/..%2f"),
        ("POST", "/api/flows/filter%00"),
        ("GET", "/api/block_documents/" + RUN),
    ):
        assert engineer.request(method, path).status_code == 403, (method, path)
    assert engineer.get("/api/flows/x?include_secrets=true").status_code == 403
    assert len(prefect.requests) == request_count


def test_the_proxys_session_ends_with_that_of_the_desk(open_desk: Desk, page: Desk, csrf: Callable[..., str]) -> None:
    first, second = page("engineer"), page("engineer")
    assert first.get("/api/health").status_code == 200
    desk = open_desk("engineer")
    desk.post("/leave", data={"csrf": csrf(desk, "/models")})
    assert {client.get("/api/health").status_code for client in (first, second)} == {401}
    late = page("engineer")
    accounts.disable("enno")
    assert late.get("/api/health").status_code == 401


def test_a_tool_that_does_not_answer_is_reported(page: Desk, workspace: Path) -> None:
    client = page("engineer")
    (workspace / "run" / "prefect.json").write_text(json.dumps({"url": "http://127.0.0.1:1"}))
    assert client.get("/api/health").status_code == 502 == client.get("/mlflow/").status_code
    (workspace / "run" / "prefect.json").unlink()
    assert client.get("/api/health").status_code == 502


def test_a_long_path_has_a_short_socket_address(tmp_path: Path) -> None:
    folder = tmp_path / ("a" * 100)
    folder.mkdir()
    assert len(paths.socket_address(folder / "http.sock")) <= paths.SOCKET_BYTES
    assert paths.socket_address(Path("/tmp/http.sock")) == "/tmp/http.sock"


def prefect_routes() -> set[tuple[str, str]]:
    """Every route that the installed Prefect server documents, with an id for each id parameter."""
    from prefect.server.api.server import create_app

    described = TestClient(create_app(ephemeral=True)).get("/api/openapi.json").json()["paths"]
    with_ids = {path: re.sub(r"\{[a-z_]*id\}", RUN, path) for path in described}
    return {
        (method.upper(), "/api" + re.sub(r"\{[^}]*\}", "name", with_ids[path]))
        for path, methods in described.items()
        for method in methods
    }


WRITING_ROUTES = re.compile(
    r"create|update|delete|set_|bulk|increment|decrement|reset|resume|pause|schedule|renew|install"
)


def allowed_posts(role: str, routes: set[tuple[str, str]]) -> set[str]:
    """The paths to which a role may send a POST request."""
    return {path for method, path in routes if method == "POST" and allowed_routes.is_allowed(role, method, path)}


def allowed_writes(role: str, routes: set[tuple[str, str]]) -> list[tuple[str, str]]:
    """The routes with a writing method that a role may use."""
    writes = [route for route in routes if route[0] not in ("GET", "HEAD", "POST")]
    return [route for route in writes if allowed_routes.is_allowed(role, *route)]


@pytest.mark.filterwarnings("ignore")
def test_every_route_of_prefect_that_an_auditor_may_use_only_reads(home: Path) -> None:
    routes = prefect_routes()
    assert len(routes) > 150
    posts = allowed_posts("auditor", routes)
    assert len(posts) > 30
    assert not [path for path in posts if WRITING_ROUTES.search(path)]
    assert not allowed_writes("engineer", routes)
    engineer_posts = allowed_posts("engineer", routes) - posts
    assert {path.rpartition("/")[2] for path in engineer_posts} == {
        "set_state",
        "pause_deployment",
        "resume_deployment",
    }
    assert not any(allowed_routes.is_allowed("clinician", *route) for route in routes)


def test_every_allowed_route_of_mlflow_only_reads() -> None:
    from mlflow.server.handlers import get_endpoints

    routes = {
        (method, re.sub(r"<[^>]*>", "x", f"/mlflow{path}"))
        for path, _, methods in get_endpoints()
        for method in methods
    }
    posts = allowed_posts("engineer", routes)
    assert posts >= {"/mlflow/ajax-api/2.0/mlflow/runs/search", "/mlflow/ajax-api/2.0/mlflow/experiments/search"}
    reads = re.compile(r"search|get-latest-versions|metrics|batchGetInfos|correlation|graphql")
    assert not [path for path in posts if not reads.search(path)]
    assert not allowed_writes("engineer", routes)
    assert not any(allowed_routes.is_allowed("clinician", *route) for route in routes)
