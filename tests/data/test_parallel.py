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

from data.parallel import run_parallel
from lineage.errors import Fault

ROOT = Path(__file__).resolve().parent.parent.parent
SLEEPING = "import time; from data.parallel import run_parallel; run_parallel(time.sleep, [60] * 4, 2, min_jobs=2)"


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_the_order_of_the_jobs(workers: int) -> None:
    assert run_parallel(math.sqrt, [9, 4, 1], workers) == [3, 2, 1]
    assert run_parallel(math.sqrt, [], workers) == []
    with pytest.raises(ValueError, match="math domain error"):
        run_parallel(math.sqrt, [1, -1], workers)


def test_processes_give_the_same_results_and_exceptions() -> None:
    assert run_parallel(math.sqrt, [number**2 for number in range(100)], 2, min_jobs=2) == list(range(100))
    with pytest.raises(ValueError, match="math domain error"):
        run_parallel(math.sqrt, [1, -1, 1, 1], 2, min_jobs=2)


def process_state(_number: int) -> tuple[str, str]:
    """The working folder and a variable of the environment of a process."""
    return str(Path.cwd()), os.environ.get("ONCOLOOP_HOME", "")


def test_processes_have_the_folder_and_environment_of_the_caller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        monkeypatch.setenv("ONCOLOOP_HOME", name)
        assert set(run_parallel(process_state, [1, 2, 3, 4], 2, min_jobs=2)) == {(str(tmp_path / name), name)}


def test_a_killed_process_is_a_fault() -> None:
    with pytest.raises(Fault, match="was killed"):
        run_parallel(os._exit, [9] * 4, 2, min_jobs=2)


def test_no_process_outlives_a_killed_parent() -> None:
    parent = psutil.Popen([sys.executable, "-c", SLEEPING], cwd=ROOT, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(parent.children(recursive=True)) < 4:  # two workers, the fork server, Python's resource tracker
        assert time.monotonic() < deadline and parent.poll() is None
        time.sleep(0.05)
    time.sleep(1)
    children = parent.children(recursive=True)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive
