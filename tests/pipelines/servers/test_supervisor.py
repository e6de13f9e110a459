"""`oncoloop up` outlives what goes wrong around it, and the services outlive a killed `oncoloop up`."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lineage.errors import Fault
from pipelines.models import release
from pipelines.servers import marked_processes, run_files, services
from pipelines.servers import supervisor as supervision
from pipelines.servers.services import HOST, Service
from pipelines.servers.supervisor import Supervisor
from serving.bundle.bento_server import free_port
from tests.pipelines.conftest import Run, clean

SERVE = [sys.executable, "-m", "http.server", "--bind", HOST]


def until(condition: Callable[[], object], seconds: float = 30.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


@contextmanager
def running(folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """`oncoloop up` with the desk alone, as a user starts it; ended at last, if it still runs."""
    command = [services.program("oncoloop"), "up", "--only", "desk", "--port", str(port)]
    with (folder / "up.log").open("ab") as log:
        process = subprocess.Popen(command, cwd=folder, env=clean(), stdout=log, stderr=log, start_new_session=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(30)


@contextmanager
def visited(url: str) -> Iterator[list[float]]:
    """Somebody asks a page again and again; the moments at which there was no answer."""
    misses: list[float] = []
    stopped = threading.Event()

    def visit() -> None:
        while not stopped.wait(0.02):
            if not services.answers(url, 5):
                misses.append(time.monotonic())

    visitor = threading.Thread(target=visit)
    visitor.start()
    try:
        yield misses
    finally:
        stopped.set()
        visitor.join()


def test_the_desk_answers_without_a_gap_while_up_is_killed_and_started_again(workspace: Path, oncoloop: Run) -> None:
    port, log = free_port(), workspace / "up.log"
    url = f"http://{HOST}:{port}/healthz"
    with running(workspace, port) as first:
        assert until(lambda: "everything is up" in log.read_text())
        desk = run_files.records()["desk"]["pid"]
        with visited(url) as misses:
            first.kill()
            first.wait(10)
            said = oncoloop("status", cwd=workspace).stdout
            log.write_text("")
            with running(workspace, port) as second:
                assert until(lambda: "everything is up" in log.read_text())
                assert f"desk runs since an earlier up (process {desk}) and is kept" in log.read_text()
                assert run_files.records()["desk"]["pid"] == desk and not misses
                assert "without `oncoloop up`" not in oncoloop("status", cwd=workspace).stdout
                os.kill(desk, signal.SIGKILL)
                killed = time.monotonic()
                assert until(lambda: services.answers(url)) and time.monotonic() - killed < 5
                second.send_signal(signal.SIGTERM)
                assert second.wait(30) == 0
    assert f"without `oncoloop up`, which takes them over again: desk (process {desk})" in said
    assert not services.taken(port) and "without `oncoloop up`" not in oncoloop("status", cwd=workspace).stdout


def test_a_desk_of_other_code_is_followed_by_a_new_one_without_a_gap(workspace: Path) -> None:
    port, log = free_port(), workspace / "up.log"
    with running(workspace, port) as first:
        assert until(lambda: "everything is up" in log.read_text())
        first.kill()
        first.wait(10)
    record = run_files.records()["desk"]
    path = services.run_file("desk")
    path.write_text(path.read_text().replace(record["fingerprint"], "of another version"))
    log.write_text("")
    with visited(f"http://{HOST}:{port}/healthz") as misses, running(workspace, port):
        assert until(lambda: "everything is up" in log.read_text())
        assert run_files.records()["desk"]["pid"] != record["pid"]
        assert until(lambda: not marked_processes.members(record["mark"]))
        time.sleep(0.5)
        assert not misses


def test_a_port_that_is_taken_at_the_very_start_is_one_sentence(workspace: Path, oncoloop: Run) -> None:
    with socket.socket() as foreign:
        foreign.bind((HOST, 0))
        foreign.listen()
        port = foreign.getsockname()[1]
        done = oncoloop("up", "--only", "desk", "--port", str(port), cwd=workspace)
    assert done.returncode == 1
    assert (
        done.stderr.strip()
        .splitlines()[-1]
        .endswith(f"port {port} for desk is in use; free it or choose others with --port")
    )


@contextmanager
def supervised(
    patch: pytest.MonkeyPatch, *listed: Service, only: tuple[str, ...] = ("release",)
) -> Iterator[Supervisor]:
    """A supervisor of these services in a thread, that must not end by itself."""
    patch.setattr(supervision, "lay_out", lambda _: {service.name: service for service in listed})
    supervisor, stopped = Supervisor(free_port(), (*only, *(service.name for service in listed))), threading.Event()
    thread = threading.Thread(target=supervisor.run, args=(stopped,))
    thread.start()
    try:
        yield supervisor
        assert thread.is_alive(), "the supervisor has ended"
    finally:
        stopped.set()
        thread.join(30)
        supervisor.stop()


def test_no_failure_of_a_service_ends_up_and_status_names_it(
    home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(services, "LONGEST_WAIT", 0.1)
    port, taken = free_port(), free_port()
    broken = Service("broken", [sys.executable, "-c", "raise SystemExit(3)"])
    web, blocked = Service("web", [*SERVE, str(port)], port), Service("blocked", [*SERVE, str(taken)], taken)
    with socket.socket() as foreign:
        foreign.bind((HOST, taken))
        foreign.listen()
        with supervised(monkeypatch, broken, web, blocked, only=()):
            assert until(lambda: broken.backoff.failures >= 7 and web.healthy)
            assert until(lambda: "is in use" in run_files.records().get("blocked", {}).get("trouble", ""))
            assert until(
                lambda: "ended" in (trouble := run_files.records()["broken"]["trouble"]) and "exit 3" in trouble
            )
            foreign.close()
            assert until(lambda: blocked.healthy)
            assert web.process
            os.kill(web.process.pid, signal.SIGKILL)
            assert until(lambda: web.backoff.failures == 1 and web.healthy, 5)
    assert sum("blocked waits" in line for line in caplog.messages) == 1


def test_errors_of_the_ledger_and_of_prefect_are_said_once_and_pass(
    home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    turns = {"wanted": 0, "drain": 0}

    def failing(name: str, error: Exception) -> Callable[..., Any]:
        def fail(*_: object) -> None:
            turns[name] += 1
            if turns[name] <= 4:
                raise error

        return fail

    runner = Service("runner", [sys.executable, "-c", "import time; time.sleep(60)"])
    monkeypatch.setattr(release, "wanted", failing("wanted", Fault("the database can't be reached")))
    monkeypatch.setattr(supervision, "drain_outbox", failing("drain", OSError(28, "No space left on device")))
    with supervised(monkeypatch, runner) as supervisor:
        assert until(lambda: min(turns.values()) >= 6)
        assert until(supervisor.is_ready)
    said = "\n".join(caplog.messages)
    assert said.count("the database can't be reached; this is tried again") == 1
    assert said.count("No space left on device; this is tried again") == 1
    assert "the releases: works again" in said and "the outbox: works again" in said
