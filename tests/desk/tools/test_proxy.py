"""Prefect's and MLflow's pages behind the desk: who reaches them, what may be asked there, what they are told."""

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
    """A server in the tool's place, which keeps what it was asked."""

    def __init__(self) -> None:
        self.seen: list[Request] = []

    async def answer(self, request: Request) -> Response:
        """Whatever is asked."""
        await request.body()
        self.seen.append(request)
        if request.url.path == "/ui-settings":
            return JSONResponse({"api_url": "http://127.0.0.1:7801/api", "auth": "BASIC", "flags": []})
        if request.url.path == "/moved":
            return RedirectResponse("http://127.0.0.1:7801/v2/dashboard?a=1")
        headers = {"set-cookie": "a=b", "access-control-allow-origin": "*", "x-secret": "1"}
        return JSONResponse({"path": request.url.path}, headers=headers)


@pytest.fixture
def prefect(workspace: Path) -> Iterator[Tool]:
    """Prefect's place, and that of the tools' own origin in the files that say where things answer."""
    tool, run = Tool(), workspace / "run"
    run.mkdir(exist_ok=True)
    every = ["GET", "POST", "PUT", "PATCH", "DELETE"]
    for url in serve(Starlette(routes=[Route("/{path:path}", tool.answer, methods=every)])):
        (run / "prefect.json").write_text(json.dumps({"url": url}))
        (run / "mlflow.json").write_text(json.dumps({"url": ""}))
        (run / "tools.json").write_text(json.dumps({"url": "http://127.0.0.1:7803"}))
        yield tool


@pytest.fixture
def page(prefect: Tool, open_desk: Desk) -> Iterator[Callable[[str], TestClient]]:
    """A browser at the tools' origin, which came over from the desk."""
    assert prefect.seen == []
    opened = []

    def come(role: str) -> TestClient:
        client = TestClient(proxy.create(), base_url="http://testserver:7803", follow_redirects=False)
        client.__enter__()
        opened.append(client)
        if role:
            over = open_desk(role).get("/tools/prefect")
            assert over.status_code == 303, over.text
            assert client.get(over.headers["location"]).headers["location"] == "/"
        return client

    yield come
    for client in opened:
        client.__exit__(None, None, None)


def test_the_way_over_is_for_readers_and_works_once(prefect: Tool, open_desk: Desk, page: Desk) -> None:
    assert open_desk("clinician").get("/tools/prefect").status_code == 403
    assert open_desk("").get("/tools/prefect").headers["location"] == "/signin"
    assert open_desk("auditor").get("/tools/vault").status_code == 404
    over = open_desk("engineer").get("/tools/mlflow").headers["location"]
    parts = urlsplit(over)
    assert (parts.hostname, parts.port, parse_qs(parts.query)["to"]) == ("testserver", 7803, ["mlflow"])
    client = page("")
    came = client.get(over)
    assert (
        came.headers["location"] == "/mlflow/#/experiments" and "samesite=strict" in came.headers["set-cookie"].lower()
    )
    assert "httponly" in came.headers["set-cookie"].lower()
    client.cookies.clear()
    assert client.get(over).status_code == 403 and client.get("/enter").status_code == 403


def test_without_its_cookie_nothing_reaches_the_tool(prefect: Tool, open_desk: Desk, page: Desk) -> None:
    client, desk = page(""), open_desk("engineer")
    for value in ("", "x", *desk.cookies.values(), sessions.begin("enno", sessions.TICKET)):
        client.cookies.set(proxy.COOKIE, value)
        assert client.get("/api/health").status_code == 401
    assert prefect.seen == []


def test_the_tool_gets_its_secret_and_nothing_of_the_person(prefect: Tool, page: Desk) -> None:
    client = page("engineer")
    told = client.get("/api/flows/x?a=1%202", headers={"authorization": "Bearer mine", "x-forwarded-for": "1.2.3.4"})
    assert told.status_code == 200 and told.json() == {"path": "/api/flows/x"}
    [asked] = prefect.seen
    assert asked.headers["authorization"] == "Basic " + base64.b64encode(keys.prefect_secret().encode()).decode()
    assert "cookie" not in asked.headers and "x-forwarded-for" not in asked.headers
    assert dict(asked.query_params) == {"a": "1 2"}
    assert not {"set-cookie", "access-control-allow-origin", "x-secret"} & set(told.headers)
    assert "connect-src 'self'" in told.headers["content-security-policy"]
    assert keys.prefect_secret() not in told.text + str(told.headers)


def test_prefects_page_asks_here_and_wants_no_sign_in_of_its_own(page: Desk) -> None:
    told = page("auditor").get("/ui-settings").json()
    assert told == {"api_url": "http://testserver:7803/api", "auth": None, "flags": []}


