"""The workspace folder: created by `oncoloop init`, entered by every command, locked by one run at a time."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from lineage import decisions, keys, paths
from lineage.errors import Fault
from lineage.record import database, ledger
from lineage.record.events import EventKind
from pipelines import params
from pipelines.workspace import dvc, git, key_backup, relocation

log = logging.getLogger(__name__)

GITIGNORE = "var/\n/data/quarantine/\n/data/processed/\n/models/\n/evaluation/\n/inbox/\n/try/\n"


def shipped_file(name: str) -> Path:
    """A file that is shipped with Oncoloop: next to the packages in a checkout, in share/ in an installation."""
    for folder in (Path(__file__).resolve().parents[2], Path(sys.prefix) / "share" / "oncoloop"):
        if (folder / name).is_file():
            return folder / name
    raise Fault(f"the shipped {name} is missing from this installation; install oncoloop again")


def create(folder: Path, new_keys: bool = False) -> bool:
    """Make `folder` a workspace, or complete an incomplete one; False if it was a workspace already.

    Fault if it was restored without its keys, unless `new_keys` accepts their loss.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _set_up_process(folder)
    if missing_purposes := key_backup.missing_keys():
        if not new_keys:
            raise Fault("; ".join(key_backup.explain_missing(missing_purposes, folder)))
        key_backup.accept_loss()
    existed = (folder / ".dvc" / "config").is_file() and paths.home().is_dir()
    for name in ("params.yaml", "dvc.yaml"):
        if not (folder / name).exists():
            shutil.copyfile(shipped_file(name), folder / name)
    (folder / "inbox").mkdir(exist_ok=True)
    keys.create()
    database.migrate()
    for task in params.load(folder).tasks:
        prepare_task(folder, task)
    dvc.initialise(folder, GITIGNORE)
    relocation.update_paths(folder.resolve())
    decisions.start_signing()
    if not ledger.events(kind=EventKind.WORKSPACE_CREATED, limit=1):
        ledger.append(EventKind.WORKSPACE_CREATED, "workspace", {"version": git.head(folder)})
    return not existed


def prepare_task(folder: Path, task: str) -> None:
    """Create the folders and the empty cohort table of a task, which DVC's matrix needs."""
    from data.dataset.cohorts import COHORTS

    batches, cohorts = folder / "data" / "batches" / task, folder / "data" / "cohorts" / f"{task}.csv"
    batches.mkdir(parents=True, exist_ok=True)
    cohorts.parent.mkdir(parents=True, exist_ok=True)
    (batches / ".gitkeep").touch()
    if not cohorts.exists():
        cohorts.write_text(",".join(COHORTS) + "\n", encoding="utf-8")


def enter(folder: Path) -> Path:
    """Make `folder` the workspace of this process: current folder, paths of vendors, migrated database."""
    folder = folder.resolve()
    if not folder.is_dir():
        raise Fault(f"the workspace {folder} does not exist; make one with `oncoloop init {folder.name}`")
    relocation.check_access(folder)
    missing = [name for name in ("params.yaml", "dvc.yaml", ".dvc/config", ".git") if not (folder / name).exists()]
    if missing:
        raise Fault(f"{folder} is not a complete workspace ({missing[0]} is missing); `oncoloop init` repairs it")
    _set_up_process(folder)
    git.check(folder)
    relocation.update_paths(folder)
    if missing_purposes := key_backup.missing_keys():
        log.warning(
            "%s has no keys (%s): restore them with `oncoloop restore FILE.keys %s`",
            folder,
            ", ".join(missing_purposes),
            folder,
        )
    elif not (paths.home() / "keys").is_dir():
        raise Fault(f"{paths.home()} contains no keys; repair it with `oncoloop init {folder}`")
    database.migrate()
    if not missing_purposes:
        keys.create(("door", "source"))  # that workspaces of earlier versions lack
    decisions.start_signing()
    return folder


def _set_up_process(folder: Path) -> None:
    """Make `folder` the current folder and fix ONCOLOOP_HOME, so that a later change of folder has no effect on it."""
    os.chdir(folder)
    os.environ.setdefault("ONCOLOOP_HOME", str(folder / "var"))
    scripts = str(Path(sys.executable).parent)
    if scripts not in os.environ.get("PATH", "").split(os.pathsep):
        os.environ["PATH"] = scripts + os.pathsep + os.environ.get("PATH", "")  # DVC calls `oncoloop stage`
    os.environ["PYTHONSAFEPATH"] = "1"  # a workspace's data/ folder would hide our package in child processes
    relocation.check_owner(folder)
    paths.set_environment()


def _lock_file(handle: IO[str]) -> None:
    """Lock a file, with a few attempts, since a status check holds it briefly. BlockingIOError if it is locked."""
    for _ in range(4):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            time.sleep(0.05)
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextmanager
def hold_lock(name: str, wait: bool = True) -> Iterator[None]:
    """Hold a lock of this workspace: `workspace` for ingest and retraining, the name of its task for a watch.

    Fault without `wait` if another run holds it.
    """
    path = paths.state_path("run", f"{name}.lock")
    with path.open("w") as handle:
        try:
            _lock_file(handle)
        except BlockingIOError as error:
            if not wait:
                raise Fault(f"another run holds {path.name}; wait until it ends, or see `oncoloop status`") from error
            log.info("waiting for the run that holds %s", path.name)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
