"""What stands beside the desk, attacked from outside: by a program, by another user, by a page of another origin."""

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
from tests.pipelines.conftest import Run, clean

NOBODY = 65534
EVENT = {
    "event": "oncoloop.approval.given",
    "id": "9b2f0d2e-1111-4c1a-8f3e-0123456789ab",
    "occurred": "2026-01-31T12:00:00Z",
    "resource": {"prefect.resource.id": "oncoloop.task.lung-ct"},
    "payload": {"task": "lung-ct", "version": "1", "decision": "approve", "actor": "ines", "reason": "x"},
}


@dataclass
class House:
    """A workspace with its servers but a release, an engineer and an auditor, and the ports it uses."""

    folder: Path
    run: Run
    port: int

    @property
    def prefect(self) -> str:
        """Prefect's own address."""
        return f"http://127.0.0.1:{self.port + 1}"

    def say(self, *arguments: str) -> Any:
        """The JSON result of a command."""
        done = self.run(*arguments, "--json", cwd=self.folder)
        assert done.returncode == 0, done.stderr[-2000:]
        return json.loads(done.stdout)

    def events(self, kind: str) -> list[dict[str, Any]]:
        """Rows of the ledger, read past the program."""
        import sqlite3

        with sqlite3.connect(self.folder / "var" / "oncoloop.db") as database:
            rows = database.execute("SELECT subject, actor, payload FROM ledger WHERE kind = ? ORDER BY seq", (kind,))
            return [{"subject": row[0], "actor": row[1], **json.loads(row[2])} for row in rows]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, oncoloop: Run) -> Iterator[House]:
    """The servers of a new workspace."""
    folder = tmp_path_factory.mktemp("house") / "ward"
    assert oncoloop("init", str(folder), cwd=folder.parent).returncode == 0
    port = next(p for p in range(21000, 29000, 20) if not any(services.taken(p + n) for n in range(5)))
    made = House(folder, oncoloop, port)
    made.say("user", "add", "ines", "--role", "engineer")
    made.run("signin", made.say("login", "ines")["link"], cwd=folder)
    made.say("user", "add", "otto", "--role", "auditor")
    with (folder / "up.log").open("w") as log:
        command = [services.program("oncoloop"), "up", "--port", str(port)]
        up = subprocess.Popen(command, cwd=folder, env=clean(), stdout=log, stderr=log)
    try:
        end = time.monotonic() + 180
        while "everything is up" not in (folder / "up.log").read_text() and time.monotonic() < end:
            time.sleep(0.5)
        yield made
    finally:
        up.terminate()
        up.wait(60)


def test_a_start_prints_no_link(house: House) -> None:
    told = (house.folder / "up.log").read_text()
    assert "oncoloop login ines" in told and "token=" not in told


def test_prefect_answers_nobody_without_its_secret(house: House) -> None:
    for headers in ({}, {"authorization": "Basic b25jb2xvb3A6"}, {"authorization": "Bearer x"}):
        assert httpx.post(f"{house.prefect}/api/events", json=[EVENT], headers=headers).status_code == 401
        assert httpx.post(f"{house.prefect}/api/deployments/filter", json={}, headers=headers).status_code == 401
        assert httpx.get(f"{house.prefect}/api/admin/settings", headers=headers).status_code == 401
    assert _websocket(house, "/api/events/in") in ("closed", "refused")


def _websocket(house: House, path: str) -> str:
    """How a web socket ends that asks as a page would, without and with a made-up secret."""
    from websockets.exceptions import ConnectionClosed, InvalidHandshake
    from websockets.sync.client import connect

    address = f"ws://127.0.0.1:{house.port + 1}{path}"
    try:
        with connect(address, subprotocols=["prefect"]) as opened:  # type: ignore[list-item]
            opened.send(json.dumps({"type": "auth", "token": "oncoloop:guess"}))
            return str(opened.recv(timeout=10))
    except ConnectionClosed:
        return "closed"
    except InvalidHandshake:
        return "refused"


def test_nothing_listens_for_mlflow_and_evidently(house: House) -> None:
    listening = [port for port in range(house.port, house.port + 10) if services.taken(port)]
    assert listening == [house.port, house.port + 1, house.port + 3], "desk, Prefect, the tools' origin"


