"""`oncoloop init`: a folder with its own params.yaml, dvc.yaml, git, DVC, keys and database."""

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
from pipelines import params
from pipelines.workspace import dvc, git, key_backup, relocation

log = logging.getLogger(__name__)

SHIPPED = ("params.yaml", "dvc.yaml", "requirements.lock")
IGNORED = "var/\n/data/quarantine/\n/data/processed/\n/models/\n/evaluation/\n/inbox/\n/try/\n"


def shipped(name: str) -> Path:
    """A file that comes with the product: beside the packages in a checkout, under share/ in an installation."""
    for folder in (Path(__file__).resolve().parents[2], Path(sys.prefix) / "share" / "oncoloop"):
        if (folder / name).is_file():
            return folder / name
    raise Fault(f"the shipped {name} is missing from this installation; install oncoloop again")


def create(folder: Path, new_keys: bool = False) -> bool:
    """Make a workspace of `folder`; finishes a half-made one and leaves a whole one alone (then False).

    Fault where its keys were left out of the backup that it came from, unless `new_keys` gives them up.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _settle(folder)
    if lost := key_backup.missing():
        if not new_keys:
            raise Fault("; ".join(key_backup.explain(lost, folder)))
        key_backup.give_up()
    before = (folder / ".dvc" / "config").is_file() and paths.home().is_dir()
    for name in ("params.yaml", "dvc.yaml"):
        if not (folder / name).exists():
            shutil.copyfile(shipped(name), folder / name)
    (folder / "inbox").mkdir(exist_ok=True)
    keys.create()
    database.migrate()
    for task in params.load(folder).tasks:
        prepare_task(folder, task)
    dvc.initialise(folder, IGNORED)
    relocation.settle(folder.resolve())
    decisions.begin()
    if not ledger.events(kind="workspace.created", limit=1):
        ledger.append("workspace.created", "workspace", {"version": git.head(folder)})
    return not before


def prepare_task(folder: Path, task: str) -> None:
    """The folders and the empty cohort table of a task, so that DVC's matrix finds them."""
    from data.dataset.cohorts import COHORTS

    batches, cohorts = folder / "data" / "batches" / task, folder / "data" / "cohorts" / f"{task}.csv"
    batches.mkdir(parents=True, exist_ok=True)
    cohorts.parent.mkdir(parents=True, exist_ok=True)
    (batches / ".gitkeep").touch()
    if not cohorts.exists():
        cohorts.write_text(",".join(COHORTS) + "\n", encoding="utf-8")


def enter(folder: Path) -> Path:
    """Make `folder` the workspace of this process: working folder, vendors' paths, a present database."""
    folder = folder.resolve()
    if not folder.is_dir():
        raise Fault(f"the workspace {folder} does not exist; make one with `oncoloop init {folder.name}`")
    relocation.check_access(folder)
    missing = [name for name in ("params.yaml", "dvc.yaml", ".dvc/config", ".git") if not (folder / name).exists()]
    if missing:
        raise Fault(f"{folder} is not a whole workspace ({missing[0]} is missing); `oncoloop init` makes or mends one")
    _settle(folder)
    git.check(folder)
    relocation.settle(folder)
    if lost := key_backup.missing():
        log.warning("%s has no keys (%s): `oncoloop restore FILE.keys %s` brings them", folder, ", ".join(lost), folder)
    elif not (paths.home() / "keys").is_dir():
        raise Fault(f"{paths.home()} holds no keys; `oncoloop init` in {folder} mends it")
    database.migrate()
    if not lost:
        keys.create(("door",))
    decisions.begin()
    return folder


def _settle(folder: Path) -> None:
    """Work in `folder`; ONCOLOOP_HOME is fixed now, so that no later change of folder moves the state."""
    os.chdir(folder)
    os.environ.setdefault("ONCOLOOP_HOME", str(folder / "var"))
    scripts = str(Path(sys.executable).parent)
    if scripts not in os.environ.get("PATH", "").split(os.pathsep):
        os.environ["PATH"] = scripts + os.pathsep + os.environ.get("PATH", "")  # DVC calls `oncoloop stage`
    os.environ["PYTHONSAFEPATH"] = "1"  # a workspace has a data/ folder that would shadow ours in child processes
    relocation.check_owner(folder)
    paths.set_environment()


def _lock(handle: IO[str]) -> None:
    """Lock a file now. BlockingIOError if another run holds it; who only looks at it holds it for a moment."""
    for _ in range(4):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            time.sleep(0.05)
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextmanager
def alone(name: str, wait: bool = True) -> Iterator[None]:
    """One at a time in this workspace: ingest and retrain share the lock `workspace`, a watch locks its task."""
    path = paths.place("run", f"{name}.lock")
    with path.open("w") as handle:
        try:
            _lock(handle)
        except BlockingIOError as error:
            if not wait:
                raise Fault(f"another run holds {path.name}; wait for it or look at `oncoloop status`") from error
            log.info("waiting for the run that holds %s", path.name)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
