"""DVC in a workspace: batches in cache and remote, the pinned worktree, stages, lock. Only this module imports DVC."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

import yaml

from lineage import paths, subprocess_environment
from lineage.child_process import tethered
from lineage.errors import Fault
from lineage.fingerprint import digest
from pipelines.workspace import git, stale_locks

log = logging.getLogger(__name__)

STAGES = ("prepare", "fit", "evaluate")
LOCAL_REMOTE = "'remote \"local\"'"  # the section of the default remote in DVC's settings
PRODUCTS = ("dvc.lock", "code.json", "parents.json")


def initialise(folder: Path, ignored: str) -> None:
    """Set up git and DVC in `folder`, with cache and remote under ONCOLOOP_HOME, and make the first commit."""
    if not (folder / ".git").exists():
        git.run("init", "--quiet", "--initial-branch=main", folder=folder)
    if not (folder / ".dvc" / "config").is_file():
        from dvc.repo import Repo

        Repo.init(str(folder), force=True).close()
        (folder / ".dvc" / "config").write_text(
            "[core]\n    analytics = false\n    remote = local\n    autostage = false\n['remote \"local\"']\n"
            "    url = ../var/remote\n",
            encoding="utf-8",
        )
    ignore = folder / ".gitignore"
    if not ignore.exists():
        ignore.write_text(ignored, encoding="utf-8")
    (folder / ".dvcignore").write_text("/var\n/inbox\n/try\n/data/quarantine\n", encoding="utf-8")
    configure(folder)
    git.commit(["."], "Make the workspace", folder)


def configure(folder: Path, remote: str = "", cache: str = "") -> None:
    """Write the paths of cache and remote on this machine to `.dvc/config.local`, which git ignores."""
    home = paths.home()
    (folder / ".dvc" / "config.local").write_text(
        f'[cache]\n    dir = {cache or path_in_settings(folder, home / "cache")}\n    type = "reflink,hardlink,copy"\n'
        f"[{LOCAL_REMOTE}]\n    url = {remote or path_in_settings(folder, home / 'remote')}\n",
        encoding="utf-8",
    )
    (home / "remote").mkdir(parents=True, exist_ok=True)


def path_in_settings(folder: Path, path: Path) -> str:
    """A path of the state as DVC's settings name it: relative, so that repository and state can move together."""
    home, root = paths.home(), folder.absolute()
    is_together = root == home.parent or root.is_relative_to(home)
    return os.path.relpath(path, root / ".dvc") if is_together else str(path)


@contextmanager
def repository(folder: Path | None = None) -> Iterator[Any]:
    """DVC's repository object of a workspace, with `root` as the current folder. Raises DVC's errors as Fault."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc_objects.errors import ObjectFormatError

    logging.getLogger("dvc").setLevel(logging.WARNING)  # no advice on interactive use
    subprocess_environment.isolate_process(os.environ)  # DVC's git libraries read the environment of this process
    root = folder or Path.cwd()
    try:
        with stale_locks.marked_dvc_work(), chdir(root), Repo(str(root)) as repo:
            yield repo
    except (DvcException, ObjectFormatError) as error:
        cause = f": {error.__cause__}" if error.__cause__ else ""
        raise Fault(f"DVC in {root}: {git.shorten(f'{error}{cause}')}") from error


def object_stores(folder: Path | None = None) -> dict[str, Path]:
    """The folders of objects of `cache` and `remote` (see dvc_objects); a remote on another machine is left out."""
    with repository(folder) as repo:
        folders = {"cache": Path(repo.cache.local.path)}
        url = str(repo.config["remote"].get(repo.config["core"].get("remote"), {}).get("url", ""))
        if url and "://" not in url:
            folders["remote"] = Path(url) / "files" / "md5"
    return folders


def add(path: Path) -> None:
    """Write a batch's `.dvc` file and copy its files to the cache.

    `dvc commit` of that one file does so. `dvc add` would read the `.dvc` files of all other batches, to check that no
    two of them overlap, and batches never do: the cost is that of this batch.
    """
    pointer = path.absolute().with_name(f"{path.name}.dvc")
    is_new = not pointer.is_file()
    try:
        if is_new:
            output = {"md5": "", "size": 0, "nfiles": 0, "hash": "md5", "path": path.name}  # DVC fills in the values
            pointer.write_text(yaml.safe_dump({"outs": [output]}, sort_keys=False), encoding="utf-8")
        with repository() as repo:
            repo.commit(str(pointer), force=True)
    except Exception:
        if is_new:
            pointer.unlink(missing_ok=True)
        raise


def push(folder: Path | None = None, batch: Path | None = None) -> None:
    """Send missing objects to the remote: those of one batch, at the cost of that batch, or all."""
    with repository(folder) as repo:
        repo.push(targets=[f"{batch}.dvc"] if batch else None)


def fetch(pointer: Path) -> None:
    """Fetch the objects of a `.dvc` file from the remote into the cache."""
    with repository() as repo:
        repo.fetch(targets=[str(pointer)])


def admission_commit(batch: Path) -> str:
    """The commit that admitted a batch: the newest one that added its `.dvc` file."""
    return git.run("log", "-1", "--format=%H", "--diff-filter=A", "--", f"{batch}.dvc") or git.head()


def recover(folder: Path) -> list[str]:
    """Reset the data folders to the committed version after an interrupted admission; return what was undone.

    Files that the commit does not contain are deleted, also if they were added to git. An incomplete batch is checked
    out from the cache again.
    """
    git.run("reset", "--quiet", "HEAD", "--", "data", folder=folder)
    undone = git.split_paths(git.run("diff", "--name-only", "-z", "HEAD", "--", "data", folder=folder))
    unknown_files = git.split_paths(
        git.run("ls-files", "--others", "--exclude-standard", "-z", "--", "data", folder=folder)
    )
    for name in unknown_files:
        (folder / name).unlink(missing_ok=True)
    if undone:
        git.run("checkout", "--quiet", "HEAD", "--", "data", folder=folder)
    if "dvc.lock" in git.split_paths(git.run("diff", "--name-only", "-z", "HEAD", "--", "dvc.lock", folder=folder)):
        git.run("checkout", "--quiet", "HEAD", "--", "dvc.lock", folder=folder)
    batches = [batch for batch in (folder / "data" / "batches").glob("*/*") if batch.is_dir()]
    for batch in batches:
        if not batch.with_name(batch.name + ".dvc").exists():
            undone.append(str(batch.relative_to(folder)))
            shutil.rmtree(batch)
    incomplete = [
        path for path in (folder / "data" / "batches").glob("*/*.dvc") if not _is_complete(path.with_suffix(""))
    ]
    if incomplete:
        with repository(folder) as repo:
            repo.checkout([str(path.relative_to(folder)) for path in incomplete], force=True)
        undone += [f"{path.with_suffix('').relative_to(folder)} (fetched again)" for path in incomplete]
    prefixes = tuple(f"{name}/" for name in undone)
    return sorted({*undone, *(name for name in unknown_files if not name.startswith(prefixes))})


def _is_complete(batch: Path) -> bool:
    """Whether a batch's folder has as many files as were admitted; their hashes are checked when they are used."""
    out = yaml.load(batch.with_name(batch.name + ".dvc").read_bytes(), yaml.CSafeLoader)["outs"][0]
    return batch.is_dir() and sum(len(files) for _, _, files in os.walk(batch)) == int(out["nfiles"])


def worktree(version: str) -> Path:
    """The worktree for retraining: `version` checked out with the shared cache; earlier stage outputs stay."""
    tree = paths.state_path("worktree")
    if not (tree / ".git").exists():
        shutil.rmtree(tree, ignore_errors=True)
        git.run("worktree", "prune")
        git.run("worktree", "add", "--quiet", "--detach", str(tree), version)
    git.run("checkout", "--quiet", "--force", "--detach", version, folder=tree)
    configure(tree)
    with repository(tree) as repo:
        targets = [str(path.relative_to(tree)) for path in (tree / "data" / "batches").glob("*/*.dvc")]
        if targets:
            repo.checkout(targets, force=True)
    _drop_unknown_batches(tree)
    return tree


def _drop_unknown_batches(tree: Path) -> None:
    """Delete the batches of later versions, which have no `.dvc` file here: a stage must not read them."""
    for batch in (tree / "data" / "batches").glob("*/*"):
        if batch.is_dir() and not batch.with_name(batch.name + ".dvc").exists():
            shutil.rmtree(batch)


def changed_stages(tree: Path, tasks: list[str]) -> list[str]:
    """The stages of these tasks that DVC would run again."""
    with repository(tree) as repo:
        names = {f"{stage}@{task}" for task in tasks for stage in STAGES}
        return sorted(names & set(repo.status(targets=None)))


def reproduce(tree: Path, stage: str, task: str, force: bool = False) -> bool:
    """Run one stage if its inputs changed, or always with `force`; a fit may come from the run cache. True if changed.

    DVC runs as a separate process, so that stages of two tasks can run in parallel; DVC's lock makes writers wait. That
    process and its stage end with this process: an orphan would keep the lock, and the next command would wait.
    """
    name = f"{stage}@{task}"
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "repro", "--single-item", name]
    command += ["--force"] if force else []
    command += ["--no-run-cache"] if stage != "fit" else []  # the run cache is shared with workers, which may only fit
    with stale_locks.marked_dvc_work():
        process = subprocess.run(
            tethered(command),
            cwd=tree,
            env=subprocess_environment.isolated_environment(os.environ),
            capture_output=True,
            text=True,
            check=False,
        )
    if process.returncode:
        errors = [
            line for line in (process.stdout + process.stderr).splitlines() if "ERROR" in line or "oncoloop: " in line
        ]
        raise Fault(f"the stage {name} failed: {' '.join(errors) or process.stderr[-300:]}")
    return f"Stage '{name}' didn't change, skipping" not in process.stdout


def locked_stages(tree: Path) -> dict[str, Any]:
    """The stages in `dvc.lock`; empty without that file."""
    path = tree / "dvc.lock"
    if not path.is_file():
        return {}
    stages: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))["stages"]
    return stages


def lock_hash(tree: Path, task: str) -> str:
    """The digest that identifies one training of a task: its stages with the hashes of all inputs and outputs."""
    stages = locked_stages(tree)
    return digest({name: stages.get(name) for name in (f"{stage}@{task}" for stage in STAGES)})


def commit_products(tree: Path, folder: Path, message: str) -> str:
    """Copy lock, code fingerprint and pins of the worktree to the workspace, commit them, and push the outputs."""
    for name in PRODUCTS:
        if (tree / name).is_file():
            shutil.copyfile(tree / name, folder / name)
    version = git.commit([name for name in PRODUCTS if (folder / name).is_file()], message, folder)
    push(tree)
    return version


def checkout(version: str) -> Path:
    """Check out a data version with its files in a separate folder under ONCOLOOP_HOME; return that folder."""
    commit_id = git.run("rev-parse", "--verify", f"{version}^{{commit}}")
    target = paths.state_path("versions", commit_id[:12])
    if not (target / ".git").exists():
        git.run("worktree", "add", "--quiet", "--detach", str(target), commit_id)
    configure(target)
    with repository(target) as repo:
        repo.checkout(force=True, allow_missing=True)
    return target


def drop_locked_stages(tasks: list[str]) -> None:
    """Remove the stages of these tasks from the workspace's dvc.lock, since their outputs were deleted."""
    stages = locked_stages(Path.cwd())
    remaining = {name: stage for name, stage in stages.items() if name.split("@")[1] not in tasks}
    if remaining != stages:
        partial = Path("dvc.lock.part")
        partial.write_text(yaml.safe_dump({"schema": "2.0", "stages": remaining}, sort_keys=False), encoding="utf-8")
        partial.replace("dvc.lock")


def remove_pointer(path: Path) -> None:
    """Remove a batch's `.dvc` file."""
    with repository() as repo:
        repo.remove(str(path.absolute()) + ".dvc")
