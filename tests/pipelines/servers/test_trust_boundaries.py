"""Attacks on the servers next to the desk: by a program, by another user, by a page of another origin."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from pipelines.servers import services
from tests.pipelines.conftest import Run, clean_environment

NOBODY = 65534
EVENT = {
    "event": "oncoloop.approval.given",
    "id": "9b2f0d2e-1111-4c1a-8f3e-0123456789ab",
    "occurred": "2026-01-31T12:00:00Z",
    "resource": {"prefect.resource.id": "oncoloop.task.lung-ct"},
    "payload": {"task": "lung-ct", "version": "1", "decision": "approve", "actor": "ines", "reason": "x"},
}


@dataclass
class RunningWorkspace:
    """A workspace with running servers but without a release, with an engineer and an auditor."""

    folder: Path
    run: Run
    port: int

    @property
    def prefect(self) -> str:
        """The address of Prefect."""
        return f"http://127.0.0.1:{self.port + 1}"

    def run_json(self, *arguments: str) -> Any:
        """The JSON result of a command."""
        process = self.run(*arguments, "--json", cwd=self.folder)
        assert process.returncode == 0, process.stderr[-2000:]
        return json.loads(process.stdout)

    def events(self, kind: str) -> list[dict[str, Any]]:
        """Events of the ledger, read directly from the database."""
        import sqlite3

        with sqlite3.connect(self.folder / "var" / "oncoloop.db") as database:
            rows = database.execute("SELECT subject, actor, payload FROM ledger WHERE kind = ? ORDER BY seq", (kind,))
            return [{"subject": row[0], "actor": row[1], **json.loads(row[2])} for row in rows]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, oncoloop: Run) -> Iterator[RunningWorkspace]:
    """The servers of a new workspace."""
    folder = tmp_path_factory.mktemp("house") / "ward"
    assert oncoloop("init", str(folder), cwd=folder.parent).returncode == 0
    port = next(p for p in range(21000, 29000, 20) if not any(services.is_port_in_use(p + n) for n in range(5)))
    workspace = RunningWorkspace(folder, oncoloop, port)
    workspace.run_json("user", "add", "ines", "--role", "engineer")
    workspace.run("signin", workspace.run_json("login", "ines")["link"], cwd=folder)
    workspace.run_json("user", "add", "otto", "--role", "auditor")
    with (folder / "up.log").open("w") as log:
        command = [services.program("oncoloop"), "up", "--port", str(port)]
        up = subprocess.Popen(command, cwd=folder, env=clean_environment(), stdout=log, stderr=log)
    try:
        end = time.monotonic() + 180
        while "everything is up" not in (folder / "up.log").read_text() and time.monotonic() < end:
            time.sleep(0.5)
        yield workspace
    finally:
        up.terminate()
        up.wait(60)


def test_a_start_prints_no_link(running: RunningWorkspace) -> None:
    log = (running.folder / "up.log").read_text()
    assert "oncoloop login ines" in log and "token=" not in log


def test_prefect_answers_nobody_without_its_secret(running: RunningWorkspace) -> None:
    for headers in ({}, {"authorization": "Basic b25jb2xvb3A6"}, {"authorization": "Bearer x"}):
        assert httpx.post(f"{running.prefect}/api/events", json=[EVENT], headers=headers).status_code == 401
        assert httpx.post(f"{running.prefect}/api/deployments/filter", json={}, headers=headers).status_code == 401
        assert httpx.get(f"{running.prefect}/api/admin/settings", headers=headers).status_code == 401
    assert _websocket(running, "/api/events/in") in ("closed", "refused")


def _websocket(running: RunningWorkspace, path: str) -> str:
    """How a web socket ends that connects like a page, with a guessed secret."""
    from websockets.exceptions import ConnectionClosed, InvalidHandshake
    from websockets.sync.client import connect

    address = f"ws://127.0.0.1:{running.port + 1}{path}"
    try:
        with connect(address, subprotocols=["prefect"]) as opened:  # type: ignore[list-item]
            opened.send(json.dumps({"type": "auth", "token": "oncoloop:guess"}))
            return str(opened.recv(timeout=10))
    except ConnectionClosed:
        return "closed"
    except InvalidHandshake:
        return "refused"


def test_nothing_listens_for_mlflow_and_evidently(running: RunningWorkspace) -> None:
    listening = [port for port in range(running.port, running.port + 10) if services.is_port_in_use(port)]
    assert listening == [running.port, running.port + 1, running.port + 3], "desk, Prefect, the tools' pages"


def test_another_user_of_the_machine_opens_nothing(running: RunningWorkspace) -> None:
    """MLflow's socket, keys, database, logs and the sign-in are closed to the shell of another user."""
    setpriv = shutil.which("setpriv")
    if setpriv is None or os.geteuid() != 0:
        pytest.skip("only root can become another user")
    for folder in [running.folder, *running.folder.parents]:  # as in a place that everybody may enter
        if folder == Path("/tmp"):
            break
        folder.chmod(folder.stat().st_mode | 0o055)
    script = 'for path; do if head -c1 "$path" || test -r "$path" || test -w "$path"; then echo OPEN "$path"; fi; done'
    var = running.folder / "var"
    secret_paths = [
        var / "run/mlflow/http.sock",
        var / "oncoloop.db",
        var / "keys/door",
        var / "keys/decision",
        var / f"signed-in-{os.getuid()}" / "session",
        var / "logs/prefect.log",
        var / "prefect/prefect.db",
        var / "mlflow/mlflow.db",
    ]
    assert all(path.exists() for path in secret_paths), [path for path in secret_paths if not path.exists()]
    process = subprocess.run(
        [
            setpriv,
            "--reuid",
            str(NOBODY),
            "--regid",
            str(NOBODY),
            "--clear-groups",
            "/bin/sh",
            "-c",
            script,
            "sh",
            *map(str, secret_paths),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
    )
    assert process.stdout == "" and process.stderr.count("Permission denied") >= len(secret_paths), (
        process.stdout + process.stderr
    )


@pytest.fixture
def secret(running: RunningWorkspace) -> str:
    """Prefect's secret, as if it was stolen."""
    script = "from lineage import keys; print(keys.prefect_secret())"
    environment = clean_environment() | {"ONCOLOOP_HOME": str(running.folder / "var")}
    process = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    return process.stdout.strip()


def accepted_response(call: Callable[[], httpx.Response]) -> httpx.Response:
    """The response to a request, repeated while Prefect is busy and answers 503."""
    deadline = time.monotonic() + 60
    while (response := call()).status_code == 503 and time.monotonic() < deadline:
        time.sleep(1)
    return response.raise_for_status()


def test_a_changed_deployment_runs_no_foreign_code_and_is_recorded(running: RunningWorkspace, secret: str) -> None:
    """Even with the secret, added steps and a changed entry point of a deployment are never executed."""
    user, _, password = secret.partition(":")
    with httpx.Client(base_url=f"{running.prefect}/api", auth=(user, password), timeout=30) as prefect:
        deployments = {
            entry["name"]: entry for entry in prefect.post("/deployments/filter", json={}).json() if entry["entrypoint"]
        }
        target = next(entry for entry in deployments.values() if entry["entrypoint"].endswith("ingest_inbox"))
        mark = running.folder / "planted"
        step = {"prefect.deployments.steps.run_shell_script": {"script": f"touch {mark}"}}
        deployment, deadline = f"/deployments/{target['id']}", time.monotonic() + 120
        accepted_response(lambda: prefect.patch(deployment, json={"pull_steps": [step], "entrypoint": "evil.py:f"}))
        run = accepted_response(
            lambda: prefect.post(f"{deployment}/create_flow_run", json={"state": {"type": "SCHEDULED"}})
        ).json()
        state = ""
        while state not in ("COMPLETED", "FAILED", "CRASHED") and time.monotonic() < deadline:
            state = prefect.get(f"/flow_runs/{run['id']}").json()["state"]["type"]
            time.sleep(1)
        assert state == "COMPLETED" and not mark.exists(), "only our own flow has run"
        while not running.events("deployment.changed") and time.monotonic() < deadline:
            time.sleep(1)
        events = running.events("deployment.changed")
        assert events and events[0]["subject"] == "scheduled ingest/inbox" and "entrypoint" in events[0]["fields"]
        planted = {"name": "old", "flow_id": target["flow_id"], "tags": ["oncoloop"], "entrypoint": "evil.py:f"}
        planted_id = accepted_response(lambda: prefect.post("/deployments/", json=planted)).json()["id"]
        while prefect.get(f"/deployments/{planted_id}").status_code != 404:
            assert time.monotonic() < deadline, "it is removed"
            time.sleep(1)
        while prefect.get(f"/deployments/{target['id']}").json()["entrypoint"] != target["entrypoint"]:
            assert time.monotonic() < deadline, "it is registered again"
            time.sleep(1)


def test_an_event_with_the_secret_decides_nothing(running: RunningWorkspace, secret: str) -> None:
    user, _, password = secret.partition(":")
    with httpx.Client(base_url=f"{running.prefect}/api", auth=(user, password), timeout=30) as prefect:
        accepted_response(lambda: prefect.post("/events", json=[EVENT]))
        deadline = time.monotonic() + 60
        completed: list[Any] = []
        while not completed and time.monotonic() < deadline:
            runs = prefect.post(
                "/flow_runs/filter", json={"flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}}
            ).json()
            flows = {flow["id"]: flow["name"] for flow in prefect.post("/flows/filter", json={}).json()}
            completed = [run for run in runs if flows[run["flow_id"]] == "decide"]
            time.sleep(1)
    assert completed, "the event starts the flow, which finds no signed row"
    assert not running.events("model.promoted") and not running.events("decision.used")


ATTACK = """<!doctype html><title>elsewhere</title><script>
const outcomes = [];
const report = text => { outcomes.push(text); document.title = JSON.stringify(outcomes); };
const requests = %s;
(async () => {
  for (const [url, options] of requests) {
    try { const response = await fetch(url, options); report(`${url} ${response.status} ${response.type}`); }
    catch (error) { report(`${url} blocked`); }
  }
  document.title = "done " + JSON.stringify(outcomes);
})();
</script>"""


@pytest.fixture
def foreign_site() -> Iterator[tuple[str, dict[str, str]]]:
    """A web server of another origin, and its page as a changeable dictionary."""
    content = {"page": ""}

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(content["page"].encode())

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    server = HTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", content
    server.shutdown()


def test_a_link_in_a_web_mail_signs_in(
    running: RunningWorkspace, foreign_site: tuple[str, dict[str, str]], chromium: Any
) -> None:
    """A strict cookie is not sent by a link from another site, and a mail program may open the link first."""
    address, content = foreign_site
    link = running.run_json("login", "otto")["link"].replace("127.0.0.1", "localhost")  # another site than the mail's
    content["page"] = f'<!doctype html><title>mail</title><a href="{link}">Sign in</a>'
    assert httpx.get(link).status_code == 200 == httpx.head(link).status_code, "a mail program opens the link"
    page = chromium.new_context().new_page()
    page.goto(address)
    page.get_by_role("link", name="Sign in").click()
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("link", name="Ledger").click()
    assert page.get_by_role("heading", name="Ledger").is_visible()
    page.context.close()


def test_a_web_page_of_another_origin_does_nothing(
    running: RunningWorkspace, foreign_site: tuple[str, dict[str, str]], chromium: Any
) -> None:
    """In a real browser, with the engineer signed in at the desk and at the tools' pages."""
    address, content = foreign_site
    desk, tools = f"http://127.0.0.1:{running.port}", f"http://127.0.0.1:{running.port + 3}"
    post = {
        "method": "POST",
        "credentials": "include",
        "mode": "no-cors",
        "body": "a=1",
        "headers": {"Content-Type": "application/x-www-form-urlencoded"},
    }
    read = {"credentials": "include"}
    requests = [
        [f"{desk}/decisions", post],
        [f"{desk}/leave", post],
        [f"{desk}/models", read],
        [f"{desk}/tools/prefect", read],
        [f"{running.prefect}/api/deployments/filter", post],
        [f"{running.prefect}/api/events", post],
        [f"{running.prefect}/api/health", read],
        [f"{tools}/api/deployments/filter", post],
        [f"{tools}/ui-settings", read],
        [f"{tools}/mlflow/ajax-api/2.0/mlflow/experiments/search?max_results=5", read],
    ]
    content["page"] = ATTACK % json.dumps(requests)
    context = chromium.new_context()
    page = context.new_page()
    page.goto(running.run_json("login", "ines")["link"])
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(re.compile("/models|/$"))
    page.goto(f"{desk}/tools/prefect")
    page.wait_for_load_state()
    assert page.evaluate("fetch('/api/health').then(response => response.status)") == 200, (
        "signed in at the tools' pages too"
    )
    responses: list[tuple[str, int]] = []
    page.on("response", lambda response: responses.append((response.url, response.status)))
    page.goto(address)
    page.wait_for_function("document.title.startsWith('done')", timeout=30_000)
    outcomes = json.loads(page.title().removeprefix("done "))
    assert [line for line in outcomes if not line.endswith(("blocked", " 0 opaque"))] == [], (
        "the page can read no response"
    )
    refusals = {401, 403}
    statuses = {url.partition("?")[0]: status for url, status in responses if not url.startswith(address)}
    for url, _ in requests:
        assert statuses.get(url.partition("?")[0], 401) in refusals | {200, 303}, (url, statuses)
    for url in (
        f"{desk}/decisions",
        f"{desk}/leave",
        f"{running.prefect}/api/events",
        f"{tools}/api/deployments/filter",
    ):
        assert statuses.get(url, 403) in refusals, url
    page.goto(f"{desk}/models")
    assert page.get_by_role("heading", name="Models").is_visible(), "still signed in: the page did nothing in her name"
    context.close()
    assert not running.events("approval")
