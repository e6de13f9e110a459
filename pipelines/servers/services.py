"""A supervised process: command, port, health, restarts, and the record of where it answers."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lineage import atomic_write, fingerprint, json_files, paths
from lineage.errors import Fault
from pipelines.servers import marked_processes
from pipelines.servers.marked_processes import Process, end
from pipelines.servers.ports import HOST, answers, answers_at, is_listening, is_port_in_use, is_reachable
from pipelines.servers.run_files import clear_leftovers, connect_prefect, is_starting, run_file, url
from pipelines.workspace.workspace import shipped_file

log = logging.getLogger(__name__)

__all__ = [
    "HOST",
    "Backoff",
    "Service",
    "answers",
    "clear_leftovers",
    "connect_prefect",
    "end",
    "is_port_in_use",
    "is_starting",
    "program",
    "run_file",
    "url",
]
STEADY_AFTER = 10.0  # seconds of health after which earlier failures are forgotten
LONGEST_WAIT = 60.0  # seconds at most between two attempts to start
PORT_RELEASE = 1.0  # seconds at most until the kernel frees the port of a killed process
PORT_CHECK_INTERVAL = 2.0  # seconds between two checks that a healthy service still listens
# prefixes of the environment variables that a service reads at its start
SETTING_PREFIXES = ("ONCOLOOP_", "PREFECT_", "MLFLOW_", "BENTOML_")


@dataclass
class Backoff:
    """When a failing service may start again: immediately, then after 1, 2, 4 ... seconds."""

    failures: int = 0
    next_attempt: float = 0.0

    def record_failure(self) -> None:
        """Count a failure and set the time of the next attempt."""
        self.failures += 1
        wait = 0.0 if self.failures == 1 else min(LONGEST_WAIT, 2.0 ** min(self.failures - 2, 10))
        self.next_attempt = time.monotonic() + wait

    def is_over(self) -> bool:
        """Whether it is time for the next attempt."""
        return time.monotonic() >= self.next_attempt


@dataclass
class Service:
    """One supervised process.

    `starts_after`: the service that must be healthy before this one starts.
    `socket`: a Unix socket; the process starts in its folder, because a socket address has at most 107 bytes.
    `ready`: the file that a service without a port writes when it is ready.
    `code`, `files`: packages and settings files; a running process is outdated when they have changed.
    `orphans_finish`: the children of an ended process may finish their work.
    `shares_port`: the successor may listen on the same port (desk/server.py).
    `key`: the name of the record file; default `name`.
    """

    name: str
    command: list[str]
    port: int | None = None
    health: str = "/"
    starts_after: str = ""
    ready: Path | None = None
    socket: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    code: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()
    orphans_finish: bool = False
    shares_port: bool = False
    key: str = ""
    release: str = ""
    backoff: Backoff = field(default_factory=Backoff)
    process: Process | None = None
    predecessor: Process | None = None  # answers on the same port until this one does
    earlier_marks: list[str] = field(default_factory=list)  # marks of processes whose orphans finish their work
    healthy: bool = False
    started_at: float = 0.0
    ready_at: float = 0.0
    checked_at: float = 0.0
    left_at: float = 0.0
    trouble: str = ""
    recorded: dict[str, Any] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """The address; empty without a port."""
        return f"http://{HOST}:{self.port}" if self.port else ""

    def fingerprint(self) -> str:
        """Digest of command, settings, code and packages; a running process with another digest is outdated."""
        settings = {
            name: value
            for name, value in (os.environ | dict(self.environment)).items()
            if name.startswith(SETTING_PREFIXES)
            and name not in (marked_processes.MARK_VARIABLE, marked_processes.COMMAND_VARIABLE)
        }
        code = fingerprint.describe_code(self.code)["files"]
        files = [fingerprint.file_sha256(path) for path in (shipped_file("requirements.lock"), *self.files)]
        return fingerprint.digest([self.command, settings, code, files, sys.version])

    def start(self) -> None:
        """Start the process in a session of its own; output goes to logs/NAME.log. Fault if its port is in use."""
        if self.port and not self.predecessor and is_port_in_use(self.port):
            raise Fault(f"port {self.port} for {self.name} is in use; free it or choose others with --port")
        if self.ready:
            self.ready.unlink(missing_ok=True)
        if self.socket:
            self.socket.unlink(missing_ok=True)
        folder = self.socket.parent if self.socket else None
        options = ["--beside"] if self.predecessor else []
        with paths.state_path("logs", f"{self.name}.log").open("ab") as output:
            self.process = marked_processes.start([*self.command, *options], self.environment, output, folder)
        self.started_at, self.healthy, self.trouble = time.monotonic(), False, ""
        log.info("%s starts (process %d)", self.name, self.process.pid)
        self.record()

    def adopt(self, record: Mapping[str, Any]) -> bool:
        """Supervise the process of a record if it runs and is up to date; return whether it is."""
        mark = str(record.get("mark") or "")
        if not mark or record.get("fingerprint") != self.fingerprint():
            return False
        if not marked_processes.has_mark(int(record["pid"]), mark):
            return False
        self.process = Process(int(record["pid"]), mark)
        self.healthy = bool(record["healthy"])
        for mark in [mark for mark in record.get("earlier", []) if marked_processes.members(mark)]:
            if self.orphans_finish:
                self.earlier_marks.append(mark)
            else:
                Process(0, mark).terminate()
        self.started_at = time.monotonic()
        log.info("%s runs since an earlier up (process %d) and is kept %s", self.name, self.process.pid, self.url)
        self.record()
        return True

    def replace_outdated(self, record: Mapping[str, Any]) -> bool:
        """Prepare to replace an outdated process on the same port without a gap; return whether that is possible."""
        predecessor = Process(int(record.get("pid") or 0), str(record.get("mark") or ""))
        if not self.shares_port or record.get("port") != self.port or not (predecessor.mark and predecessor.is_alive()):
            return False
        log.warning("%s is outdated; it answers until its successor is ready", self.name)
        self.predecessor = predecessor
        return True

    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self.process is not None and self.process.is_alive()

    def check_health(self) -> bool:
        """Check the health once and record the result; a process that no longer listens is killed."""
        if not self.is_alive():
            return False
        if not self.healthy and self._is_answering():
            self.healthy, self.trouble, self.ready_at = True, "", time.monotonic()
            log.info("%s is ready after %.1f s %s", self.name, time.monotonic() - self.started_at, self.url)
            if self.predecessor:
                self.predecessor.terminate()
        elif self.healthy and self._has_stopped_listening() and self.process:
            log.warning("%s no longer listens on its port; its process is killed", self.name)
            self.process.kill()
        if self.healthy and self.backoff.failures and time.monotonic() - self.started_at > STEADY_AFTER:
            self.backoff.failures = 0
        self.record()
        return self.healthy

    def _is_answering(self) -> bool:
        if (
            self.predecessor
            and self.predecessor.is_alive()
            and not (self.process and is_listening(self.process.pid, self.port or 0))
        ):
            return False  # the predecessor answers on this port
        if self.port:
            return answers(self.url + self.health)
        if self.socket:
            return answers_at(self.socket, self.health)
        return self.ready is None or self.ready.exists()

    def _has_stopped_listening(self) -> bool:
        if not self.port or time.monotonic() - self.checked_at < PORT_CHECK_INTERVAL:
            return False
        self.checked_at = time.monotonic()
        return not is_reachable(self.port)

    def handle_exit(self) -> None:
        """Handle an ended process: kill its children, unless they may finish their work, and plan the next start."""
        if self.process is None:
            return
        self.backoff.record_failure()
        self.trouble = f"ended {self.backoff.failures} times ({self.process.exit_text()})"
        log.warning("%s ended (%s); it starts again, see logs/%s.log", self.name, self.process.exit_text(), self.name)
        if self.orphans_finish:
            self.earlier_marks = [
                mark for mark in [*self.earlier_marks, self.process.mark] if marked_processes.members(mark)
            ]
        else:
            self.process.kill()
            deadline = time.monotonic() + PORT_RELEASE
            while self.port and is_port_in_use(self.port) and time.monotonic() < deadline:
                time.sleep(0.02)  # the kernel closes the port a moment after the process has ended
        if self.predecessor:  # it may not share its port, so the next start needs the port free
            self.predecessor.stop()
        self.process, self.predecessor, self.healthy = None, None, False
        self.record()

    def postpone(self, reason: str) -> None:
        """Record why the process could not start, and plan the next attempt."""
        self.backoff.record_failure()
        if reason != self.trouble:
            log.warning("%s waits: %s", self.name, reason)
        self.trouble = reason
        self.record()

    def stop(self, patience: float = 8.0) -> None:
        """End the process, its predecessor and all their children; remove the record."""
        if self.process is not None:
            self.process.stop(patience)
        for mark in self.earlier_marks:
            Process(0, mark).stop(patience)
        if self.predecessor:
            self.predecessor.stop(patience)
        self.process, self.predecessor, self.earlier_marks, self.healthy = None, None, [], False
        self._file().unlink(missing_ok=True)

    def leave(self) -> None:
        """Ask the process to finish its work and end; `has_left` tells when it has ended."""
        self.left_at, self.healthy = time.monotonic(), False
        if self.process is not None:
            self.process.terminate()
        self.record()

    def has_left(self, patience: float) -> bool:
        """Whether a process that was asked to leave has ended; it is killed after `patience` seconds."""
        is_running = self.process is not None and (self.is_alive() or self.process.members())
        if is_running and time.monotonic() - self.left_at < patience:
            return False
        self.stop(patience=0.0)
        return True

    def _file(self) -> Path:
        return run_file(self.key or self.name)

    def record(self) -> None:
        """Write the record if it has changed: for `url`, for `oncoloop status` and for the next `oncoloop up`."""
        if self.process is None and not self.trouble:
            return
        earlier_marks = [*self.earlier_marks, *([self.predecessor.mark] if self.predecessor else [])]
        pid, mark = (self.process.pid, self.process.mark) if self.process else (None, "")
        facts = {
            "name": self.name,
            "url": self.url,
            "port": self.port,
            "release": self.release,
            "pid": pid,
            "mark": mark,
            "earlier": earlier_marks,
            "healthy": self.healthy,
            "leaving": bool(self.left_at),
            "trouble": self.trouble,
        }
        if facts == {name: self.recorded.get(name) for name in facts}:
            return
        facts["fingerprint"] = self.recorded.get("fingerprint") or self.fingerprint()
        with atomic_write.replace_file(self._file()) as temporary:
            json_files.write_json(temporary, facts)
        self.recorded = facts


def program(name: str) -> str:
    """The path of a console script of this installation."""
    path = Path(sys.executable).with_name(name)
    if not path.exists():
        raise Fault(f"{path} is missing from this installation; install oncoloop again")
    return str(path)
