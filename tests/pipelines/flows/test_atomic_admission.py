"""A batch is admitted whole or not at all: killed at every write of state, by chance, and with a full disk."""

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
from pipelines import params
from pipelines.flows import ingest
from pipelines.recovery import interrupted_runs
from pipelines.workspace import dvc, git
from pipelines.workspace import workspace as workspaces

SOAK = bool(os.environ.get("ONCOLOOP_SOAK"))
STEPS = ("move", "append_cohorts", "add", "commit", "push", "announce")
SEED = 20260701


@dataclass(frozen=True)
class Ready:
    """A workspace with one admitted batch and one in the inbox; a copy of it; what an undisturbed run makes of it."""

    ward: Path
    kept: Path
    undisturbed: dict[str, str]
    before: dict[str, str]

    def restore(self) -> None:
        os.chdir(self.kept)
        database.engine().dispose()
        shutil.rmtree(self.ward)
        shutil.copytree(self.kept, self.ward, symlinks=True)
        os.chdir(self.ward)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ready]:
    """A workspace that is made once, and copied back before each test."""
    with made_in(tmp_path_factory.mktemp("admission") / "ward") as folder:
        yield two_batches(folder)


@contextmanager
def made_in(folder: Path) -> Iterator[Path]:
    """A made workspace that is this process's working folder until the block ends."""
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
def ready(made: Ready) -> Ready:
    made.restore()
    return made


def two_batches(workspace: Path) -> Ready:
    """One admitted, one whose coming was written down, of 2 patients each."""
    task = params.load().tasks["brain-mr"]
    for seed, name in enumerate(("first", "second")):
        phantom_batch.write_batch(Path("inbox", name), task, 2, scanner.SCANNERS["alder-mr"], 40 + seed, 1)
    run("first")
    ingest.received(ingest.incoming(Path("inbox/second")))
    before, kept = state(workspace), workspace.with_name("kept")
    shutil.copytree(workspace, kept, symlinks=True)
    run("second")
    return Ready(workspace, kept, state(workspace), before)


def run(name: str) -> str | None:
    """What the flow does with one batch whose gate says pass: settle, read, admit."""
    interrupted_runs.settle()
    batches = ingest.waiting(Path("inbox", name))
    for batch in batches:
        arrived = ingest.received(batch)
        found = manifest.index_batch(batch.source, batch.staging, batch.task)
        return ingest.admit.fn(batch, found.manifest, arrived)
    return None


def state(ward: Path) -> dict[str, str]:
    """The SHA-256 of everything that a version is made of, the cache and the remote; and the admissions."""
    folders = ("data", "var/cache/files", "var/remote/files", "var/staging")
    files = [path for folder in folders for path in (ward / folder).rglob("*") if path.is_file()]
    found = {str(path.relative_to(ward)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    found["tree"] = git.run("rev-parse", "HEAD^{tree}", folder=ward)
    found["uncommitted"] = git.run("status", "--porcelain", folder=ward)
    events = ledger.events(kind="batch.admitted")
    found["admissions"] = str([{k: v for k, v in e.payload.items() if k != "data_version"} for e in events])
    return found


def child(work: Callable[[], object]) -> int:
    """Run in a process of its own, which ends without tidying up; how it ended (negative: by that signal)."""
    return os.waitstatus_to_exitcode(os.waitpid(start(work), 0)[1])


def start(work: Callable[[], object]) -> int:
    """Begin a process of its own, in a session of its own; its number."""
    number = os.fork()
    if number == 0:
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
    return number


def kill_at(step: str, after: bool) -> None:
    """Replace one function that writes state by one that ends the process, before or after it has written."""
    home = {"move": shutil, "append_cohorts": ingest.dataset_cohorts, "announce": interrupted_runs, "commit": git}.get(
        step, dvc
    )
    real = getattr(home, step)

    def fatal(*given: object, **named: object) -> None:
        if after:
            real(*given, **named)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(home, step, fatal)


def finished(ready: Ready) -> None:
    """The next run leaves the new version, with the bytes of an undisturbed run; the one after it has nothing to do."""
    run("second")
    assert state(ready.ward) == ready.undisturbed
    assert git.head() == ledger.events(kind="batch.admitted")[-1].payload["data_version"]
    assert ledger.verify().outcome.value == "pass"
    assert run("second") is None


def settled_is_old_or_new(ready: Ready) -> str:
    """After a kill, mending alone leaves either version and nothing in between."""
    interrupted_runs.settle()
    now = state(ready.ward)
    tracked = {name: value for name, value in now.items() if not name.startswith("var/")}
    old = {name: value for name, value in ready.before.items() if not name.startswith("var/")}
    new = {name: value for name, value in ready.undisturbed.items() if not name.startswith("var/")}
    assert tracked in (old, new)
    strangers = set(now) - set(ready.undisturbed)
    assert not strangers, f"objects that no version knows: {strangers}"
    return "old" if tracked == old else "new"


def test_killed_after_every_step(ready: Ready) -> None:
    """After one step is before the next; in the soak both are tried."""
    ends = {}
    before = [(step, False) for step in (STEPS if SOAK else STEPS[:1])]
    for step, after in before + [(step, True) for step in STEPS]:
        ready.restore()

        def work(step: str = step, after: bool = after) -> None:
            kill_at(step, after)
            run("second")

        assert child(work) == -signal.SIGKILL, step
        ends[step, after] = settled_is_old_or_new(ready)
        finished(ready)
    assert ends["add", True] == "old"
    assert ends["commit", True] == "new"


def watched(target: Path, at: int) -> None:
    """Admit, and end the process at the write of that number (0: never); their number goes to `target`."""
    writing, seen = os.O_WRONLY | os.O_RDWR | os.O_CREAT, [0]

    def hook(event: str, given: tuple[object, ...]) -> None:
        opened = event == "open" and isinstance(given[2], int) and bool(given[2] & writing)
        if opened or event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "subprocess.Popen"):
            seen[0] += 1
            if seen[0] == at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    run("second")
    target.write_text(str(seen[0]))


def test_killed_at_any_write(ready: Ready, tmp_path: Path) -> None:
    """Every file opened for writing, renamed, linked or removed, and every git that is started, is such a point."""
    counted = tmp_path / "writes"
    assert child(lambda: watched(counted, 0)) == 0
    total = int(counted.read_text())
    assert total > 100
    points = range(1, total + 1) if SOAK else sorted(random.Random(SEED).sample(range(1, total + 1), 5))
    for point in points:
        ready.restore()
        assert child(lambda point=point: watched(counted, point)) == -signal.SIGKILL, point
        settled_is_old_or_new(ready)
        finished(ready)


def test_killed_at_a_random_moment(ready: Ready) -> None:
    """With its children or alone: then a git that it started goes on for a moment."""
    chance = random.Random(SEED)
    began = time.monotonic()
    assert child(lambda: run("second")) == 0
    usual = time.monotonic() - began
    for _ in range(20 if SOAK else 3):
        ready.restore()
        number = start(lambda: run("second"))
        time.sleep(chance.uniform(0, usual))
        (os.killpg if chance.random() < 0.5 else os.kill)(number, signal.SIGKILL)
        os.waitpid(number, 0)
        finished(ready)


def test_a_full_disk(ready: Ready) -> None:
    """No file may grow over so many bytes: tables, scans and databases fail in turn; with room again, it finishes."""

    def narrow(size: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        run("second")

    for size in (100, 1_000, 4_000, 30_000, 100_000, 200_000) if SOAK else (100, 30_000):
        ready.restore()
        assert child(lambda size=size: narrow(size)) not in (0, -signal.SIGKILL), size
        finished(ready)


def test_two_at_once(ready: Ready) -> None:
    def locked() -> None:
        with workspaces.alone("workspace"):
            run("second")

    numbers = [start(locked), start(locked)]
    assert [os.waitstatus_to_exitcode(os.waitpid(number, 0)[1]) for number in numbers] == [0, 0]
    assert state(ready.ward) == ready.undisturbed
