"""Backup and restore: the workspace and its state as one tar file; its keys stay out of it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import sqlite3
import tarfile
import tempfile
from pathlib import Path

from lineage import paths
from lineage.errors import Fault
from lineage.record import ledger
from lineage.record.verdict import Verdict
from pipelines.workspace import git, key_backup, workspace

# Folders of the state that are made again, and the keys, which go into a file of their own
LEFT_OUT = ("logs", "run", "staging", "worktree", "versions", "sent", "keys")
BESIDE = ("-wal", "-shm")  # what SQLite keeps beside a database; its copy holds it
FILE, FOLDER = 0o600, 0o700


def write(target: Path) -> int:
    """Write the workspace to `target`, databases by SQLite's own backup; the number of bytes. Needs quiet: it locks.

    The file is readable by its owner alone. Keys are left out; their hashes are in it, to know them again.
    """
    if target.exists():
        raise Fault(f"{target} exists already; a backup never overwrites")
    if os.environ.get("ONCOLOOP_DATABASE_URL"):
        raise Fault("the database is elsewhere (ONCOLOOP_DATABASE_URL): back it up with its own tool")
    if paths.home().parent != Path.cwd():
        raise Fault(
            f"the state lies outside the workspace, in {paths.home()}; back up both folders with a tool of yours"
        )
    part = target.with_name(target.name + ".part")
    part.unlink(missing_ok=True)
    try:
        handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE)
        with (
            workspace.alone("workspace"),
            tempfile.TemporaryDirectory(dir=paths.home()) as folder,
            os.fdopen(handle, "wb") as stream,
            tarfile.open(fileobj=stream, mode="w") as archive,
        ):
            for path in sorted(Path.cwd().rglob("*")):
                name = path.relative_to(Path.cwd())
                if not _left_out(name) and (path.is_file() or (path.is_dir() and not path.is_symlink())):
                    source = _copy(path, Path(folder)) if path.is_file() and _is_sqlite(path) else path
                    archive.add(source, arcname=str(name), recursive=False)
            if not key_backup.missing():
                _add_text(archive, f"{paths.home().name}/{key_backup.EXPECTED}", json.dumps(key_backup.hashes()))
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return target.stat().st_size


def _left_out(name: Path) -> bool:
    """Locks of git and DVC, what is made again, and what was half written. `dvc.lock` and locks of packages stay."""
    parts, state = name.parts, paths.home().name
    if parts[0] == ".git":
        return name.suffix == ".lock" or parts[1:2] == ("worktrees",)
    if parts[0] == ".dvc":
        return parts[1:2] == ("tmp",)
    if parts[0] == state:
        return parts[1:2] != () and (parts[1] in LEFT_OUT or parts[1].startswith(("tmp", "signed-in-")) or _half(name))
    return len(parts) == 1 and _half(name)


def _half(name: Path) -> bool:
    """Whether a file is one that a killed run left, or lies beside a database."""
    if name.suffix == ".part":
        return True
    beside = next((ending for ending in BESIDE if name.name.endswith(ending)), "")
    return bool(beside) and _is_sqlite(name.with_name(name.name.removesuffix(beside)))


def _is_sqlite(path: Path) -> bool:
    """Whether a file is a SQLite database, by its header (sqlite.org/fileformat2.html, section 1.3)."""
    if not path.is_file():
        return False
    with path.open("rb") as handle:
        return handle.read(16) == b"SQLite format 3\x00"


def _copy(path: Path, folder: Path) -> Path:
    """A consistent copy of a SQLite database that may be in use."""
    copy = folder / f"{abs(hash(str(path)))}.db"
    with contextlib.closing(sqlite3.connect(path)) as source, contextlib.closing(sqlite3.connect(copy)) as target:
        source.backup(target)
    return copy


def _add_text(archive: tarfile.TarFile, name: str, text: str) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(text), FILE
    archive.addfile(member, io.BytesIO(text.encode("ascii")))


def restore(source: Path, folder: Path, keys: dict[str, str] | None = None) -> Verdict:
    """Bring a backup back into an empty folder; the verdict is that of its ledger.

    Without `keys` (of `sealed_keys.unseal`) the workspace waits for them: `sealed_keys.missing` names them.
    """
    if not source.is_file():
        raise Fault(f"{source} does not exist; give the file that `oncoloop backup` wrote")
    if folder.exists() and any(folder.iterdir()):
        raise Fault(f"{folder} is not empty; a restore never overwrites")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with tarfile.open(source) as archive:
            _extract(archive, folder)
    except Fault:
        _empty(folder)
        raise
    except (tarfile.TarError, KeyError) as error:
        _empty(folder)
        raise Fault(f"{source} is not a backup: {error}") from error
    home = folder.resolve() / "var"
    os.environ["ONCOLOOP_HOME"] = str(home)
    if (home / "keys").is_dir():  # of a backup that held them, as they once did
        (home / key_backup.EXPECTED).unlink(missing_ok=True)
    elif keys is not None:
        try:
            key_backup.bring(keys)
        except Fault:
            _empty(folder)
            raise
    workspace.enter(folder)
    git.run("worktree", "prune")
    return ledger.verify()


def _extract(archive: tarfile.TarFile, folder: Path) -> None:
    """Files, folders and links that stay inside, for the owner alone, whatever the backup says. Fault for all else.

    The filters of tarfile do as much, but the Python of some systems (3.11.2 of Debian 12) has none.
    """
    root = folder.resolve()
    for member in archive:
        path = root / member.name
        leads = (path.parent / member.linkname).resolve() if member.issym() else path.resolve()
        if not leads.is_relative_to(root) or not path.parent.resolve().is_relative_to(root):
            raise Fault(f"the backup holds {member.name!r}, which leads out of the folder; it is not restored")
        path.parent.mkdir(parents=True, exist_ok=True)
        if member.isdir():
            path.mkdir(exist_ok=True)
            path.chmod(FOLDER)
        elif member.issym():
            path.symlink_to(member.linkname)
        elif content := archive.extractfile(member):  # of a hard link: what it leads to
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, (member.mode | 0o200) & 0o700)
            with os.fdopen(handle, "wb") as stream:
                shutil.copyfileobj(content, stream)
            os.utime(path, (member.mtime, member.mtime))
            path.chmod((member.mode or FILE) & 0o700)
        else:
            raise Fault(f"the backup holds {member.name!r}, which is no file; it is not restored")


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
