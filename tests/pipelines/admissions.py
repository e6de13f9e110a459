"""Workspaces with admitted batches: create, admit in this or a child process, and compare states."""

from __future__ import annotations

import hashlib
import os
import shutil
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
from pipelines.workspace import git
from pipelines.workspace import workspace as workspaces

SOAK = bool(os.environ.get("ONCOLOOP_SOAK"))
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


def assert_next_run_finishes(ready: PreparedWorkspace) -> None:
    """The next run gives the new version with the bytes of an undisturbed run. A second one has nothing to do."""
    run_admission("second")
    assert workspace_state(ready.ward) == ready.undisturbed
    assert git.head() == ledger.events(kind=EventKind.BATCH_ADMITTED)[-1].payload["data_version"]
    assert ledger.verify().outcome.value == "pass"
    assert run_admission("second") is None
