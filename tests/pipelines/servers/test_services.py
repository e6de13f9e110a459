"""Services: start, health, restart, ports, and processes of an earlier run."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from lineage import json_files
from lineage.errors import Fault
from pipelines.flows import artifacts
from pipelines.servers import marked_processes, run_files, services
from pipelines.servers.marked_processes import Process
from pipelines.servers.services import HOST, Service
from pipelines.workspace import stage_log

SERVE = [sys.executable, "-m", "http.server", "--bind", HOST]


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def wait_until(condition: object, seconds: float = 20.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if callable(condition) and condition():
            return True
        time.sleep(0.1)
    return False


def test_the_record_of_a_service_has_its_address(home: Path, port: int) -> None:
    service = Service("web", [*SERVE, str(port)], port)
    service.start()
    assert services.is_starting("web") or services.url("web")
    assert wait_until(service.check_health)
    assert services.url("web") == f"http://{HOST}:{port}"
    service.stop()
    assert services.url("web") is None
    assert not services.is_port_in_use(port)


def test_a_leaving_service_finishes_first_and_is_killed_after_its_patience(home: Path, port: int) -> None:
    code = "import signal, time; signal.signal(signal.SIGTERM, lambda *_: None); print('x', flush=True); time.sleep(60)"
    stubborn, web = Service("stubborn", [sys.executable, "-c", code]), Service("web", [*SERVE, str(port)], port)
    for service in (stubborn, web):
        service.start()
    log = home / "logs" / "stubborn.log"
    assert wait_until(web.check_health) and wait_until(lambda: log.read_text())
    for service in (stubborn, web):
        service.leave()
    assert wait_until(lambda: web.has_left(patience=60)) and not services.is_port_in_use(port)
    assert not stubborn.has_left(patience=60) and stubborn.has_left(patience=0.0) and not stubborn.is_alive()


PARENT = """
import os, subprocess, sys, time
subprocess.Popen([sys.executable, "-m", "http.server", "--bind", "127.0.0.1", sys.argv[1]], start_new_session=True)
time.sleep(60)
"""


def test_children_of_a_killed_service_are_ended_in_any_session(home: Path, port: int) -> None:
    service = Service("web", [sys.executable, "-c", PARENT, str(port)], port)
    service.start()
    assert wait_until(service.check_health) and service.process
    mark = service.process.mark
    orphans = set(service.process.members()) - {service.process.pid}
    assert len(orphans) == 1
    os.kill(service.process.pid, signal.SIGKILL)
    assert wait_until(lambda: not service.is_alive()) and services.is_port_in_use(port)
    service.handle_exit()
    assert wait_until(lambda: not services.is_port_in_use(port)) and not marked_processes.has_mark(orphans.pop(), mark)
    assert service.backoff.failures == 1 and service.backoff.is_over()
    for _ in range(9):
        service.backoff.record_failure()
    assert not service.backoff.is_over() and service.backoff.next_attempt - time.monotonic() <= 60


def test_the_next_up_adopts_the_services_of_the_previous_one(home: Path, port: int) -> None:
    command = [*SERVE, str(port)]
    first = Service("web", command, port)
    first.start()
    assert wait_until(first.check_health) and first.process
    second, other = Service("web", command, port), Service("web", [*command, "--directory", "/"], port)
    record = run_files.records()["web"]
    assert not other.adopt(record), "a service with another command does not adopt the process"
    assert second.adopt(record) and second.healthy and second.is_alive() and second.process
    assert services.url("web") == f"http://{HOST}:{port}"
    os.kill(second.process.pid, signal.SIGKILL)
    first.process.child and first.process.child.wait(10)
    assert not second.is_alive() and services.url("web") is None
    third = Service("web", command, port)
    assert not third.adopt(record), "the process has ended"
    third.start()
    third.stop()


def test_another_process_with_a_reused_number_gets_no_signal(home: Path) -> None:
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    for environment in (
        {"ONCOLOOP_HOME": str(home)},
        {"ONCOLOOP_HOME": "/a/copy", marked_processes.MARK_VARIABLE: "former"},
    ):
        foreign = subprocess.Popen(sleep, env=environment)
        former = Process(foreign.pid, "former")
        assert not former.is_alive() and former.members() == []
        former.stop(patience=0.0)
        marked_processes.send_signal(foreign.pid, "former", signal.SIGKILL)
        facts = {"pid": foreign.pid, "mark": "former", "url": "", "healthy": True, "earlier": []}
        json_files.write_json(services.run_file("web"), facts)
        assert services.url("web") is None
        services.clear_leftovers()
        assert foreign.poll() is None
        foreign.kill()
        foreign.wait(10)


def test_the_next_command_ends_processes_of_a_killed_command(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setenv(marked_processes.COMMAND_VARIABLE, "")
    killed = subprocess.Popen([sys.executable, "-c", "pass"])
    killed.wait()
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    environments = (
        {"ONCOLOOP_HOME": str(home), marked_processes.COMMAND_VARIABLE: str(killed.pid)},
        {"ONCOLOOP_HOME": str(home), marked_processes.COMMAND_VARIABLE: str(os.getpid())},
        {"ONCOLOOP_HOME": "/a/copy", marked_processes.COMMAND_VARIABLE: str(killed.pid)},
    )
    orphan, child, foreign = (subprocess.Popen(sleep, env=environment) for environment in environments)
    time.sleep(0.3)
    services.connect_prefect()
    assert wait_until(lambda: orphan.poll() is not None)
    assert child.poll() is None and foreign.poll() is None
    assert os.environ[marked_processes.COMMAND_VARIABLE] == str(os.getpid())
    for process in (child, foreign):
        process.kill()
        process.wait(10)


def test_a_process_without_a_record_is_ended(home: Path, port: int) -> None:
    """On a full disk, a process may start although its record cannot be written."""
    service = Service("web", [*SERVE, str(port)], port)
    service.start()
    assert wait_until(service.check_health)
    services.run_file("web").unlink()
    services.clear_leftovers()
    assert not service.is_alive() and not services.is_port_in_use(port)


def test_a_process_that_no_longer_listens_is_killed(home: Path, port: int) -> None:
    code = "import http.server, sys, time\nserver = http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), "
    code += "http.server.SimpleHTTPRequestHandler)\nserver.handle_request()\nserver.server_close()\ntime.sleep(60)"
    service = Service("web", [sys.executable, "-c", code, str(port)], port)
    service.start()
    assert wait_until(lambda: service.check_health()) and wait_until(lambda: not service.check_health(), 10)
    assert not service.is_alive()


def test_a_desk_replaces_another_without_a_gap(home: Path, port: int, caplog: pytest.LogCaptureFixture) -> None:
    command = [sys.executable, "-m", "desk.server", "desk.app:create", "--port", str(port)]
    first, second = (Service("desk", command, port, "/healthz") for _ in range(2))
    first.start()
    assert wait_until(first.check_health) and first.process
    second.predecessor = Process(first.process.pid, first.process.mark)
    misses: list[float] = []
    stopped = threading.Event()

    def visit() -> None:
        while not stopped.wait(0.01):
            if not services.answers(f"http://{HOST}:{port}/healthz", 5):
                misses.append(time.monotonic())

    visitor = threading.Thread(target=visit)
    visitor.start()
    second.start()
    assert wait_until(second.check_health) and wait_until(lambda: not first.is_alive())
    time.sleep(0.5)
    stopped.set()
    visitor.join()
    assert not misses
    third = Service("desk", command, port, "/healthz")
    with pytest.raises(Fault, match=f"port {port} for desk is in use"):
        third.start()
    second.stop()


def test_a_port_in_use_is_a_fault_with_one_sentence(home: Path, port: int) -> None:
    with socket.socket() as other:
        other.bind((HOST, port))
        other.listen()
        with pytest.raises(Fault, match=f"port {port} for web is in use; free it or choose others with --port"):
            Service("web", [*SERVE, str(port)], port).start()


def test_leftover_processes_of_this_workspace_are_ended_and_foreign_ones_stay(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONCOLOOP_HOME", str(home))
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    own = subprocess.Popen(sleep)
    foreign = subprocess.Popen(sleep, env={"PATH": "/usr/bin"})
    for name, process in (("own", own), ("foreign", foreign)):
        json_files.write_json(services.run_file(name), {"pid": process.pid, "url": "", "healthy": True})
    services.clear_leftovers()
    assert wait_until(lambda: not psutil.pid_exists(own.pid))
    assert psutil.pid_exists(foreign.pid) and foreign.poll() is None
    foreign.kill()
    foreign.wait(10)
    assert not services.run_file("own").exists()


def test_a_service_without_a_port_is_ready_when_its_ready_file_exists(home: Path) -> None:
    ready = home / "run" / "x.ready"
    code = f"import pathlib, time; time.sleep(0.5); pathlib.Path({str(ready)!r}).touch(); time.sleep(60)"
    service = Service("worker", [sys.executable, "-c", code], ready=ready)
    service.start()
    assert not service.check_health()
    assert wait_until(service.check_health)
    service.stop()


def test_a_log_is_followed_to_its_end(home: Path) -> None:
    source = stage_log.stage_log_path("fit", "lung-ct")
    source.write_text("of an earlier run\n")
    emitted: list[str] = []
    with stage_log.follow_log(source, emitted.append), source.open("a") as log:
        log.write("epoch 1\n")
        log.flush()
        assert wait_until(lambda: emitted == ["epoch 1"], 5)
        log.write("epoch 2\n")
    assert emitted == ["epoch 1", "epoch 2"]


def test_an_artifact_key_has_only_characters_that_prefect_allows() -> None:
    assert artifacts.slug("data-Lung CT_2026/05") == "data-lung-ct-2026-05"
