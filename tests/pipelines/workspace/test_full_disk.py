"""A disk that is really full: a small file system of its own, filled before each step that writes."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lineage.record import ledger
from pipelines import cli
from pipelines.flows import ingest
from pipelines.servers import services
from pipelines.workspace import dvc, git
from tests.pipelines.flows.test_atomic_admission import SOAK, Ready, child, finished, made_in, run, two_batches
from tests.pipelines.flows.test_interrupted_ingest import server

__all__ = ["server"]

SIZE_MB = 96
STEPS = ("index_batch", "append_cohorts", "add", "commit", "push", "append")
LEFT_KB = (0, 150, 400, 700, 1_000, 1_300, 1_600) if SOAK else ()  # an admission of these scans takes about 2 MB


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file system in memory; mounting one takes root."""
    folder = tmp_path_factory.mktemp("disk")
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE_MB}m", "oncoloop-test", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no `mount` here to make a small disk with")
    if done.returncode:
        pytest.skip(f"no small disk can be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(scope="module")
def made(disk: Path) -> Iterator[Ready]:
    with made_in(disk / "ward") as folder:
        yield two_batches(folder)


@pytest.fixture
def ready(made: Ready) -> Iterator[Ready]:
    made.restore()
    yield made
    (made.ward.parent / "filler").unlink(missing_ok=True)


def fill(disk: Path, left_kb: int = 0) -> None:
    """Write until no byte is left but so many."""
    with (disk / "filler").open("wb", buffering=0) as filler, pytest.raises(OSError, match="No space left"):
        while True:
            filler.write(bytes(4096))
    os.truncate(disk / "filler", max(0, (disk / "filler").stat().st_size - left_kb * 1024))


def said(work: Callable[[], object], told: Path) -> int:
    """Work in a process of its own; what the command would say of its end goes to a file. Its exit code."""

    def speaking() -> None:
        try:
            work()
        except Exception as error:
            told.write_text(cli._disk_full_message(error) or repr(error))
            os._exit(1)

    return child(speaking)


@pytest.mark.parametrize("step", STEPS)
def test_no_room_from_a_step_on(ready: Ready, disk: Path, tmp_path: Path, step: str) -> None:
    """It fails with one sentence, again while there is no room, and then ends with the bytes of an undisturbed run."""
    told = tmp_path / "told"

    def narrow() -> None:
        home = {
            "index_batch": ingest.batch_manifest,
            "append_cohorts": ingest.dataset_cohorts,
            "append": ledger,
            "commit": git,
        }.get(step, dvc)
        real = getattr(home, step)

        def filled(*given: object, **named: object) -> object:
            fill(disk)
            return real(*given, **named)

        setattr(home, step, filled)
        run("second")

    for work in (narrow, lambda: run("second")):
        assert said(work, told) == 1
        assert told.read_text().startswith("the disk that holds ") and " is full; " in told.read_text()
    (disk / "filler").unlink()
    finished(ready)


@pytest.mark.parametrize("left", LEFT_KB)
def test_the_command_with_too_little_room(ready: Ready, disk: Path, server: dict[str, str], left: int) -> None:
    """Exit 1 and one sentence, wherever it ran out; with room again, the same command admits the batch."""
    fill(disk, left)
    command = [services.program("oncoloop"), "ingest", "inbox/second"]
    done = subprocess.run(command, env=server, capture_output=True, text=True, check=False)
    sentences = [line for line in done.stderr.splitlines() if line.startswith("oncoloop: ")]
    assert done.returncode == 1, done.stderr
    assert len(sentences) == 1 and " is full; " in sentences[0], done.stderr
    assert "Traceback" not in done.stderr
    (disk / "filler").unlink()
    assert subprocess.run(command, env=server, capture_output=True, check=False).returncode == 0
    assert git.run("status", "--porcelain") == "" and ledger.verify().outcome.value == "pass"
    assert ledger.events(kind="batch.admitted")[-1].payload["data_version"] == git.head()
    target = ready.ward / "data/batches/brain-mr/second.dvc"
    shutil.rmtree(target.with_suffix(""))
    shutil.rmtree(ready.ward / "var/cache/files")  # whole in the remote too
    with dvc.repository() as repo:
        repo.pull(targets=[str(target)])
    assert dvc._is_complete(target.with_suffix(""))
