"""Moved and copied workspaces: paths of the earlier folder are changed to the current one."""

from __future__ import annotations

import configparser
import fcntl
import io
import logging
import os
import shutil
from pathlib import Path

from lineage import atomic_write, mlflow_registry
from lineage import paths as lineage_paths
from lineage.errors import Fault
from pipelines.workspace import dvc

log = logging.getLogger(__name__)

PATH_RECORD = "workspace.path"
WORKTREES = ("worktree", "sent/*", "versions/*")  # git worktrees below the state folder


def update_paths(folder: Path) -> None:
    """Compare the folder of a workspace with the recorded one, and update paths; call it on entry.

    The environment must be set. DVC's settings, git's links to worktrees and MLflow's artifact addresses are updated.
    The original of a copy is not changed. Fault if the state folder belongs to another workspace that still exists.
    """
    record = lineage_paths.home() / PATH_RECORD
    if _recorded_folder(record) == str(folder):
        return
    with lineage_paths.state_path("run", "relocation.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        earlier_folder = _recorded_folder(record) or _configured_folder(folder)
        if earlier_folder in ("", str(folder)):
            _update_dvc_settings(folder, lineage_paths.home())  # older settings have the full path
        else:
            _update_state(folder, Path(earlier_folder))
        atomic_write.write_text(record, f"{folder}\n")


def _recorded_folder(record: Path) -> str:
    return record.read_text(encoding="utf-8", errors="surrogateescape").strip() if record.is_file() else ""


def _configured_folder(folder: Path) -> str:
    """The folder of a workspace without the record, from DVC's local settings, which have the path of its state."""
    settings = _local_settings(folder)
    cache = Path(settings.get("cache", "dir", fallback=""))
    remote = Path(settings.get(dvc.LOCAL_REMOTE, "url", fallback=""))
    is_default = (
        cache.is_absolute() and (cache.name, remote.name) == ("cache", "remote") and cache.parent == remote.parent
    )
    return str(cache.parent.parent) if is_default and cache.parent.name == lineage_paths.home().name else ""


def _local_settings(folder: Path) -> configparser.ConfigParser:
    settings = configparser.ConfigParser(interpolation=None)
    settings.read(folder / ".dvc" / "config.local", encoding="utf-8")
    return settings


def _update_state(folder: Path, earlier_folder: Path) -> None:
    home = lineage_paths.home()
    is_inside = home.is_relative_to(folder)
    is_copy = os.path.isfile(earlier_folder / "params.yaml") and not earlier_folder.samefile(folder)  # noqa: PTH113, never raises
    if is_copy:
        _check_independence(folder, earlier_folder)
    earlier_home = earlier_folder / home.relative_to(folder) if is_inside else home
    _update_dvc_settings(folder, earlier_home)
    for tree in [path for pattern in WORKTREES for path in home.glob(pattern)]:
        _link_worktree(tree, folder / ".git")
    if is_inside:
        mlflow_registry.relocate(earlier_home)
        shutil.rmtree(home / "cache" / "dvc", ignore_errors=True)  # DVC's index of files under their old paths
        for path in [*(home / "run").glob("*.json"), *(home / "run").glob("*.ready")]:
            path.unlink()  # of servers of the original, or from before the move
    if is_copy:
        log.warning(
            "%s is a copy of %s, which still exists and is not used from now on; keys, people and history "
            "are the same in both",
            folder,
            earlier_folder,
        )
    else:
        log.warning("this workspace was moved from %s to %s; all paths were updated", earlier_folder, folder)


def _check_independence(folder: Path, original: Path) -> None:
    """Fault if a copy shares its state with the original through ONCOLOOP_HOME, a symbolic link or a hard link."""
    home = lineage_paths.home()
    paths = (folder / "data", folder / ".git", home, *home.iterdir())
    hard_links = [path for path in paths if path.is_file() and path.stat().st_nlink > 1]
    shared = hard_links + [path for path in paths if not path.resolve().is_relative_to(folder)]
    if shared:
        raise Fault(
            f"{shared[0]} is shared with the workspace {original}, of which {folder} is a copy: both would write "
            "there. Copy the targets of the links (cp -a without -l; cp -aL for symbolic links), or set "
            "ONCOLOOP_HOME to a folder of this workspace alone"
        )


def _update_dvc_settings(folder: Path, earlier_home: Path) -> None:
    """Update DVC's local settings, unless a person has moved cache or remote to another place."""
    settings = _local_settings(folder)
    for section, key, name in (("cache", "dir", "cache"), (dvc.LOCAL_REMOTE, "url", "remote")):
        if settings.get(section, key, fallback="") == str(earlier_home / name):
            settings.set(section, key, dvc.path_in_settings(folder, lineage_paths.home() / name))
    text = io.StringIO()
    settings.write(text)
    atomic_write.write_text(folder / ".dvc" / "config.local", text.getvalue())


def _link_worktree(tree: Path, repository: Path) -> None:
    """Update the two files that link a worktree and its repository (gitrepository-layout, worktrees/<id>)."""
    pointer, entries = tree / ".git", repository / "worktrees"
    number = Path(pointer.read_text(encoding="utf-8").strip()).name if pointer.is_file() else ""
    if number and (entries / number).is_dir():
        atomic_write.write_text(entries / number / "gitdir", f"{pointer}\n")
        atomic_write.write_text(pointer, f"gitdir: {entries / number}\n")
    else:
        shutil.rmtree(tree)  # it is created again when needed


def check_owner(folder: Path) -> None:
    """Fault if this user may not write to a workspace; a warning if root uses the workspace of another user."""
    if os.geteuid() == 0 != folder.stat().st_uid:
        log.warning(
            "%s belongs to user %d, who may not be able to change the files that root writes there now",
            folder,
            folder.stat().st_uid,
        )
    for path in (folder, folder / ".git", lineage_paths.home()):
        check_access(path)


def check_access(path: Path) -> None:
    """Fault if a folder exists and this user may not write to it."""
    if os.path.lexists(path) and not os.access(path, os.W_OK | os.X_OK):
        owner = path.lstat().st_uid
        raise Fault(
            f"{path} belongs to user {owner} and may not be written by user {os.geteuid()}; run the command as "
            f"that user, or let this one write there (chown -R, or an access list)"
        )
