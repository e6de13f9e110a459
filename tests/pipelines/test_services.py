"""Processes of a workspace: a taken port is said, a fallen process is seen, leftovers are ended."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from lineage.fault import Fault
from pipelines import follow, page, services
from pipelines.services import HOST, Service

SERVE = [sys.executable, "-m", "http.server", "--bind", HOST]


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def until(found: object, seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if callable(found) and found():
            return True
        time.sleep(0.1)
    return False


def test_a_service_says_where_it_answers(home: Path, port: int) -> None:
    service = Service("web", [*SERVE, str(port)], port)
    service.start()
    assert services.starting("web") or services.url("web")
    assert until(service.look)
    assert services.url("web") == f"http://{HOST}:{port}"
    service.stop()
    assert services.url("web") is None
    assert not services.taken(port)


def test_a_service_that_leaves_finishes_first_and_is_made_to_end_in_time(home: Path, port: int) -> None:
    code = "import signal, time; signal.signal(signal.SIGTERM, lambda *_: None); print('x', flush=True); time.sleep(60)"
    stubborn, web = Service("stubborn", [sys.executable, "-c", code]), Service("web", [*SERVE, str(port)], port)
    for service in (stubborn, web):
        service.start()
    log = home / "logs" / "stubborn.log"
    assert until(web.look) and until(lambda: log.read_text())
    for service in (stubborn, web):
        service.leave()
    assert until(lambda: web.gone(patience=60)) and not services.taken(port)
    assert not stubborn.gone(patience=60) and stubborn.gone(patience=0.0) and not stubborn.alive()


def test_a_port_is_freed_of_what_its_service_left_behind(
    home: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONCOLOOP_HOME", str(home))
    orphan = subprocess.Popen([*SERVE, str(port)])
    assert until(lambda: services.taken(port))
    services.free(port)
    assert until(lambda: not psutil.pid_exists(orphan.pid)) and not services.taken(port)


def test_a_port_in_use_is_one_sentence(home: Path, port: int) -> None:
    with socket.socket() as other:
        other.bind((HOST, port))
        other.listen()
        with pytest.raises(Fault, match=f"port {port} for web is in use; free it or choose others with --port"):
            Service("web", [*SERVE, str(port)], port).start()


def test_what_was_left_running_is_ended_but_nobody_elses(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONCOLOOP_HOME", str(home))
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    ours = subprocess.Popen(sleep)
    theirs = subprocess.Popen(sleep, env={"PATH": "/usr/bin"})
    for name, process in (("ours", ours), ("theirs", theirs)):
        page.write_json(services.run_file(name), {"pid": process.pid, "url": "", "healthy": True})
    services.clear_leftovers()
    assert until(lambda: not psutil.pid_exists(ours.pid))
    assert psutil.pid_exists(theirs.pid) and theirs.poll() is None
    theirs.kill()
    theirs.wait(10)
    assert not services.run_file("ours").exists()


def test_a_service_without_a_port_is_ready_when_it_says_so(home: Path) -> None:
    ready = home / "run" / "x.ready"
    code = f"import pathlib, time; time.sleep(0.5); pathlib.Path({str(ready)!r}).touch(); time.sleep(60)"
    service = Service("worker", [sys.executable, "-c", code], ready=ready)
    service.start()
    assert not service.look()
    assert until(service.look)
    service.stop()


def test_a_log_is_shown_as_it_grows_and_to_its_end(home: Path) -> None:
    source = follow.path("fit", "lung-ct")
    source.write_text("of an earlier run\n")
    seen: list[str] = []
    with follow.lines(source, seen.append), source.open("a") as log:
        log.write("epoch 1\n")
        log.flush()
        assert until(lambda: seen == ["epoch 1"], 5)
        log.write("epoch 2\n")
    assert seen == ["epoch 1", "epoch 2"]


def test_an_artifact_key_has_only_what_prefect_allows() -> None:
    assert page.slug("data-Lung CT_2026/05") == "data-lung-ct-2026-05"
