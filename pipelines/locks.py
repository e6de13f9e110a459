"""Lock files that a killed git or DVC left behind: mended by name when their owner is dead, never a living one's."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import time
from pathlib import Path
from typing import Any

import psutil

from lineage import places
from lineage.fault import Fault

log = logging.getLogger(__name__)

GIT_LOCKS = ("index.lock", "HEAD.lock", "config.lock", "packed-refs.lock", "refs/**/*.lock", "worktrees/*/*.lock")
WAIT_S = 30.0


def mend(folder: Path) -> list[str]:
    """Remove the locks of dead processes in a workspace; the removed ones by name.

    Fault if a living git keeps its lock for longer than half a minute. Call it while holding the workspace's own lock
    and before DVC's repository is opened: whatever DVC noted under this process's number is then of an earlier one.
    """
    mended = [*_git(folder / ".git"), *_dvc(folder / ".dvc" / "tmp"), *_halves(places.home())]
    for name in mended:
        log.warning("left behind by a killed run and removed: %s", name)
    return mended


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
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
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
    """Half-written objects: DVC writes `*.tmp` beside an object and renames it."""
    folders = [home / store / "files" / "md5" for store in ("cache", "remote")]
    found = [path for folder in folders for pattern in ("*.tmp", "??/*.tmp") for path in folder.glob(pattern)]
    for path in found:
        path.unlink(missing_ok=True)
    return [str(path) for path in found]


def _write(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
