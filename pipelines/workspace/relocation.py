"""A workspace that was moved or copied: what names its earlier folder is changed to where it lies now."""

from __future__ import annotations

import configparser
import fcntl
import io
import logging
import os
import shutil
from pathlib import Path

from lineage import paths as lineage_paths
from lineage import registry
from lineage.errors import Fault
from pipelines.workspace import dvc

log = logging.getLogger(__name__)

RECORD = "workspace.path"
TREES = ("worktree", "sent/*", "versions/*")  # git worktrees below the state folder


def settle(folder: Path) -> None:
    """Compare where a workspace lies with where it lay the last time; call it on entry, with the environment set.

    DVC's settings, git's links to worktrees and MLflow's addresses of artefacts are brought along. The original of a
    copy is not touched. Fault where the state folder belongs to another workspace that is still there.
    """
    record = lineage_paths.home() / RECORD
    if _recorded(record) == str(folder):
        return
    with lineage_paths.place("run", "relocation.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = _recorded(record) or _configured(folder)
        if before in ("", str(folder)):
            _dvc(folder, lineage_paths.home())  # they may name it in full, as they once did
        else:
            _bring_along(folder, Path(before))
        _put(record, f"{folder}\n")


def _recorded(record: Path) -> str:
    return record.read_text(encoding="utf-8", errors="surrogateescape").strip() if record.is_file() else ""


def _configured(folder: Path) -> str:
    """The folder that a workspace of before this record was made in: DVC's settings of this machine name its state."""
    settings = _local(folder)
    cache = Path(settings.get("cache", "dir", fallback=""))
    remote = Path(settings.get(dvc.LOCAL_REMOTE, "url", fallback=""))
    ours = cache.is_absolute() and (cache.name, remote.name) == ("cache", "remote") and cache.parent == remote.parent
    return str(cache.parent.parent) if ours and cache.parent.name == lineage_paths.home().name else ""


def _local(folder: Path) -> configparser.ConfigParser:
    settings = configparser.ConfigParser(interpolation=None)
    settings.read(folder / ".dvc" / "config.local", encoding="utf-8")
    return settings


def _bring_along(folder: Path, before: Path) -> None:
    home = lineage_paths.home()
    inside = home.is_relative_to(folder)
    copied = os.path.isfile(before / "params.yaml") and not before.samefile(folder)  # noqa: PTH113, never raises
    if copied:
        _stands_alone(folder, before)
    earlier = before / home.relative_to(folder) if inside else home
    _dvc(folder, earlier)
    for tree in [path for pattern in TREES for path in home.glob(pattern)]:
        _link(tree, folder / ".git")
    if inside:
        registry.relocate(earlier)
        shutil.rmtree(home / "cache" / "dvc", ignore_errors=True)  # what DVC knew of files under their old names
        for path in [*(home / "run").glob("*.json"), *(home / "run").glob("*.ready")]:
            path.unlink()  # servers of the original, or of before
    if copied:
        log.warning(
            "%s is a copy of %s, which is still there and is not used from now on; keys, people and history "
            "are the same in both",
            folder,
            before,
        )
    else:
        log.warning("this workspace was moved from %s to %s; what named the old folder was changed", before, folder)


def _stands_alone(folder: Path, before: Path) -> None:
    """Fault where a copy shares its state with the original: by ONCOLOOP_HOME, by a symbolic or by a hard link."""
    home = lineage_paths.home()
    paths = (folder / "data", folder / ".git", home, *home.iterdir())
    linked = [path for path in paths if path.is_file() and path.stat().st_nlink > 1]
    shared = linked + [path for path in paths if not path.resolve().is_relative_to(folder)]
    if shared:
        raise Fault(
            f"{shared[0]} is shared with the workspace {before}, of which {folder} is a copy: both would write there. "
            "Copy what the links point to (cp -a without -l; cp -aL for symbolic ones), or set ONCOLOOP_HOME to a "
            "folder of this workspace's own"
        )


def _dvc(folder: Path, earlier: Path) -> None:
    """DVC's settings of this machine, unless a person has put cache or remote elsewhere."""
    settings = _local(folder)
    for section, key, name in (("cache", "dir", "cache"), (dvc.LOCAL_REMOTE, "url", "remote")):
        if settings.get(section, key, fallback="") == str(earlier / name):
            settings.set(section, key, dvc.seen_from(folder, lineage_paths.home() / name))
    text = io.StringIO()
    settings.write(text)
    _put(folder / ".dvc" / "config.local", text.getvalue())


def _link(tree: Path, repository: Path) -> None:
    """The two files by which git links a worktree to its repository (gitrepository-layout, worktrees/<id>)."""
    pointer, entries = tree / ".git", repository / "worktrees"
    number = Path(pointer.read_text(encoding="utf-8").strip()).name if pointer.is_file() else ""
    if number and (entries / number).is_dir():
        _put(entries / number / "gitdir", f"{pointer}\n")
        _put(pointer, f"gitdir: {entries / number}\n")
    else:
        shutil.rmtree(tree)  # it is made again when it is needed


def _put(path: Path, text: str) -> None:
    """A new file in the place of the old one, which a copy by hard links would share."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(text, encoding="utf-8", errors="surrogateescape")
    part.replace(path)


def check_owner(folder: Path) -> None:
    """Fault if this user may not write to a workspace, as every command does; a word to root in another's workspace."""
    if os.geteuid() == 0 != folder.stat().st_uid:
        log.warning(
            "%s belongs to user %d: what root writes there now, that user may not change later",
            folder,
            folder.stat().st_uid,
        )
    for path in (folder, folder / ".git", lineage_paths.home()):
        check_access(path)


def check_access(path: Path) -> None:
    """Fault if this user may not write to a folder that is there."""
    if os.path.lexists(path) and not os.access(path, os.W_OK | os.X_OK):
        owner = path.lstat().st_uid
        raise Fault(
            f"{path} belongs to user {owner} and may not be written by user {os.geteuid()}; run the command as "
            f"that user, or let this one write there (chown -R, or an access list)"
        )
