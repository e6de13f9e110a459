"""Admission is atomic: the run is killed at every write of state and at random moments, or the disk is full."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.flows import ingest
from pipelines.recovery import interrupted_runs
from pipelines.workspace import dvc, git
from pipelines.workspace import workspace as workspaces
from tests.pipelines.admissions import (
    SEED,
    SOAK,
    PreparedWorkspace,
    assert_next_run_finishes,
    new_workspace_in,
    run_admission,
    run_in_child,
    start_child,
    two_batches,
    workspace_state,
)

STEPS = ("move", "append_cohorts", "add", "commit", "push", "record_admission")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PreparedWorkspace]:
    """A workspace that is created once, and copied back before each test."""
    with new_workspace_in(tmp_path_factory.mktemp("admission") / "ward") as folder:
        yield two_batches(folder)


@pytest.fixture
def ready(prepared: PreparedWorkspace) -> PreparedWorkspace:
    prepared.restore()
    return prepared


def kill_at(step: str, after: bool) -> None:
    """Replace one function that writes state by one that kills the process, before or after the write."""
    modules = {
        "move": shutil,
        "append_cohorts": ingest.dataset_cohorts,
        "record_admission": interrupted_runs,
        "commit": git,
    }
    module = modules.get(step, dvc)
    original = getattr(module, step)

    def kill(*arguments: object, **options: object) -> None:
        if after:
            original(*arguments, **options)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(module, step, kill)


def recover_to_old_or_new(ready: PreparedWorkspace) -> str:
    """Recovery after a kill gives one of the two versions and nothing in between. Returns which: "old" or "new"."""
    interrupted_runs.recover_workspace()
    current = workspace_state(ready.ward)
    tracked = {name: value for name, value in current.items() if not name.startswith("var/")}
    old = {name: value for name, value in ready.before.items() if not name.startswith("var/")}
    new = {name: value for name, value in ready.undisturbed.items() if not name.startswith("var/")}
    assert tracked in (old, new)
    strays = set(current) - set(ready.undisturbed)
    assert not strays, f"objects of no version: {strays}"
    return "old" if tracked == old else "new"


def test_a_kill_after_any_step_gives_the_old_or_the_new_version(ready: PreparedWorkspace) -> None:
    """A kill after a step is one before the next step; the soak tries both."""
    versions = {}
    kills_before = [(step, False) for step in (STEPS if SOAK else STEPS[:1])]
    for step, after in kills_before + [(step, True) for step in STEPS]:
        ready.restore()

        def work(step: str = step, after: bool = after) -> None:
            kill_at(step, after)
            run_admission("second")

        assert run_in_child(work) == -signal.SIGKILL, step
        versions[step, after] = recover_to_old_or_new(ready)
        assert_next_run_finishes(ready)
    assert versions["add", True] == "old"
    assert versions["commit", True] == "new"


def admit_until_write(count_file: Path, number: int) -> None:
    """Admit, and kill the process at the write of that number (0: never). The count of writes goes to `count_file`."""
    write_flags, write_count = os.O_WRONLY | os.O_RDWR | os.O_CREAT, 0

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal write_count
        is_opened = event == "open" and isinstance(arguments[2], int) and bool(arguments[2] & write_flags)
        if is_opened or event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "subprocess.Popen"):
            write_count += 1
            if write_count == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    run_admission("second")
    count_file.write_text(str(write_count))


def test_a_kill_at_any_write_gives_the_old_or_the_new_version(ready: PreparedWorkspace, tmp_path: Path) -> None:
    """A write is a file opened for writing, renamed, linked or removed, or a started child process."""
    count_file = tmp_path / "writes"
    assert run_in_child(lambda: admit_until_write(count_file, 0)) == 0
    total = int(count_file.read_text())
    assert total > 100
    points = range(1, total + 1) if SOAK else sorted(random.Random(SEED).sample(range(1, total + 1), 5))
    for point in points:
        ready.restore()
        assert run_in_child(lambda point=point: admit_until_write(count_file, point)) == -signal.SIGKILL, point
        recover_to_old_or_new(ready)
        assert_next_run_finishes(ready)


def test_a_run_killed_at_a_random_moment_is_finished_by_the_next(ready: PreparedWorkspace) -> None:
    """With its children, or alone: then a git process that it started runs for a moment longer."""
    generator = random.Random(SEED)
    start_time = time.monotonic()
    assert run_in_child(lambda: run_admission("second")) == 0
    usual_seconds = time.monotonic() - start_time
    for _ in range(20 if SOAK else 3):
        ready.restore()
        process_id = start_child(lambda: run_admission("second"))
        time.sleep(generator.uniform(0, usual_seconds))
        (os.killpg if generator.random() < 0.5 else os.kill)(process_id, signal.SIGKILL)
        os.waitpid(process_id, 0)
        assert_next_run_finishes(ready)


def test_a_run_on_a_full_disk_is_finished_once_there_is_space(ready: PreparedWorkspace) -> None:
    """A limit on the file size lets tables, scans and databases fail in turn."""

    def run_with_limit(size: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        run_admission("second")

    for size in (100, 1_000, 4_000, 30_000, 100_000, 200_000) if SOAK else (100, 30_000):
        ready.restore()
        assert run_in_child(lambda size=size: run_with_limit(size)) not in (0, -signal.SIGKILL), size
        assert_next_run_finishes(ready)


def test_two_runs_at_once_admit_the_batch_once(ready: PreparedWorkspace) -> None:
    def run_locked() -> None:
        with workspaces.hold_lock("workspace"):
            run_admission("second")

    process_ids = [start_child(run_locked), start_child(run_locked)]
    assert [os.waitstatus_to_exitcode(os.waitpid(process_id, 0)[1]) for process_id in process_ids] == [0, 0]
    assert workspace_state(ready.ward) == ready.undisturbed