def test_another_user_of_the_machine_opens_nothing(house: House) -> None:
    """With the shell of another user: MLflow's socket, keys, database, logs, the sign-in on the command line."""
    setpriv = shutil.which("setpriv")
    if setpriv is None or os.geteuid() != 0:
        pytest.skip("only root can become another user")
    for folder in [house.folder, *house.folder.parents]:  # as if the workspace lay in a place that everybody may enter
        if folder == Path("/tmp"):
            break
        folder.chmod(folder.stat().st_mode | 0o055)
    script = 'for path; do if head -c1 "$path" || test -r "$path" || test -w "$path"; then echo OPEN "$path"; fi; done'
    var = house.folder / "var"
    wanted = [
        var / "run/mlflow/http.sock",
        var / "oncoloop.db",
        var / "keys/door",
        var / "keys/decision",
        var / f"signed-in-{os.getuid()}" / "session",
        var / "logs/prefect.log",
        var / "prefect/prefect.db",
        var / "mlflow/mlflow.db",
    ]
    assert all(path.exists() for path in wanted), [path for path in wanted if not path.exists()]
    done = subprocess.run(
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
            *map(str, wanted),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
    )
    assert done.stdout == "" and done.stderr.count("Permission denied") >= len(wanted), done.stdout + done.stderr


@pytest.fixture
def secret(house: House) -> str:
    """Prefect's secret, as if somebody had stolen it."""
    script = "from lineage import keys; print(keys.prefect_secret())"
    environment = clean() | {"ONCOLOOP_HOME": str(house.folder / "var")}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def taken(call: Callable[[], httpx.Response]) -> httpx.Response:
    """The answer to a request that Prefect takes at last: a busy server says 503."""
    end = time.monotonic() + 60
    while (answer := call()).status_code == 503 and time.monotonic() < end:
        time.sleep(1)
    return answer.raise_for_status()


def test_a_changed_deployment_runs_no_foreign_code_and_is_told(house: House, secret: str) -> None:
    """Even with the secret: steps that a server adds to a deployment, and its entry point, are never executed."""
    user, _, password = secret.partition(":")
    with httpx.Client(base_url=f"{house.prefect}/api", auth=(user, password), timeout=30) as prefect:
        made = {one["name"]: one for one in prefect.post("/deployments/filter", json={}).json() if one["entrypoint"]}
        target = next(one for one in made.values() if one["entrypoint"].endswith("ingest_inbox"))
        mark = house.folder / "planted"
        step = {"prefect.deployments.steps.run_shell_script": {"script": f"touch {mark}"}}
        deployment, end = f"/deployments/{target['id']}", time.monotonic() + 120
        taken(lambda: prefect.patch(deployment, json={"pull_steps": [step], "entrypoint": "evil.py:f"}))
        run = taken(lambda: prefect.post(f"{deployment}/create_flow_run", json={"state": {"type": "SCHEDULED"}})).json()
        state = ""
        while state not in ("COMPLETED", "FAILED", "CRASHED") and time.monotonic() < end:
            state = prefect.get(f"/flow_runs/{run['id']}").json()["state"]["type"]
            time.sleep(1)
        assert state == "COMPLETED" and not mark.exists(), "our own flow has run, and nothing else"
        while not house.events("deployment.changed") and time.monotonic() < end:
            time.sleep(1)
        told = house.events("deployment.changed")
        assert told and told[0]["subject"] == "scheduled ingest/inbox" and "entrypoint" in told[0]["fields"]
        planted = {"name": "old", "flow_id": target["flow_id"], "tags": ["oncoloop"], "entrypoint": "evil.py:f"}
        added = taken(lambda: prefect.post("/deployments/", json=planted)).json()["id"]
        while prefect.get(f"/deployments/{added}").status_code != 404:
            assert time.monotonic() < end, "it is removed"
            time.sleep(1)
        while prefect.get(f"/deployments/{target['id']}").json()["entrypoint"] != target["entrypoint"]:
            assert time.monotonic() < end, "it is registered anew"
            time.sleep(1)


def test_an_event_with_the_secret_decides_nothing(house: House, secret: str) -> None:
    user, _, password = secret.partition(":")
    with httpx.Client(base_url=f"{house.prefect}/api", auth=(user, password), timeout=30) as prefect:
        taken(lambda: prefect.post("/events", json=[EVENT]))
        end = time.monotonic() + 60
        done: list[Any] = []
        while not done and time.monotonic() < end:
            runs = prefect.post(
                "/flow_runs/filter", json={"flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}}
            ).json()
            flows = {one["id"]: one["name"] for one in prefect.post("/flows/filter", json={}).json()}
            done = [run for run in runs if flows[run["flow_id"]] == "decide"]
            time.sleep(1)
    assert done, "it wakes the flow, which finds no signed row"
    assert not house.events("model.promoted") and not house.events("decision.used")


ATTACK = """<!doctype html><title>elsewhere</title><script>
const told = [];
const said = text => { told.push(text); document.title = JSON.stringify(told); };
const shots = %s;
(async () => {
  for (const [url, options] of shots) {
    try { const got = await fetch(url, options); said(`${url} ${got.status} ${got.type}`); }
    catch (error) { said(`${url} blocked`); }
  }
  document.title = "done " + JSON.stringify(told);
})();
</script>"""


@pytest.fixture
def elsewhere() -> Iterator[tuple[str, dict[str, str]]]:
    """A web server of another origin, and the page that it shows."""
    shown = {"page": ""}

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(shown["page"].encode())

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    server = HTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", shown
    server.shutdown()


def test_a_link_in_a_web_mail_signs_in(house: House, elsewhere: tuple[str, dict[str, str]], chromium: Any) -> None:
    """A strict cookie is not sent on a way that began on another site, and programs that look at links come first."""
    address, shown = elsewhere
    link = house.say("login", "otto")["link"].replace("127.0.0.1", "localhost")  # another site than the mail's
    shown["page"] = f'<!doctype html><title>mail</title><a href="{link}">Sign in</a>'
    assert httpx.get(link).status_code == 200 == httpx.head(link).status_code, "a mail program has a look"
    page = chromium.new_context().new_page()
    page.goto(address)
    page.get_by_role("link", name="Sign in").click()
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("link", name="Ledger").click()
    assert page.get_by_role("heading", name="Ledger").is_visible()
    page.context.close()


def test_a_web_page_of_another_origin_does_nothing(
    house: House, elsewhere: tuple[str, dict[str, str]], chromium: Any
) -> None:
    """In a real browser in which the engineer is signed in at the desk and at the tools' pages."""
    address, shown = elsewhere
    desk, tools = f"http://127.0.0.1:{house.port}", f"http://127.0.0.1:{house.port + 3}"
    post = {
        "method": "POST",
        "credentials": "include",
        "mode": "no-cors",
        "body": "a=1",
        "headers": {"Content-Type": "application/x-www-form-urlencoded"},
    }
    read = {"credentials": "include"}
    shots = [
        [f"{desk}/decisions", post],
        [f"{desk}/leave", post],
        [f"{desk}/models", read],
        [f"{desk}/tools/prefect", read],
        [f"{house.prefect}/api/deployments/filter", post],
        [f"{house.prefect}/api/events", post],
        [f"{house.prefect}/api/health", read],
        [f"{tools}/api/deployments/filter", post],
        [f"{tools}/ui-settings", read],
        [f"{tools}/mlflow/ajax-api/2.0/mlflow/experiments/search?max_results=5", read],
    ]
    shown["page"] = ATTACK % json.dumps(shots)
    context = chromium.new_context()
    page = context.new_page()
    page.goto(house.say("login", "ines")["link"])
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(re.compile("/models|/$"))
    page.goto(f"{desk}/tools/prefect")
    page.wait_for_load_state()
    assert page.evaluate("fetch('/api/health').then(got => got.status)") == 200, "signed in there too"
    answered: list[tuple[str, int]] = []
    page.on("response", lambda got: answered.append((got.url, got.status)))
    page.goto(address)
    page.wait_for_function("document.title.startsWith('done')", timeout=30_000)
    told = json.loads(page.title().removeprefix("done "))
    assert [line for line in told if not line.endswith(("blocked", " 0 opaque"))] == [], "it reads nothing"
    refused = {401, 403}
    statuses = {url.partition("?")[0]: status for url, status in answered if not url.startswith(address)}
    for url, _ in shots:
        assert statuses.get(url.partition("?")[0], 401) in refused | {200, 303}, (url, statuses)
    for url in (
        f"{desk}/decisions",
        f"{desk}/leave",
        f"{house.prefect}/api/events",
        f"{tools}/api/deployments/filter",
    ):
        assert statuses.get(url, 403) in refused, url
    page.goto(f"{desk}/models")
    assert page.get_by_role("heading", name="Models").is_visible(), "still signed in: nothing was done in her name"
    context.close()
    assert not house.events("approval")
