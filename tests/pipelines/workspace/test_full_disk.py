"""A full disk: a small separate file system, which is filled before each step that writes."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lineage.record import ledger
from lineage.record.events import EventKind
from pipelines import cli
from pipelines.flows import ingest
from pipelines.servers import services
from pipelines.workspace import dvc, git
from tests.pipelines.admissions import (
    SOAK,
    PreparedWorkspace,
    assert_next_run_finishes,
    new_workspace_in,
    run_admission,
    run_in_child,
    two_batches,
)
from tests.pipelines.flows.test_interrupted_ingest import server

__all__ = ["server"]

SIZE_MB = 96
STEPS = ("index_incoming", "append_cohorts", "add", "commit", "push", "append")
FREE_KB = (0, 150, 400, 700, 1_000, 1_300, 1_600) if SOAK else ()  # an admission of these scans takes about 2 MB


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file system in memory, which only root can mount."""
    folder = tmp_path_factory.mktemp("disk")
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE_MB}m", "oncoloop-test", str(folder)]
    try:
        process = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no `mount` command for a small disk")
    if process.returncode:
        pytest.skip(f"no small disk can be mounted here: {process.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(scope="module")
def prepared(disk: Path) -> Iterator[PreparedWorkspace]:
    with new_workspace_in(disk / "ward") as folder:
        yield two_batches(folder)


@pytest.fixture
def ready(prepared: PreparedWorkspace) -> Iterator[PreparedWorkspace]:
    prepared.restore()
    yield prepared
    (prepared.ward.parent / "filler").unlink(missing_ok=True)


def fill(disk: Path, free_kb: int = 0) -> None:
    """Fill the disk except for `free_kb` kilobytes."""
    with (disk / "filler").open("wb", buffering=0) as filler, pytest.raises(OSError, match="No space left"):
        while True:
            filler.write(bytes(4096))
    os.truncate(disk / "filler", max(0, (disk / "filler").stat().st_size - free_kb * 1024))


def exit_code_of(function: Callable[[], object], message_file: Path) -> int:
    """Run a function in a child process, with its error message in a file; return its exit code."""

    def report_error() -> None:
        try:
            function()
        except Exception as error:
            message_file.write_text(cli._disk_full_message(error) or repr(error))
            os._exit(1)

    return run_in_child(report_error)


@pytest.mark.parametrize("step", STEPS)
def test_an_admission_fails_on_a_full_disk_and_completes_later(
    ready: PreparedWorkspace, disk: Path, tmp_path: Path, step: str
) -> None:
    """It fails with one sentence as long as the disk is full; then it ends with the bytes of an undisturbed run."""
    message_file = tmp_path / "told"

    def run_on_full_disk() -> None:
        module = {
            "index_incoming": ingest.batch_manifest,
            "append_cohorts": ingest.dataset_cohorts,
            "append": ledger,
            "commit": git,
        }.get(step, dvc)
        original = getattr(module, step)

        def fill_then_call(*arguments: object, **keywords: object) -> object:
            fill(disk)
            return original(*arguments, **keywords)

        setattr(module, step, fill_then_call)
        run_admission("second")

    for attempt in (run_on_full_disk, lambda: run_admission("second")):
        assert exit_code_of(attempt, message_file) == 1
        assert message_file.read_text().startswith("the disk that holds ") and " is full; " in message_file.read_text()
    (disk / "filler").unlink()
    assert_next_run_finishes(ready)


@pytest.mark.parametrize("free_kb", FREE_KB)
def test_the_command_fails_with_one_sentence_and_completes_later(
    ready: PreparedWorkspace, disk: Path, server: dict[str, str], free_kb: int
) -> None:
    """Exit code 1 and one sentence, at any step; with free space, the same command admits the batch."""
    fill(disk, free_kb)
    command = [services.program("oncoloop"), "ingest", "inbox/second"]
    process = subprocess.run(command, env=server, capture_output=True, text=True, check=False)
    sentences = [line for line in process.stderr.splitlines() if line.startswith("oncoloop: ")]
    assert process.returncode == 1, process.stderr
    assert len(sentences) == 1 and " is full; " in sentences[0], process.stderr
    assert "Traceback" not in process.stderr
    (disk / "filler").unlink()
    assert subprocess.run(command, env=server, capture_output=True, check=False).returncode == 0
    assert git.run("status", "--porcelain") == "" and ledger.verify().outcome.value == "pass"
    assert ledger.events(kind=EventKind.BATCH_ADMITTED)[-1].payload["data_version"] == git.head()
    target = ready.ward / "data/batches/brain-mr/second.dvc"
    shutil.rmtree(target.with_suffix(""))
    shutil.rmtree(ready.ward / "var/cache/files")  # the remote is complete too
    with dvc.repository() as repo:
        repo.pull(targets=[str(target)])
    assert dvc._is_complete(target.with_suffix(""))
