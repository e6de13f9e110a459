"""A child process that the kernel ends when its parent has ended for any reason (Linux).

`python -m lineage.child_process PARENT SIGNAL COMMAND ...` becomes COMMAND and gets SIGNAL when PARENT has ended.
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

PARENT_DIES = 1  # PR_SET_PDEATHSIG of prctl(2); it survives execve
HOLDER = "ONCOLOOP_HOLDER"  # id of a tethered process; its descendants end with it through `follow_holder`
POLL_SECONDS = 0.5


def tethered(command: Sequence[str], signal_number: signal.Signals = signal.SIGKILL) -> list[str]:
    """The command, wrapped so that it gets this signal when the current process has ended.

    The thread that starts it must live as long as the command, since the kernel watches the thread.
    """
    return [sys.executable, "-m", "lineage.child_process", str(os.getpid()), str(int(signal_number)), *command]


def follow_holder() -> None:
    """Let this process end with its tethered ancestor, also through a shell, as when DVC starts a stage."""
    holder = os.environ.get(HOLDER, "")
    if not holder.isdecimal():
        return
    if os.getppid() == int(holder):
        _die_with_parent(int(holder), signal.SIGKILL)
    else:
        threading.Thread(target=_exit_with_holder, args=(holder,), daemon=True).start()


def _die_with_parent(parent: int, signal_number: signal.Signals) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(PARENT_DIES, int(signal_number), 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:  # the parent ended before prctl was called
        os._exit(1)


def _exit_with_holder(holder: str) -> None:
    while _process_state(holder) not in ("", "Z", "X"):  # an ended process stays a zombie until its parent waits for it
        time.sleep(POLL_SECONDS)
    os._exit(1)


def _process_state(pid: str) -> str:
    """The state letter of a process (proc(5)); empty if there is no such process."""
    try:
        return Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def main() -> None:
    """Tether this process to the parent, then become the command."""
    _die_with_parent(int(sys.argv[1]), signal.Signals(int(sys.argv[2])))
    os.environ[HOLDER] = str(os.getpid())
    os.execvp(sys.argv[3], sys.argv[3:])


if __name__ == "__main__":
    main()
