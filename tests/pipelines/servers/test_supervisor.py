"""`oncoloop up` survives errors around it, and its services survive a killed `oncoloop up`."""

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

from lineage import current_state
from lineage.errors import Fault
from pipelines.servers import marked_processes, run_files, services
from pipelines.servers import supervisor as supervision
from pipelines.servers.services import HOST, Service
from pipelines.servers.supervisor import Supervisor
from serving.bundle.bento_server import free_port
from tests.pipelines.conftest import Run, clean_environment

SERVE = [sys.executable, "-m", "http.server", "--bind", HOST]


def wait_until(condition: Callable[[], object], seconds: float = 30.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return False


@contextmanager
def running_up(folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run `oncoloop up` with only the desk, like a user; it is ended at the end of the block."""
    command = [services.program("oncoloop"), "up", "--only", "desk", "--port", str(port)]
    with (folder / "up.log").open("ab") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=clean_environment(), stdout=log, stderr=log, start_new_session=True
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(30)


@contextmanager
def missed_answers(url: str) -> Iterator[list[float]]:
    """Request a page repeatedly; yields the list of moments without an answer."""
    misses: list[float] = []
    stop_event = threading.Event()

    def visit() -> None:
        while not stop_event.wait(0.02):
            if not services.answers(url, 5):
                misses.append(time.monotonic())

    visitor = threading.Thread(target=visit)
    visitor.start()
    try:
        yield misses
    finally:
        stop_event.set()
        visitor.join()


def test_the_desk_answers_without_a_gap_while_up_is_killed_and_restarted(workspace: Path, oncoloop: Run) -> None:
    port, log = free_port(), workspace / "up.log"
    url = f"http://{HOST}:{port}/healthz"
    with running_up(workspace, port) as first:
        assert wait_until(lambda: "everything is up" in log.read_text())
        desk = run_files.records()["desk"]["pid"]
        with missed_answers(url) as misses:
            first.kill()
            first.wait(10)
            status = oncoloop("status", cwd=workspace).stdout
            log.write_text("")
            with running_up(workspace, port) as second:
                assert wait_until(lambda: "everything is up" in log.read_text())
                assert f"desk runs since an earlier up (process {desk}) and is kept" in log.read_text()
                assert run_files.records()["desk"]["pid"] == desk and not misses
                assert "without `oncoloop up`" not in oncoloop("status", cwd=workspace).stdout
                os.kill(desk, signal.SIGKILL)
                killed_at = time.monotonic()
                assert wait_until(lambda: services.answers(url)) and time.monotonic() - killed_at < 5
                second.send_signal(signal.SIGTERM)
                assert second.wait(30) == 0
    assert f"without `oncoloop up`, which takes them over again: desk (process {desk})" in status
    assert not services.is_port_in_use(port) and "without `oncoloop up`" not in oncoloop("status", cwd=workspace).stdout


def test_an_outdated_desk_is_replaced_without_a_gap(workspace: Path) -> None:
    port, log = free_port(), workspace / "up.log"
    with running_up(workspace, port) as first:
        assert wait_until(lambda: "everything is up" in log.read_text())
        first.kill()
        first.wait(10)
    record = run_files.records()["desk"]
    path = services.run_file("desk")
    path.write_text(path.read_text().replace(record["fingerprint"], "of another version"))
    log.write_text("")
    with missed_answers(f"http://{HOST}:{port}/healthz") as misses, running_up(workspace, port):
        assert wait_until(lambda: "everything is up" in log.read_text())
        assert run_files.records()["desk"]["pid"] != record["pid"]
        assert wait_until(lambda: not marked_processes.members(record["mark"]))
        time.sleep(0.5)
        assert not misses


def test_a_port_in_use_at_the_start_is_a_fault_with_one_sentence(workspace: Path, oncoloop: Run) -> None:
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
def running_supervisor(
    monkeypatch: pytest.MonkeyPatch, *services_in_order: Service, only: tuple[str, ...] = ("release",)
) -> Iterator[Supervisor]:
    """A supervisor of these services in a thread, which must not end by itself."""
    monkeypatch.setattr(supervision, "lay_out", lambda _: {service.name: service for service in services_in_order})
    names = (*only, *(service.name for service in services_in_order))
    supervisor, stop_event = Supervisor(free_port(), names), threading.Event()
    thread = threading.Thread(target=supervisor.run, args=(stop_event,))
    thread.start()
    try:
        yield supervisor
        assert thread.is_alive(), "the supervisor has ended"
    finally:
        stop_event.set()
        thread.join(30)
        supervisor.stop()


def test_a_failing_service_does_not_end_up_and_status_names_it(
    home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(services, "LONGEST_WAIT", 0.1)
    port, used_port = free_port(), free_port()
    broken = Service("broken", [sys.executable, "-c", "raise SystemExit(3)"])
    web, blocked = Service("web", [*SERVE, str(port)], port), Service("blocked", [*SERVE, str(used_port)], used_port)
    with socket.socket() as foreign:
        foreign.bind((HOST, used_port))
        foreign.listen()
        with running_supervisor(monkeypatch, broken, web, blocked, only=()):
            assert wait_until(lambda: broken.backoff.failures >= 7 and web.healthy)
            assert wait_until(lambda: "is in use" in run_files.records().get("blocked", {}).get("trouble", ""))
            assert wait_until(
                lambda: "ended" in (trouble := run_files.records()["broken"]["trouble"]) and "exit 3" in trouble
            )
            foreign.close()
            assert wait_until(lambda: blocked.healthy)
            assert web.process
            os.kill(web.process.pid, signal.SIGKILL)
            assert wait_until(lambda: web.backoff.failures == 1 and web.healthy, 5)
    assert sum("blocked waits" in line for line in caplog.messages) == 1


def test_errors_of_the_ledger_and_of_prefect_are_logged_once_and_pass(
    home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    calls = {"wanted": 0, "drain": 0}

    def failing(name: str, error: Exception) -> Callable[..., Any]:
        def fail(*_: object) -> None:
            calls[name] += 1
            if calls[name] <= 4:
                raise error

        return fail

    runner = Service("runner", [sys.executable, "-c", "import time; time.sleep(60)"])
    monkeypatch.setattr(current_state, "release_to_serve", failing("wanted", Fault("the database can't be reached")))
    monkeypatch.setattr(supervision, "drain_outbox", failing("drain", OSError(28, "No space left on device")))
    with running_supervisor(monkeypatch, runner) as supervisor:
        assert wait_until(lambda: min(calls.values()) >= 6)
        assert wait_until(supervisor.is_ready)
    messages = "\n".join(caplog.messages)
    assert messages.count("the database can't be reached; this is tried again") == 1
    assert messages.count("No space left on device; this is tried again") == 1
    assert "the releases: works again" in messages and "the outbox: works again" in messages
