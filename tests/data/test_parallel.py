from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from data.parallel import spread
from lineage.errors import Fault

ROOT = Path(__file__).resolve().parent.parent.parent
SLEEPING = "import time; from data.parallel import spread; spread(time.sleep, [60] * 4, 2, enough=2)"


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_the_order_of_the_jobs(workers: int) -> None:
    assert spread(math.sqrt, [9, 4, 1], workers) == [3, 2, 1]
    assert spread(math.sqrt, [], workers) == []
    with pytest.raises(ValueError, match="math domain error"):
        spread(math.sqrt, [1, -1], workers)


def test_processes_do_the_same_and_raise_the_same() -> None:
    assert spread(math.sqrt, [number**2 for number in range(100)], 2, enough=2) == list(range(100))
    with pytest.raises(ValueError, match="math domain error"):
        spread(math.sqrt, [1, -1, 1, 1], 2, enough=2)


def seen(_number: int) -> tuple[str, str]:
    """Where a process stands, and what its environment says."""
    return str(Path.cwd()), os.environ.get("ONCOLOOP_HOME", "")


def test_processes_follow_folder_and_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        monkeypatch.setenv("ONCOLOOP_HOME", name)
        assert set(spread(seen, [1, 2, 3, 4], 2, enough=2)) == {(str(tmp_path / name), name)}


def test_a_process_that_is_killed_is_a_sentence() -> None:
    with pytest.raises(Fault, match="ended from outside"):
        spread(os._exit, [9] * 4, 2, enough=2)


def test_no_process_outlives_the_one_that_was_killed() -> None:
    parent = psutil.Popen([sys.executable, "-c", SLEEPING], cwd=ROOT, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(parent.children(recursive=True)) < 4:  # two of ours, the server that forks them, Python's own tracker
        assert time.monotonic() < deadline and parent.poll() is None
        time.sleep(0.05)
    time.sleep(1)
    children = parent.children(recursive=True)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive
