"""A child process that the kernel ends when the process that started it is gone, however that ended (Linux).

`python -m lineage.child_process PARENT SIGNAL COMMAND ...` becomes COMMAND, tethered to PARENT.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

PARENT_DIES = 1  # PR_SET_PDEATHSIG of prctl(2); it outlasts execve
HOLDER = "ONCOLOOP_HOLDER"  # the number of a tethered process, whose own children may follow it
LOOK_SECONDS = 0.5


def tethered(command: Sequence[str], number: signal.Signals = signal.SIGKILL) -> list[str]:
    """A command that gets this signal when the process that runs it now has ended.

    The thread that starts it has to live as long: the kernel counts threads.
    """
    return [sys.executable, "-m", "lineage.child_process", str(os.getpid()), str(int(number)), *command]


def follow_holder() -> None:
    """End this process with the tethered one that started it, perhaps through a shell, as DVC starts a stage."""
    holder = os.environ.get(HOLDER, "")
    if not holder.isdecimal():
        return
    if os.getppid() == int(holder):
        _tether(int(holder), signal.SIGKILL)
    else:
        threading.Thread(target=_watch, args=(holder,), daemon=True).start()


def _tether(parent: int, number: signal.Signals) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(PARENT_DIES, int(number), 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:  # it ended before the kernel was told
        os._exit(1)


def _watch(holder: str) -> None:
    while _state(holder) not in ("", "Z", "X"):  # one that nobody has asked after stays listed as a zombie
        time.sleep(LOOK_SECONDS)
    os._exit(1)


def _state(number: str) -> str:
    """The letter by which proc(5) says what a process does; empty where there is none."""
    try:
        return Path("/proc", number, "stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def main() -> None:
    """Tether this process, and become the command."""
    _tether(int(sys.argv[1]), signal.Signals(int(sys.argv[2])))
    os.environ[HOLDER] = str(os.getpid())
    os.execvp(sys.argv[3], sys.argv[3:])


if __name__ == "__main__":
    main()
