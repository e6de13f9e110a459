"""What a killed git or DVC left behind, locks above all: mended by name, but never what belongs to a living one."""

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

from lineage import paths
from lineage.errors import Fault

log = logging.getLogger(__name__)

GIT_LOCKS = ("index.lock", "HEAD.lock", "config.lock", "packed-refs.lock", "refs/**/*.lock", "worktrees/*/*.lock")
WAIT_S, DYING_S = 30.0, 5.0
NOTHING = "1d8cd98f00b204e9800998ecf8427e"  # the name of an empty file's object, in the folder d4


def mend(folder: Path) -> list[str]:
    """Remove the locks and the half-written objects of dead processes in a workspace; the removed ones by name.

    The worktree that retraining works in is mended with it: DVC takes a killed process for a living one until its
    parent has asked after it, which an orphan's may never do.

    Fault if a living git keeps its lock for longer than half a minute. Call it while holding the workspace's own lock
    and before DVC's repository is opened: whatever DVC noted under this process's number is then of an earlier one.
    """
    marks = [mark for mark in (paths.home() / "run").glob("dvc-*") if not _works(mark)]
    tables = [*_dvc(folder / ".dvc" / "tmp"), *_dvc(paths.home() / "worktree" / ".dvc" / "tmp")]
    mended = [*_git(folder / ".git"), *tables, *(_halves(paths.home()) if marks else [])]
    for mark in marks:
        mark.unlink(missing_ok=True)
    for name in mended:
        log.warning("left behind by a killed run and removed: %s", name)
    return mended


@contextmanager
def noted() -> Iterator[None]:
    """A mark on disk while DVC works; it stays when the work is killed or fails, and `mend` looks closer then."""
    mark = paths.place("run", f"dvc-{os.getpid()}-{threading.get_ident()}")
    mark.touch()
    yield
    mark.unlink(missing_ok=True)


def _works(mark: Path) -> bool:
    """Whether the process that made a mark still runs, which is another one than this."""
    number = int(mark.name.split("-")[1])
    try:
        return number != os.getpid() and psutil.Process(number).create_time() <= mark.stat().st_mtime + 1
    except (psutil.NoSuchProcess, psutil.AccessDenied, FileNotFoundError):
        return False


def _git(folder: Path) -> list[str]:
    """git's locks are files that exist; whose they are is asked of the processes that work here."""
    left = [path for pattern in GIT_LOCKS for path in folder.glob(pattern)]
    deadline = time.monotonic() + WAIT_S
    while left and (owner := _working(folder.parent)):
        if time.monotonic() > deadline:
            raise Fault(f"git (process {owner}) still holds {left[0]}; wait until it has ended, then run this again")
        time.sleep(0.2)
        left = [path for path in left if path.exists()]
    for path in left:
        path.unlink(missing_ok=True)
    return [str(path) for path in left]


def _working(folder: Path) -> int | None:
    """The number of a living git whose working folder is in the workspace."""
    for process in psutil.process_iter(["name"]):
        try:
            if process.info["name"] == "git" and Path(process.cwd()).is_relative_to(folder.resolve()):
                return int(process.pid)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return None


def _dvc(folder: Path) -> list[str]:
    """DVC's `lock` is freed by the kernel; its `rwlock` is a table of process numbers, written in place."""
    path, guard = folder / "rwlock", folder / "rwlock.lock"
    if not path.is_file() or not _free(guard):
        return []
    deadline = time.monotonic() + DYING_S
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        living = {mode: _living(table.get(mode, {})) for mode in ("read", "write")}
        while any(living.values()) and time.monotonic() < deadline:  # a killed process takes a moment to be gone
            time.sleep(0.2)
            living = {mode: _living(table.get(mode, {})) for mode in ("read", "write")}
    except (ValueError, AttributeError, KeyError, TypeError):
        path.unlink()
        return [str(path)]
    if living == {mode: table.get(mode, {}) for mode in living}:
        return []
    _write(path, json.dumps({mode: entries for mode, entries in living.items() if entries}))
    return [f"entries of dead processes in {path}"]


def _free(guard: Path) -> bool:
    """Whether no process holds a lock file of zc.lockfile, which locks with flock."""
    if not guard.exists():
        return True
    with guard.open("r+") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def _living(entries: dict[str, Any]) -> dict[str, Any]:
    """The entries of one mode whose process lives: a reader is a list of them, a writer one."""
    kept: dict[str, Any] = {}
    for name, holders in entries.items():
        if isinstance(holders, list):
            alive = [holder for holder in holders if _alive(holder)]
            if alive:
                kept[name] = alive
        elif _alive(holders):
            kept[name] = holders
    return kept


def _alive(holder: dict[str, Any]) -> bool:
    """Whether the process that made an entry still runs; another one may have got its number since."""
    number = int(holder["pid"])
    try:
        running = " ".join(psutil.Process(number).cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return False
    except psutil.AccessDenied:
        return True
    return number != os.getpid() and ("dvc" in running or "oncoloop" in running or "python" in running)


def _halves(home: Path) -> list[str]:
    """Half-written objects, and DVC's index of what lies where, which it believes even if it is half-written.

    DVC writes `*.tmp` beside an object and renames it, but tries a reflink first, under the object's own name: where
    the file system knows none, an empty file stands there for a moment.
    """
    folders = [home / store / "files" / "md5" for store in ("cache", "remote")]
    found = [path for folder in folders for pattern in ("*.tmp", "??/*") for path in folder.glob(pattern)]
    halves = [path for path in found if path.suffix == ".tmp" or not (path.stat().st_size or path.name == NOTHING)]
    for path in halves:
        path.unlink(missing_ok=True)
    indexes = sorted(Path(os.environ.get("DVC_SITE_CACHE_DIR", home / "cache" / "dvc")).glob("repo/*/index"))
    for index in indexes:
        shutil.rmtree(index)
    return [str(path) for path in (*halves, *indexes)]


def _write(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
