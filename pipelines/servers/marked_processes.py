"""Processes that outlive their starter: identified by a mark in their environment, never by their number alone.

Linux reuses the number of an ended process, and BentoML's workers open sessions of their own. So neither a number nor
a session identifies a process. A random mark in the environment does: every descendant inherits it, and no other
process has it.
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

MARK_VARIABLE = "ONCOLOOP_RUN"
COMMAND_VARIABLE = "ONCOLOOP_COMMAND"  # the number of a command, in the environment of every process that it starts


@dataclass
class Process:
    """A process with its descendants. `child` is set if this process started it and must reap it."""

    pid: int
    mark: str
    child: subprocess.Popen[bytes] | None = None

    def is_alive(self) -> bool:
        """Whether the process itself runs; its descendants may run without it."""
        if self.child is not None:
            return self.child.poll() is None
        return has_mark(self.pid, self.mark)

    def members(self) -> list[int]:
        """The numbers of the running processes: the process and its descendants."""
        return members(self.mark)

    def exit_text(self) -> str:
        """The exit code as text, if this process started it."""
        code = self.child.poll() if self.child else None
        return "its exit status is unknown" if code is None else f"exit {code}"

    def terminate(self) -> None:
        """Send SIGTERM to the process; if it has ended, to its descendants."""
        for pid in [self.pid] if self.is_alive() else self.members():
            send_signal(pid, self.mark, signal.SIGTERM)

    def kill(self, seconds: float = 3.0) -> None:
        """Send SIGKILL to the process and every descendant until all have ended, at most for `seconds`."""
        deadline = time.monotonic() + seconds
        while (running := self._reap()) and time.monotonic() < deadline:
            for pid in running:
                send_signal(pid, self.mark, signal.SIGKILL)
            time.sleep(0.02)

    def stop(self, patience: float = 8.0) -> None:
        """Send SIGTERM, wait at most `patience` seconds, then kill the processes that still run."""
        self.terminate()
        deadline = time.monotonic() + patience
        while self._reap() and time.monotonic() < deadline:
            time.sleep(0.05)
        self.kill()

    def _reap(self) -> list[int]:
        self.is_alive()  # an ended child stays in the process table until its parent polls it
        return self.members()


def start(
    command: Sequence[str], environment: Mapping[str, str], output: IO[bytes], folder: Path | None = None
) -> Process:
    """Start a command with a new mark, in a session of its own, in `folder` or the current folder."""
    mark = uuid.uuid4().hex
    child = subprocess.Popen(
        command,
        stdout=output,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        cwd=folder,
        env={**os.environ, **environment, MARK_VARIABLE: mark},
    )
    return Process(child.pid, mark, child)


def members(mark: str) -> list[int]:
    """The numbers of all processes of this workspace that have a mark."""
    pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()]
    return [pid for pid in pids if has_mark(pid, mark)]


def running_marks() -> set[str]:
    """The marks of all processes of this workspace, except the mark of this process."""
    pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()]
    environments = [_environment(pid) for pid in pids if is_of_workspace(pid)]
    prefix = f"{MARK_VARIABLE}=".encode()
    entries = [entry for environment in environments for entry in environment]
    found_marks = {entry.removeprefix(prefix).decode() for entry in entries if entry.startswith(prefix)}
    return found_marks - {os.environ.get(MARK_VARIABLE, "")}


def end_orphans() -> list[int]:
    """End processes that killed commands of this workspace left running; return their numbers.

    Prefect's temporary server is such a process.
    """
    ended = []
    for path in [path for path in Path("/proc").iterdir() if path.name.isdecimal()]:
        environment = dict(entry.decode(errors="replace").partition("=")[::2] for entry in _environment(int(path.name)))
        command = environment.get(COMMAND_VARIABLE, "")
        has_ended = command.isdecimal() and not _environment(int(command))
        if environment.get("ONCOLOOP_HOME") == str(paths.home()) and has_ended:
            log.warning("ending process %s, which a killed command left running", path.name)
            end(int(path.name), patience=2.0)
            ended.append(int(path.name))
    return ended


def has_mark(pid: int, mark: str) -> bool:
    """Whether a process runs, has the mark and belongs to this workspace: a copied workspace has the same records."""
    entries = {f"{MARK_VARIABLE}={mark}".encode(), f"ONCOLOOP_HOME={paths.home()}".encode()}
    return entries <= set(_environment(pid))


def is_of_workspace(pid: int) -> bool:
    """Whether a process belongs to this workspace: its environment names the state folder."""
    return f"ONCOLOOP_HOME={paths.home()}".encode() in _environment(pid)


def send_signal(pid: int, mark: str, signal_number: signal.Signals) -> None:
    """Send a signal to a process if it has the mark; another process may have its number by now."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if has_mark(pid, mark):
            signal.pidfd_send_signal(descriptor, signal_number)
    except ProcessLookupError:
        return
    finally:
        os.close(descriptor)


def end(pid: int, patience: float = 8.0) -> None:
    """Send SIGTERM to a process, wait at most `patience` seconds, then kill it and its descendants."""
    try:
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for process in family[:1]:
        _send(process, signal.SIGTERM)
    _, running = psutil.wait_procs(family, timeout=patience)
    for process in running:
        _send(process, signal.SIGKILL)
    psutil.wait_procs(running, timeout=3)


def _send(process: psutil.Process, signal_number: signal.Signals) -> None:
    try:
        process.send_signal(signal_number)
    except psutil.NoSuchProcess:
        log.debug("process %d had ended already", process.pid)


def _environment(pid: int) -> list[bytes]:
    """The environment at the start of a process; empty if it has ended or may not be read."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []
