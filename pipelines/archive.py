"""Backup and restore: the workspace and its state as one tar file."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import tarfile
import tempfile
from pathlib import Path

from lineage import ledger, places
from lineage.fault import Fault
from lineage.verdict import Verdict
from pipelines import git, workspace

LEFT_OUT = ("logs", "run", "staging", "worktree", "versions", "sent")


def write(target: Path) -> int:
    """Write the workspace to `target`, databases by SQLite's own backup; the number of bytes. Needs quiet: it locks."""
    if target.exists():
        raise Fault(f"{target} exists already; a backup never overwrites")
    if os.environ.get("ONCOLOOP_DATABASE_URL"):
        raise Fault("the database is elsewhere (ONCOLOOP_DATABASE_URL): back it up with its own tool")
    if places.home().parent != Path.cwd():
        raise Fault(
            f"the state lies outside the workspace, in {places.home()}; back up both folders with a tool of yours"
        )
    temporary = target.with_name(target.name + ".part")
    with (
        workspace.alone("workspace"),
        tempfile.TemporaryDirectory(dir=places.home()) as folder,
        tarfile.open(temporary, "w") as archive,
    ):
        for path in sorted(Path.cwd().rglob("*")):
            name = path.relative_to(Path.cwd())
            if not _left_out(name) and path.is_file():
                source = _copy(path, Path(folder)) if _is_sqlite(path) else path
                archive.add(source, arcname=str(name), recursive=False)
    temporary.replace(target)
    return target.stat().st_size


def _left_out(name: Path) -> bool:
    parts = name.parts
    gone = parts[0] == places.home().name and len(parts) > 1 and (parts[1] in LEFT_OUT or parts[1].startswith("tmp"))
    return gone or name.name.endswith(("-wal", "-shm", ".lock", ".part")) or parts[:2] == (".git", "worktrees")


def _is_sqlite(path: Path) -> bool:
    """Whether a file is a SQLite database, by its header (sqlite.org/fileformat2.html, section 1.3)."""
    with path.open("rb") as handle:
        return handle.read(16) == b"SQLite format 3\x00"


def _copy(path: Path, folder: Path) -> Path:
    """A consistent copy of a SQLite database that may be in use."""
    copy = folder / f"{abs(hash(str(path)))}.db"
    with contextlib.closing(sqlite3.connect(path)) as source, contextlib.closing(sqlite3.connect(copy)) as target:
        source.backup(target)
    return copy


def restore(source: Path, folder: Path) -> Verdict:
    """Bring a backup back into an empty folder; the verdict is that of its ledger."""
    if not source.is_file():
        raise Fault(f"{source} does not exist; give the file that `oncoloop backup` wrote")
    if folder.exists() and any(folder.iterdir()):
        raise Fault(f"{folder} is not empty; a restore never overwrites")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with tarfile.open(source) as archive:
            archive.extractall(folder, filter="data")
    except tarfile.TarError as error:
        raise Fault(f"{source} is not a backup: {error}") from error
    os.environ["ONCOLOOP_HOME"] = str(folder.resolve() / "var")
    workspace.enter(folder)
    git.run("worktree", "prune")
    return ledger.verify()