def test_a_redirect_stays_here(page: Desk) -> None:
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
def test_a_page_of_another_origin_is_refused_the_desks_own_too(
    prefect: Tool, page: Desk, headers: dict[str, str]
) -> None:
    client = page("engineer")
    for ask in (client.get, client.post):
        assert ask("/api/flows/filter", headers=headers).status_code == 403
    assert prefect.seen == []
    came = client.get("/dashboard", headers={"sec-fetch-site": "same-site", "sec-fetch-mode": "navigate"})
    assert came.status_code == 200, "but the desk's link opens a page"


def test_reading_and_the_little_that_engineers_write(prefect: Tool, page: Desk) -> None:
    engineer, auditor = page("engineer"), page("auditor")
    assert engineer.post("/api/flow_runs/filter", json={}).status_code == 200
    assert auditor.post("/api/flow_runs/filter", json={}).status_code == 200
    assert engineer.post(f"/api/deployments/{RUN}/pause_deployment").status_code == 200
    seen = len(prefect.seen)
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
    assert len(prefect.seen) == seen


def test_the_session_here_ends_with_that_of_the_desk(open_desk: Desk, page: Desk, csrf: Callable[..., str]) -> None:
    client, other = page("engineer"), page("engineer")
    assert client.get("/api/health").status_code == 200
    desk = open_desk("engineer")
    desk.post("/leave", data={"csrf": csrf(desk, "/models")})
    assert {each.get("/api/health").status_code for each in (client, other)} == {401}
    late = page("engineer")
    accounts.disable("enno")
    assert late.get("/api/health").status_code == 401


def test_a_tool_that_does_not_answer_is_told(page: Desk, workspace: Path) -> None:
    client = page("engineer")
    (workspace / "run" / "prefect.json").write_text(json.dumps({"url": "http://127.0.0.1:1"}))
    assert client.get("/api/health").status_code == 502 == client.get("/mlflow/").status_code
    (workspace / "run" / "prefect.json").unlink()
    assert client.get("/api/health").status_code == 502


def test_a_long_path_has_an_address_all_the_same(tmp_path: Path) -> None:
    folder = tmp_path / ("a" * 100)
    folder.mkdir()
    assert len(paths.socket_address(folder / "http.sock")) <= paths.SOCKET_BYTES
    assert paths.socket_address(Path("/tmp/http.sock")) == "/tmp/http.sock"


def prefect_routes() -> set[tuple[str, str]]:
    """Every route that the installed Prefect server describes, with ids in their places."""
    from prefect.server.api.server import create_app

    described = TestClient(create_app(ephemeral=True)).get("/api/openapi.json").json()["paths"]
    named = {path: re.sub(r"\{[a-z_]*id\}", RUN, path) for path in described}
    return {
        (method.upper(), "/api" + re.sub(r"\{[^}]*\}", "name", named[path]))
        for path, methods in described.items()
        for method in methods
    }


WRITTEN = re.compile(r"create|update|delete|set_|bulk|increment|decrement|reset|resume|pause|schedule|renew|install")


@pytest.mark.filterwarnings("ignore")
def test_every_route_of_prefect_that_an_auditor_may_ask_reads(home: Path) -> None:
    asked = prefect_routes()
    assert len(asked) > 150
    posts = {path for method, path in asked if method == "POST" and allowed_routes.may_ask("auditor", method, path)}
    assert len(posts) > 30
    assert not [path for path in posts if WRITTEN.search(path)]
    assert not [
        one for one in asked if one[0] not in ("GET", "HEAD", "POST") and allowed_routes.may_ask("engineer", *one)
    ]
    more = {
        path for method, path in asked if method == "POST" and allowed_routes.may_ask("engineer", method, path)
    } - posts
    assert {path.rpartition("/")[2] for path in more} == {"set_state", "pause_deployment", "resume_deployment"}
    assert not any(allowed_routes.may_ask("clinician", *one) for one in asked)


def test_every_route_of_mlflow_that_may_be_asked_reads() -> None:
    from mlflow.server.handlers import get_endpoints

    routes = {
        (method, re.sub(r"<[^>]*>", "x", f"/mlflow{path}"))
        for path, _, methods in get_endpoints()
        for method in methods
    }
    posts = {path for method, path in routes if method == "POST" and allowed_routes.may_ask("engineer", method, path)}
    assert posts >= {"/mlflow/ajax-api/2.0/mlflow/runs/search", "/mlflow/ajax-api/2.0/mlflow/experiments/search"}
    reads = re.compile(r"search|get-latest-versions|metrics|batchGetInfos|correlation|graphql")
    assert not [path for path in posts if not reads.search(path)]
    assert not [
        one for one in routes if one[0] not in ("GET", "HEAD", "POST") and allowed_routes.may_ask("engineer", *one)
    ]
    assert not any(allowed_routes.may_ask("clinician", *one) for one in routes)
