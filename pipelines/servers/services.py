"""The processes of a running workspace: command, port, health, the file that says where each answers."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lineage import fingerprint, json_files, paths
from lineage.errors import Fault
from pipelines.servers import marked_processes
from pipelines.servers.marked_processes import Process, end
from pipelines.servers.ports import HOST, answers, answers_at, listens, reachable, taken
from pipelines.servers.run_files import clear_leftovers, connect, run_file, starting, url
from pipelines.workspace.workspace import shipped

log = logging.getLogger(__name__)

__all__ = [
    "HOST",
    "Backoff",
    "Service",
    "answers",
    "clear_leftovers",
    "connect",
    "end",
    "program",
    "run_file",
    "starting",
    "is_port_in_use",
    "url",
]
STEADY = 10.0  # seconds of health after which earlier failures no longer count
LONGEST = 60.0  # seconds between two attempts to start
FREED = 1.0  # seconds within which the port of a killed process is free
LISTENS = 2.0  # seconds between two looks whether a healthy service still listens
SETTINGS = ("ONCOLOOP_", "PREFECT_", "MLFLOW_", "BENTOML_")  # variables that a service reads at its start


@dataclass
class Backoff:
    """When a failing service may start again: at once, then after 1, 2, 4 ... seconds."""

    failures: int = 0
    until: float = 0.0

    def failed(self) -> None:
        """Count a failure."""
        self.failures += 1
        wait = 0.0 if self.failures == 1 else min(LONGEST, 2.0 ** min(self.failures - 2, 10))
        self.until = time.monotonic() + wait

    def over(self) -> bool:
        """Whether it is time for the next attempt."""
        return time.monotonic() >= self.until


@dataclass
class Service:
    """One supervised process. `after` names the service that must be healthy before this one starts.

    One that listens on a `socket` of its own starts in its folder, since an address holds 107 bytes.

    A service without a port that says itself when it is ready writes the file `ready`. A running process is outdated
    when the packages `code` or the settings `files` have changed. `orphans_finish` is for one whose children do work
    that goes on without it, `shares_port` for one whose successor may listen beside it (desk/server.py). `key` names
    the file of its record.
    """

    name: str
    command: list[str]
    port: int | None = None
    health: str = "/"
    after: str = ""
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
    earlier: list[str] = field(default_factory=list)  # marks of processes whose orphans finish their work
    healthy: bool = False
    started: float = 0.0
    ready_at: float = 0.0
    looked: float = 0.0
    left: float = 0.0
    trouble: str = ""
    recorded: dict[str, Any] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://{HOST}:{self.port}" if self.port else ""

    def fingerprint(self) -> str:
        """What a running process must have been started with to be kept: command, settings, code and packages."""
        settings = {
            name: value
            for name, value in (os.environ | dict(self.environment)).items()
            if name.startswith(SETTINGS) and name not in (marked_processes.MARK, marked_processes.COMMAND)
        }
        code = fingerprint.code(self.code)["files"]
        files = [fingerprint.file_sha256(path) for path in (shipped("requirements.lock"), *self.files)]
        return fingerprint.digest([self.command, settings, code, files, sys.version])

    def start(self) -> None:
        """Start the process in a session of its own; its output goes to logs/NAME.log. Fault if its port is taken."""
        if self.port and not self.predecessor and taken(self.port):
            raise Fault(f"port {self.port} for {self.name} is in use; free it or choose others with --port")
        if self.ready:
            self.ready.unlink(missing_ok=True)
        if self.socket:
            self.socket.unlink(missing_ok=True)
        folder = self.socket.parent if self.socket else None
        beside = ["--beside"] if self.predecessor else []
        with paths.place("logs", f"{self.name}.log").open("ab") as output:
            self.process = marked_processes.start([*self.command, *beside], self.environment, output, folder)
        self.started, self.healthy, self.trouble = time.monotonic(), False, ""
        log.info("%s starts (process %d)", self.name, self.process.pid)
        self.record()

    def adopt(self, record: Mapping[str, Any]) -> bool:
        """Go on with the process of a record if it runs and is what `start` would start; whether it is."""
        mark = str(record.get("mark") or "")
        if not mark or record.get("fingerprint") != self.fingerprint():
            return False
        if not marked_processes.carries(int(record["pid"]), mark):
            return False
        self.process = Process(int(record["pid"]), mark)
        self.healthy = bool(record["healthy"])
        for mark in [mark for mark in record.get("earlier", []) if marked_processes.members(mark)]:
            if self.orphans_finish:
                self.earlier.append(mark)
            else:
                Process(0, mark).terminate()
        self.started = time.monotonic()
        log.info("%s runs since an earlier up (process %d) and is kept %s", self.name, self.process.pid, self.url)
        self.record()
        return True

    def follow(self, record: Mapping[str, Any]) -> bool:
        """Take the place of an outdated process on the same port without a gap, where both can; whether they can."""
        former = Process(int(record.get("pid") or 0), str(record.get("mark") or ""))
        if not self.shares_port or record.get("port") != self.port or not (former.mark and former.alive()):
            return False
        log.warning("%s runs and is outdated; it answers until its successor does", self.name)
        self.predecessor = former
        return True

    def alive(self) -> bool:
        """Whether the process runs."""
        return self.process is not None and self.process.alive()

    def look(self) -> bool:
        """Ask for its health once; remembers that it was healthy."""
        if not self.alive():
            return False
        if not self.healthy and self._answers():
            self.healthy, self.trouble, self.ready_at = True, "", time.monotonic()
            log.info("%s is ready after %.1f s %s", self.name, time.monotonic() - self.started, self.url)
            if self.predecessor:
                self.predecessor.terminate()
        elif self.healthy and self._deaf() and self.process:
            log.warning("%s runs and no longer listens; it is ended", self.name)
            self.process.kill()
        if self.healthy and self.backoff.failures and time.monotonic() - self.started > STEADY:
            self.backoff.failures = 0
        self.record()
        return self.healthy

    def _answers(self) -> bool:
        if (
            self.predecessor
            and self.predecessor.alive()
            and not (self.process and listens(self.process.pid, self.port or 0))
        ):
            return False  # what answers is the predecessor
        if self.port:
            return answers(self.url + self.health)
        if self.socket:
            return answers_at(self.socket, self.health)
        return self.ready is None or self.ready.exists()

    def _listens(self) -> bool:
        return bool(self.process and self.port and listens(self.process.pid, self.port))

    def _deaf(self) -> bool:
        if not self.port or time.monotonic() - self.looked < LISTENS:
            return False
        self.looked = time.monotonic()
        return not reachable(self.port)

    def fell(self) -> None:
        """Note that the process has ended. What it left behind is ended too, unless that may finish its work."""
        if self.process is None:
            return
        self.backoff.failed()
        self.trouble = f"ended {self.backoff.failures} times ({self.process.exit()})"
        log.warning("%s ended (%s); it starts again, see logs/%s.log", self.name, self.process.exit(), self.name)
        if self.orphans_finish:
            self.earlier = [mark for mark in [*self.earlier, self.process.mark] if marked_processes.members(mark)]
        else:
            self.process.kill()
            until = time.monotonic() + FREED
            while self.port and taken(self.port) and time.monotonic() < until:
                time.sleep(0.02)  # the kernel closes what a process had open a moment after it is gone
        if self.predecessor:  # it may be one that shares its port with nobody
            self.predecessor.stop()
        self.process, self.predecessor, self.healthy = None, None, False
        self.record()

    def postpone(self, reason: str) -> None:
        """Note that the process could not be started, and try again later."""
        self.backoff.failed()
        if reason != self.trouble:
            log.warning("%s waits: %s", self.name, reason)
        self.trouble = reason
        self.record()

    def stop(self, patience: float = 8.0) -> None:
        """End the process and all its children."""
        if self.process is not None:
            self.process.stop(patience)
        for mark in self.earlier:
            Process(0, mark).stop(patience)
        if self.predecessor:
            self.predecessor.stop(patience)
        self.process, self.predecessor, self.earlier, self.healthy = None, None, [], False
        self._file().unlink(missing_ok=True)

    def leave(self) -> None:
        """Ask the process to finish what it does and end; `gone` says when it has."""
        self.left, self.healthy = time.monotonic(), False
        if self.process is not None:
            self.process.terminate()
        self.record()

    def gone(self, patience: float) -> bool:
        """Whether a process that was asked to leave has ended; after `patience` seconds it is made to."""
        running = self.process is not None and (self.alive() or self.process.members())
        if running and time.monotonic() - self.left < patience:
            return False
        self.stop(patience=0.0)
        return True

    def _file(self) -> Path:
        return run_file(self.key or self.name)

    def record(self) -> None:
        """Write down what runs, if that has changed: for `url`, for people, and for the `up` after this one."""
        if self.process is None and not self.trouble:
            return
        earlier = [*self.earlier, *([self.predecessor.mark] if self.predecessor else [])]
        pid, mark = (self.process.pid, self.process.mark) if self.process else (None, "")
        facts = {
            "name": self.name,
            "url": self.url,
            "port": self.port,
            "release": self.release,
            "pid": pid,
            "mark": mark,
            "earlier": earlier,
            "healthy": self.healthy,
            "leaving": bool(self.left),
            "trouble": self.trouble,
        }
        if facts == {name: self.recorded.get(name) for name in facts}:
            return
        facts["fingerprint"] = self.recorded.get("fingerprint") or self.fingerprint()
        temporary = self._file().with_suffix(".tmp")
        json_files.write_json(temporary, facts)
        temporary.replace(self._file())
        self.recorded = facts


def program(name: str) -> str:
    """A console script of this installation."""
    path = Path(sys.executable).with_name(name)
    if not path.exists():
        raise Fault(f"{path} is missing from this installation; install oncoloop again")
    return str(path)
