"""Removal of locks and partial objects of killed git and DVC processes; those of running processes stay."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from lineage import atomic_write, paths
from lineage.errors import Fault

log = logging.getLogger(__name__)

GIT_LOCKS = ("index.lock", "HEAD.lock", "config.lock", "packed-refs.lock", "refs/**/*.lock", "worktrees/*/*.lock")
WAIT_S, EXIT_WAIT_S = 30.0, 5.0
EMPTY_OBJECT = "1d8cd98f00b204e9800998ecf8427e"  # the name of the object of an empty file, in the folder d4


def remove_stale_locks(folder: Path) -> list[str]:
    """Remove the locks and partial objects of dead processes in a workspace and its worktree; return what was removed.

    DVC treats a killed process as running until its parent has waited for it; the parent of an orphan may never do so.

    Fault if a running git holds its lock for more than half a minute. Hold the workspace lock, and call this before
    DVC's repository is opened: then every entry with the number of this process is from an earlier process.
    """
    stale_marks = [mark for mark in (paths.home() / "run").glob("dvc-*") if not _is_working(mark)]
    rwlock_entries = [
        *_remove_rwlock_entries(folder / ".dvc" / "tmp"),
        *_remove_rwlock_entries(paths.home() / "worktree" / ".dvc" / "tmp"),
    ]
    removed = [
        *_remove_git_locks(folder / ".git"),
        *rwlock_entries,
        *(_remove_partial_objects(paths.home()) if stale_marks else []),
    ]
    for mark in stale_marks:
        mark.unlink(missing_ok=True)
    for name in removed:
        log.warning("removed after a killed run: %s", name)
    return removed


@contextmanager
def marked_dvc_work() -> Iterator[None]:
    """A mark file while DVC works. If the work is killed or fails, it stays, and `mend` checks all objects then."""
    mark = paths.state_path("run", f"dvc-{os.getpid()}-{threading.get_ident()}")
    mark.touch()
    yield
    mark.unlink(missing_ok=True)


def _is_working(mark: Path) -> bool:
    """Whether another process made a mark and still runs."""
    pid = int(mark.name.split("-")[1])
    try:
        return pid != os.getpid() and psutil.Process(pid).create_time() <= mark.stat().st_mtime + 1
    except (psutil.NoSuchProcess, psutil.AccessDenied, FileNotFoundError):
        return False


def _remove_git_locks(folder: Path) -> list[str]:
    """Remove git's lock files, when no git process works in the workspace any more."""
    locks = [path for pattern in GIT_LOCKS for path in folder.glob(pattern)]
    deadline = time.monotonic() + WAIT_S
    while locks and (pid := _git_process(folder.parent)):
        if time.monotonic() > deadline:
            raise Fault(f"git (process {pid}) still holds {locks[0]}; wait until it has ended, then run this again")
        time.sleep(0.2)
        locks = [path for path in locks if path.exists()]
    for path in locks:
        path.unlink(missing_ok=True)
    return [str(path) for path in locks]


def _git_process(folder: Path) -> int | None:
    """The number of a running git process whose working folder is in the workspace, or None."""
    for process in psutil.process_iter(["name"]):
        try:
            if process.info["name"] == "git" and Path(process.cwd()).is_relative_to(folder.resolve()):
                return int(process.pid)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return None


def _remove_rwlock_entries(folder: Path) -> list[str]:
    """Remove the entries of dead processes from DVC's `rwlock`, a table of process numbers.

    The kernel releases DVC's `lock`. A table that cannot be read is deleted: DVC writes it in place.
    """
    path, guard = folder / "rwlock", folder / "rwlock.lock"
    if not path.is_file() or not _is_free(guard):
        return []
    deadline = time.monotonic() + EXIT_WAIT_S
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        living = {mode: _living_holders(table.get(mode, {})) for mode in ("read", "write")}
        while any(living.values()) and time.monotonic() < deadline:  # a killed process needs a moment to end
            time.sleep(0.2)
            living = {mode: _living_holders(table.get(mode, {})) for mode in ("read", "write")}
    except (ValueError, AttributeError, KeyError, TypeError):
        path.unlink()
        return [str(path)]
    if living == {mode: table.get(mode, {}) for mode in living}:
        return []
    atomic_write.write_text(path, json.dumps({mode: entries for mode, entries in living.items() if entries}))
    return [f"entries of dead processes in {path}"]


def _is_free(guard: Path) -> bool:
    """Whether no process holds a lock file of zc.lockfile, which uses flock."""
    if not guard.exists():
        return True
    with guard.open("r+") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def _living_holders(entries: dict[str, Any]) -> dict[str, Any]:
    """The entries of one mode whose process runs: a list of readers, or one writer."""
    living: dict[str, Any] = {}
    for name, holders in entries.items():
        if isinstance(holders, list):
            living_readers = [holder for holder in holders if _is_alive(holder)]
            if living_readers:
                living[name] = living_readers
        elif _is_alive(holders):
            living[name] = holders
    return living


def _is_alive(holder: dict[str, Any]) -> bool:
    """Whether the process of an entry still runs; another process may have its number by now."""
    pid = int(holder["pid"])
    try:
        command_line = " ".join(psutil.Process(pid).cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return False
    except psutil.AccessDenied:
        return True
    return pid != os.getpid() and ("dvc" in command_line or "oncoloop" in command_line or "python" in command_line)


def _remove_partial_objects(home: Path) -> list[str]:
    """Remove partial objects, and DVC's index of objects, which DVC trusts even if it is incomplete.

    DVC writes `*.tmp` next to an object and renames it. But it first tries a reflink under the object's own name: if
    the file system has no reflinks, an empty file exists there for a moment.
    """
    folders = [home / store / "files" / "md5" for store in ("cache", "remote")]
    objects = [path for folder in folders for pattern in ("*.tmp", "??/*") for path in folder.glob(pattern)]
    partial = [
        path for path in objects if path.suffix == ".tmp" or not (path.stat().st_size or path.name == EMPTY_OBJECT)
    ]
    for path in partial:
        path.unlink(missing_ok=True)
    indexes = sorted(Path(os.environ.get("DVC_SITE_CACHE_DIR", home / "cache" / "dvc")).glob("repo/*/index"))
    for index in indexes:
        shutil.rmtree(index)
    return [str(path) for path in (*partial, *indexes)]
