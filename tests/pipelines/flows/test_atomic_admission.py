"""Admission is atomic: the run is killed at every write of state and at random moments, or the disk is full."""

from __future__ import annotations

import hashlib
import os
import random
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from data.batch import manifest
from data.phantom import batch as phantom_batch
from data.phantom import scanner
from lineage import paths
from lineage.record import database, ledger
from lineage.record.events import EventKind
from pipelines import params
from pipelines.flows import ingest
from pipelines.recovery import interrupted_runs
from pipelines.workspace import dvc, git
from pipelines.workspace import workspace as workspaces

SOAK = bool(os.environ.get("ONCOLOOP_SOAK"))
STEPS = ("move", "append_cohorts", "add", "commit", "push", "record_admission")
SEED = 20260701


@dataclass(frozen=True)
class PreparedWorkspace:
    """A workspace with one admitted batch and one in the inbox, its copy, and its state after an undisturbed run."""

    ward: Path
    copy: Path
    undisturbed: dict[str, str]
    before: dict[str, str]

    def restore(self) -> None:
        os.chdir(self.copy)
        database.engine().dispose()
        shutil.rmtree(self.ward)
        shutil.copytree(self.copy, self.ward, symlinks=True)
        os.chdir(self.ward)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PreparedWorkspace]:
    """A workspace that is created once, and copied back before each test."""
    with new_workspace_in(tmp_path_factory.mktemp("admission") / "ward") as folder:
        yield two_batches(folder)


@contextmanager
def new_workspace_in(folder: Path) -> Iterator[Path]:
    """Create a workspace that is this process's working folder until the block ends."""
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("ONCOLOOP_HOME", str(folder / "var"))
        patch.setenv("PYTHONSAFEPATH", "1")
        patch.delenv("ONCOLOOP_DATABASE_URL", raising=False)
        for name, value in paths.environment().items():
            patch.setenv(name, value)
        workspaces.create(folder)
        yield folder


@pytest.fixture
def ready(prepared: PreparedWorkspace) -> PreparedWorkspace:
    prepared.restore()
    return prepared


def two_batches(workspace: Path) -> PreparedWorkspace:
    """One admitted batch, and one whose arrival is recorded, of 2 patients each."""
    task = params.load().tasks["brain-mr"]
    for seed, name in enumerate(("first", "second")):
        phantom_batch.write_batch(Path("inbox", name), task, 2, scanner.SCANNERS["alder-mr"], 40 + seed, 1)
    run_admission("first")
    ingest.record_arrival(ingest.read_incoming_batch(Path("inbox/second")))
    before, copy = workspace_state(workspace), workspace.with_name("kept")
    shutil.copytree(workspace, copy, symlinks=True)
    run_admission("second")
    return PreparedWorkspace(workspace, copy, workspace_state(workspace), before)


def run_admission(name: str) -> str | None:
    """Do what the flow does with one batch that passes the gate: recover, index, admit."""
    interrupted_runs.recover_workspace()
    batches = ingest.unjudged_batches(Path("inbox", name))
    for batch in batches:
        arrived_at = ingest.record_arrival(batch)
        indexed = manifest.index_incoming(batch, ingest.staging_folder(batch.name))
        return ingest.admit_batch.fn(batch, indexed.manifest, arrived_at)
    return None


def workspace_state(workspace: Path) -> dict[str, str]:
    """The SHA-256 of every file of a version, of the cache and of the remote; and the admissions."""
    folders = ("data", "var/cache/files", "var/remote/files", "var/staging")
    files = [path for folder in folders for path in (workspace / folder).rglob("*") if path.is_file()]
    contents = {str(path.relative_to(workspace)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    contents["tree"] = git.run("rev-parse", "HEAD^{tree}", folder=workspace)
    contents["uncommitted"] = git.run("status", "--porcelain", folder=workspace)
    events = ledger.events(kind=EventKind.BATCH_ADMITTED)
    admissions = [{key: value for key, value in event.payload.items() if key != "data_version"} for event in events]
    contents["admissions"] = str(admissions)
    return contents


def run_in_child(work: Callable[[], object]) -> int:
    """Run in a child process that ends without cleanup. Returns its exit code (negative: killed by that signal)."""
    return os.waitstatus_to_exitcode(os.waitpid(start_child(work), 0)[1])


def start_child(work: Callable[[], object]) -> int:
    """Start a child process in its own session. Returns its process id."""
    process_id = os.fork()
    if process_id == 0:
        os.setsid()
        code = 70
        try:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            os.dup2(null, 2)
            work()
            code = 0
        finally:
            os._exit(code)
    return process_id


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


def assert_next_run_finishes(ready: PreparedWorkspace) -> None:
    """The next run gives the new version with the bytes of an undisturbed run. A second one has nothing to do."""
    run_admission("second")
    assert workspace_state(ready.ward) == ready.undisturbed
    assert git.head() == ledger.events(kind=EventKind.BATCH_ADMITTED)[-1].payload["data_version"]
    assert ledger.verify().outcome.value == "pass"
    assert run_admission("second") is None


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
