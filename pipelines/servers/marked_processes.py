"""Processes that outlive whoever started them: recognised by a mark in their environment, never by number alone.

Linux gives a process number to another process once the first has ended, and BentoML's workers open sessions of their
own, so neither a number nor a session says whose a process is. A random mark in the environment does: every descendant
inherits it, and no other process has it.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil

from lineage import paths

log = logging.getLogger(__name__)

MARK = "ONCOLOOP_RUN"
COMMAND = "ONCOLOOP_COMMAND"  # the number of a command, in the environment of all that it starts


@dataclass
class Process:
    """A process with its descendants. `child` is set where this process started it, and has to reap it."""

    pid: int
    mark: str
    child: subprocess.Popen[bytes] | None = None

    def alive(self) -> bool:
        """Whether the process itself runs; descendants may run without it."""
        if self.child is not None:
            return self.child.poll() is None
        return carries(self.pid, self.mark)

    def members(self) -> list[int]:
        """The numbers of the process and of its descendants that run."""
        return members(self.mark)

    def exit(self) -> str:
        """How it ended, as far as this process can know."""
        code = self.child.poll() if self.child else None
        return "its exit status is unknown" if code is None else f"exit {code}"

    def terminate(self) -> None:
        """Ask the process to finish what it does and end; its descendants where it is gone itself."""
        for pid in [self.pid] if self.alive() else self.members():
            send(pid, self.mark, signal.SIGTERM)

    def kill(self, seconds: float = 3.0) -> None:
        """End the process and every descendant at once."""
        until = time.monotonic() + seconds
        while (left := self._reaped()) and time.monotonic() < until:
            for pid in left:
                send(pid, self.mark, signal.SIGKILL)
            time.sleep(0.02)

    def stop(self, patience: float = 8.0) -> None:
        """Ask it to end, wait for so many seconds, then end what is left."""
        self.terminate()
        until = time.monotonic() + patience
        while self._reaped() and time.monotonic() < until:
            time.sleep(0.05)
        self.kill()

    def _reaped(self) -> list[int]:
        self.alive()  # a child that ended stays a process until its parent asks
        return self.members()


def start(
    command: Sequence[str], environment: Mapping[str, str], output: IO[bytes], folder: Path | None = None
) -> Process:
    """Start a command with a new mark, in a session of its own and in `folder`, if one is given."""
    mark = uuid.uuid4().hex
    child = subprocess.Popen(
        command,
        stdout=output,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        cwd=folder,
        env={**os.environ, **environment, MARK: mark},
    )
    return Process(child.pid, mark, child)


def members(mark: str) -> list[int]:
    """The numbers of all processes of this workspace that carry a mark."""
    numbers = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()]
    return [pid for pid in numbers if carries(pid, mark)]


def marks() -> set[str]:
    """The marks of all processes of this workspace, but for this process's own."""
    numbers = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()]
    lists = [_environment(pid) for pid in numbers if belongs(pid)]
    start = f"{MARK}=".encode()
    every = {entry.removeprefix(start).decode() for entries in lists for entry in entries if entry.startswith(start)}
    return every - {os.environ.get(MARK, "")}


def end_orphans() -> list[int]:
    """End what killed commands of this workspace left running, such as Prefect's temporary server; their numbers."""
    found = []
    for path in [path for path in Path("/proc").iterdir() if path.name.isdecimal()]:
        entries = dict(entry.decode(errors="replace").partition("=")[::2] for entry in _environment(int(path.name)))
        command = entries.get(COMMAND, "")
        if entries.get("ONCOLOOP_HOME") == str(paths.home()) and command.isdecimal() and not _environment(int(command)):
            log.warning("ending process %s, left running by a killed command", path.name)
            end(int(path.name), patience=2.0)
            found.append(int(path.name))
    return found


def carries(pid: int, mark: str) -> bool:
    """Whether a process runs, carries the mark and belongs to this workspace, of which a copy has the same records."""
    wanted = {f"{MARK}={mark}".encode(), f"ONCOLOOP_HOME={paths.home()}".encode()}
    return wanted <= set(_environment(pid))


def belongs(pid: int) -> bool:
    """Whether a process belongs to this workspace: its environment names our state folder."""
    return f"ONCOLOOP_HOME={paths.home()}".encode() in _environment(pid)


def send(pid: int, mark: str, number: signal.Signals) -> None:
    """Send a signal to a process that carries the mark, and to no other that has got its number meanwhile."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if carries(pid, mark):
            signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        return
    finally:
        os.close(handle)


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


def _environment(pid: int) -> list[bytes]:
    """The environment that a process was started with; empty for one that has ended, or is not ours to read."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []
