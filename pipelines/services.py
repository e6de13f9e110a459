"""The processes of a running workspace: command, port, health, the file that says where each answers."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import URLError

import psutil

from lineage import keys, places
from lineage.fault import Fault
from pipelines import page

log = logging.getLogger(__name__)

HOST = "127.0.0.1"


@dataclass
class Service:
    """One supervised process. `after` names the service that must be healthy before this one starts.

    One that listens on a `socket` of its own starts in its folder, since an address holds 107 bytes.

    A service without a port that says itself when it is ready writes the file `ready`.
    """

    name: str
    command: list[str]
    port: int | None = None
    health: str = "/"
    after: str = ""
    ready: Path | None = None
    socket: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    healthy: bool = False
    started: float = 0.0
    failures: int = 0
    left: float = 0.0

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://{HOST}:{self.port}" if self.port else ""

    def start(self) -> None:
        """Start the process in a session of its own; its output goes to logs/NAME.log."""
        if self.port and taken(self.port):
            raise Fault(f"port {self.port} for {self.name} is in use; free it or choose others with --port")
        if self.ready:
            self.ready.unlink(missing_ok=True)
        if self.socket:
            self.socket.unlink(missing_ok=True)
        with places.place("logs", f"{self.name}.log").open("ab") as output:
            self.process = subprocess.Popen(
                self.command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                cwd=self.socket.parent if self.socket else None, start_new_session=True,
                env=os.environ | dict(self.environment),
            )  # fmt: skip
        self.started, self.healthy = time.monotonic(), False
        _write(self)
        log.info("%s starts (process %d)", self.name, self.process.pid)

    def alive(self) -> bool:
        """Whether the process runs."""
        return self.process is not None and self.process.poll() is None

    def look(self) -> bool:
        """Ask for its health once; remembers that it was healthy."""
        if not self.healthy and self.alive() and self._answers():
            self.healthy, self.failures = True, 0
            _write(self)
            log.info("%s is ready after %.1f s %s", self.name, time.monotonic() - self.started, self.url)
        return self.healthy

    def _answers(self) -> bool:
        if self.port:
            return answers(self.url + self.health)
        if self.socket:
            return answers_at(self.socket, self.health)
        return self.ready is None or self.ready.exists()

    def stop(self, patience: float = 8.0) -> None:
        """End the process and all its children."""
        run_file(self.name).unlink(missing_ok=True)
        if self.process is not None:
            end(self.process.pid, patience)
            self.process.wait(timeout=5)
        self.process, self.healthy = None, False

    def leave(self) -> None:
        """Ask the process to finish what it does and end; `gone` says when it has."""
        run_file(self.name).unlink(missing_ok=True)
        self.left, self.healthy = time.monotonic(), False
        if self.process is not None and self.alive():
            self.process.terminate()

    def gone(self, patience: float) -> bool:
        """Whether a process that was asked to leave has ended; after `patience` seconds it is made to."""
        if self.alive() and time.monotonic() - self.left < patience:
            return False
        self.stop(patience=0.0)
        return True


def program(name: str) -> str:
    """A console script of this installation."""
    path = Path(sys.executable).with_name(name)
    if not path.exists():
        raise Fault(f"{path} is missing from this installation; install oncoloop again")
    return str(path)


def taken(port: int) -> bool:
    """Whether something listens on a loopback port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return True
    return False


def free(port: int | None) -> None:
    """End what still listens on a port of ours after the process that opened it has ended."""
    for connection in psutil.net_connections("tcp4"):
        listens = connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port
        if port and listens and connection.pid and _ours(connection.pid):
            end(connection.pid, patience=0.0)


def answers(url: str, seconds: float = 1.0) -> bool:
    """Whether a URL answers with success."""
    try:
        with urllib.request.urlopen(url, timeout=seconds) as response:
            return bool(response.status < 400)
    except (URLError, OSError, ValueError):
        return False


def answers_at(path: Path, health: str, seconds: float = 1.0) -> bool:
    """Whether what listens on a socket answers with success."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(seconds)
            connection.connect(places.socket_address(path))
            connection.sendall(f"GET {health} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
            return connection.recv(16).startswith((b"HTTP/1.1 2", b"HTTP/1.0 2"))
    except OSError:
        return False


def run_file(name: str) -> Path:
    """The file that says where a service answers and which process it is."""
    return places.place("run", f"{name}.json")


def _write(service: Service) -> None:
    pid = service.process.pid if service.process else None
    record = {"url": service.url, "pid": pid, "healthy": service.healthy}
    temporary = run_file(service.name).with_suffix(".tmp")
    page.write_json(temporary, record)
    temporary.replace(run_file(service.name))


def url(name: str) -> str | None:
    """Where a healthy service of this workspace answers; None if it does not run."""
    record = _running(name)
    return str(record["url"]) if record and record["healthy"] else None


def starting(name: str) -> bool:
    """Whether a service of this workspace was started and does not answer yet."""
    record = _running(name)
    return bool(record and not record["healthy"])


def _running(name: str) -> dict[str, Any] | None:
    path = run_file(name)
    record = page.read_json(path) if path.is_file() else None
    return record if record and record["pid"] and _ours(int(record["pid"])) else None


def connect(seconds: float = 120.0) -> None:
    """Use the workspace's running Prefect server, if there is one; else Prefect starts its own for the command.

    A server that is starting is waited for: a second one beside it would cost more.
    """
    deadline = time.monotonic() + seconds
    while "PREFECT_API_URL" not in os.environ and time.monotonic() < deadline:
        if found := url("prefect"):
            os.environ["PREFECT_API_URL"] = f"{found}/api"
            os.environ.setdefault("PREFECT_API_AUTH_STRING", keys.prefect_secret())
        elif not starting("prefect"):
            return
        else:
            time.sleep(0.5)


def end(pid: int, patience: float = 8.0) -> None:
    """Ask a process and its descendants to stop, then make them."""
    try:
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for process in family[:1]:
        _send(process, signal.SIGTERM)
    _, left = psutil.wait_procs(family, timeout=patience)
    for process in left:
        _send(process, signal.SIGKILL)
    psutil.wait_procs(left, timeout=3)


def _send(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        log.debug("process %d had ended already", process.pid)


def clear_leftovers() -> None:
    """End what an `up` that was killed left running in this workspace."""
    for path in places.place("run", "x").parent.glob("*.json"):
        record = page.read_json(path)
        pid = record.get("pid")
        if pid and psutil.pid_exists(int(pid)) and _ours(int(pid)):
            log.warning("ending %s, left running by an earlier up", path.stem)
            end(int(pid))
        path.unlink(missing_ok=True)


def _ours(pid: int) -> bool:
    """Whether a process belongs to this workspace: its environment names our state folder."""
    try:
        return psutil.Process(pid).environ().get("ONCOLOOP_HOME") == os.environ["ONCOLOOP_HOME"]
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False
