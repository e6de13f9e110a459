"""Backup and restore: the workspace and its state as one tar file, without its keys."""

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

from lineage import atomic_write, paths
from lineage.errors import Fault
from lineage.record import ledger
from lineage.record.verdict import Verdict
from pipelines.workspace import git, key_backup, workspace

# Folders of the state that are created again when needed, and the keys, which have a file of their own
LEFT_OUT = ("logs", "run", "staging", "worktree", "versions", "sent", "keys")
SQLITE_SUFFIXES = (
    "-wal",
    "-shm",
)  # files that SQLite writes next to a database; the copy of the database contains them
FILE_MODE, FOLDER_MODE = 0o600, 0o700


def write(target: Path) -> int:
    """Write the workspace to `target`, with the workspace lock held; return the number of bytes.

    Databases are copied with SQLite's backup function. Only the owner can read the file. It contains no keys but their
    hashes, so that a restore can check the keys.
    """
    if target.exists():
        raise Fault(f"{target} exists already; a backup never overwrites a file: choose another name")
    if os.environ.get("ONCOLOOP_DATABASE_URL"):
        raise Fault("the database is not in the workspace (ONCOLOOP_DATABASE_URL): back it up with its own tool")
    if paths.home().parent != Path.cwd():
        raise Fault(f"the state folder {paths.home()} is outside the workspace; back up both folders with another tool")
    with atomic_write.replace_file(target) as temporary:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE)
        with (
            workspace.hold_lock("workspace"),
            tempfile.TemporaryDirectory(dir=paths.home()) as folder,
            os.fdopen(descriptor, "wb") as stream,
            tarfile.open(fileobj=stream, mode="w") as archive,
        ):
            for path in sorted(Path.cwd().rglob("*")):
                name = path.relative_to(Path.cwd())
                if not _is_left_out(name) and (path.is_file() or (path.is_dir() and not path.is_symlink())):
                    source = _copy_database(path, Path(folder)) if path.is_file() and _is_sqlite(path) else path
                    archive.add(source, arcname=str(name), recursive=False)
            if not key_backup.missing_keys():
                _add_text(
                    archive, f"{paths.home().name}/{key_backup.KEY_HASHES_FILE}", json.dumps(key_backup.key_hashes())
                )
    return target.stat().st_size


def _is_left_out(name: Path) -> bool:
    """Whether a path is a lock of git or DVC, created again when needed, or partial; `dvc.lock` is not left out."""
    parts, state = name.parts, paths.home().name
    if parts[0] == ".git":
        return name.suffix == ".lock" or parts[1:2] == ("worktrees",)
    if parts[0] == ".dvc":
        return parts[1:2] == ("tmp",)
    if parts[0] == state:
        return parts[1:2] != () and (
            parts[1] in LEFT_OUT or parts[1].startswith(("tmp", "signed-in-")) or _is_partial(name)
        )
    return len(parts) == 1 and _is_partial(name)


def _is_partial(name: Path) -> bool:
    """Whether a file is the partial file of a killed run, or one that SQLite writes next to a database."""
    if name.suffix == ".part":
        return True
    suffix = next((ending for ending in SQLITE_SUFFIXES if name.name.endswith(ending)), "")
    return bool(suffix) and _is_sqlite(name.with_name(name.name.removesuffix(suffix)))


def _is_sqlite(path: Path) -> bool:
    """Whether a file is a SQLite database, by its header (sqlite.org/fileformat2.html, section 1.3)."""
    if not path.is_file():
        return False
    with path.open("rb") as handle:
        return handle.read(16) == b"SQLite format 3\x00"


def _copy_database(path: Path, folder: Path) -> Path:
    """A consistent copy of a SQLite database, which may be in use."""
    copy = folder / f"{abs(hash(str(path)))}.db"
    with contextlib.closing(sqlite3.connect(path)) as source, contextlib.closing(sqlite3.connect(copy)) as target:
        source.backup(target)
    return copy


def _add_text(archive: tarfile.TarFile, name: str, text: str) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(text), FILE_MODE
    archive.addfile(member, io.BytesIO(text.encode("ascii")))


def restore(source: Path, folder: Path, keys: dict[str, str] | None = None) -> Verdict:
    """Restore a backup into an empty folder; return the verdict on its ledger.

    Without `keys` (from `key_backup.unseal`), the workspace waits for them: `key_backup.missing_keys` names them.
    """
    if not source.is_file():
        raise Fault(f"{source} does not exist; give the file that `oncoloop backup` wrote")
    if folder.exists() and any(folder.iterdir()):
        raise Fault(f"{folder} is not empty; a restore never overwrites: choose an empty folder")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with tarfile.open(source) as archive:
            _extract(archive, folder)
    except Fault:
        _clear_folder(folder)
        raise
    except (tarfile.TarError, KeyError) as error:
        _clear_folder(folder)
        raise Fault(f"{source} is not a backup: {error}") from error
    home = folder.resolve() / "var"
    os.environ["ONCOLOOP_HOME"] = str(home)
    if (home / "keys").is_dir():  # an older backup contains its keys
        (home / key_backup.KEY_HASHES_FILE).unlink(missing_ok=True)
    elif keys is not None:
        try:
            key_backup.restore_keys(keys)
        except Fault:
            _clear_folder(folder)
            raise
    workspace.enter(folder)
    git.run("worktree", "prune")
    return ledger.verify()


def _extract(archive: tarfile.TarFile, folder: Path) -> None:
    """Extract files, folders and links that stay inside the folder, readable by the owner only. Fault for the rest.

    The filters of `tarfile` do the same, but some Python versions (3.11.2 of Debian 12) have none.
    """
    root = folder.resolve()
    for member in archive:
        path = root / member.name
        destination = (path.parent / member.linkname).resolve() if member.issym() else path.resolve()
        if not destination.is_relative_to(root) or not path.parent.resolve().is_relative_to(root):
            raise Fault(f"the backup contains {member.name!r}, which leads out of the folder; it is not restored")
        path.parent.mkdir(parents=True, exist_ok=True)
        if member.isdir():
            path.mkdir(exist_ok=True)
            path.chmod(FOLDER_MODE)
        elif member.issym():
            path.symlink_to(member.linkname)
        elif content := archive.extractfile(member):  # for a hard link: its target
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, (member.mode | 0o200) & 0o700)
            with os.fdopen(descriptor, "wb") as stream:
                shutil.copyfileobj(content, stream)
            os.utime(path, (member.mtime, member.mtime))
            path.chmod((member.mode or FILE_MODE) & 0o700)
        else:
            raise Fault(f"the backup contains {member.name!r}, which is not a regular file; it is not restored")


def _clear_folder(folder: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
