"""The only door to DVC: batches in cache and remote, the pinned worktree, stages, lock."""

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
LOCAL_REMOTE = "'remote \"local\"'"  # as DVC calls the section of its default remote
PRODUCTS = ("dvc.lock", "code.json", "parents.json")


def initialise(folder: Path, ignored: str) -> None:
    """git and DVC in `folder`, cache and remote under ONCOLOOP_HOME, and a first commit."""
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
    """Where this machine keeps cache and remote, unless they are named: in `.dvc/config.local`, which git ignores."""
    home = paths.home()
    (folder / ".dvc" / "config.local").write_text(
        f'[cache]\n    dir = {cache or seen_from(folder, home / "cache")}\n    type = "reflink,hardlink,copy"\n'
        f"[{LOCAL_REMOTE}]\n    url = {remote or seen_from(folder, home / 'remote')}\n",
        encoding="utf-8",
    )
    (home / "remote").mkdir(parents=True, exist_ok=True)


def seen_from(folder: Path, path: Path) -> str:
    """How the settings of a repository name a path of the state: relative, so that both can be moved together."""
    home, root = paths.home(), folder.absolute()
    together = root == home.parent or root.is_relative_to(home)
    return os.path.relpath(path, root / ".dvc") if together else str(path)


@contextmanager
def repository(folder: Path | None = None) -> Iterator[Any]:
    """DVC's repository of a workspace, which DVC names things relative to; its failures become one sentence."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc_objects.errors import ObjectFormatError

    logging.getLogger("dvc").setLevel(logging.WARNING)  # DVC's advice to people at a prompt
    subprocess_environment.isolate(os.environ)  # DVC's libraries for git read the process's own environment
    root = folder or Path.cwd()
    try:
        with stale_locks.noted(), chdir(root), Repo(str(root)) as repo:
            yield repo
    except (DvcException, ObjectFormatError) as error:
        cause = f": {error.__cause__}" if error.__cause__ else ""
        raise Fault(f"DVC in {root}: {git.short(f'{error}{cause}')}") from error


def stores(folder: Path | None = None) -> dict[str, Path]:
    """Where `cache` and `remote` keep their objects (dvc_objects); a remote on another machine is left out."""
    with repository(folder) as repo:
        found = {"cache": Path(repo.cache.local.path)}
        url = str(repo.config["remote"].get(repo.config["core"].get("remote"), {}).get("url", ""))
        if url and "://" not in url:
            found["remote"] = Path(url) / "files" / "md5"
    return found


def add(path: Path) -> None:
    """Give a batch its own `.dvc` file; its bytes go to the cache.

    Batches lie side by side and never in one another, so DVC is not made to read all the others' `.dvc` files to find
    that out: the cost is that of the batch.
    """
    from dvc.repo import lock_repo
    from dvc.repo.index import Index

    pointer = path.absolute().with_name(f"{path.name}.dvc")
    with repository() as repo, lock_repo(repo):  # under its lock, DVC does not collect its index anew
        repo.index = Index.from_file(repo, str(pointer)) if pointer.is_file() else Index(repo)
        repo.add(str(path.absolute()))


def push(folder: Path | None = None, batch: Path | None = None) -> None:
    """Send what the remote lacks: of one batch alone (its cost is that batch's), or of everything."""
    with repository(folder) as repo:
        repo.push(targets=[f"{batch}.dvc"] if batch else None)


def fetch(pointer: Path) -> None:
    """Bring what a `.dvc` file points to from the remote into the cache."""
    with repository() as repo:
        repo.fetch(targets=[str(pointer)])


def admission(batch: Path) -> str:
    """The commit that admitted a batch: the newest one that added its `.dvc` file."""
    return git.run("log", "-1", "--format=%H", "--diff-filter=A", "--", f"{batch}.dvc") or git.head()


def recover(folder: Path) -> list[str]:
    """Put the data folders back to the committed version after an interrupted admission; names what was undone.

    What the commit does not know goes, whether or not git was told of it; a batch whose files are not all there is
    fetched from the cache again.
    """
    git.run("reset", "--quiet", "HEAD", "--", "data", folder=folder)
    undone = git.names(git.run("diff", "--name-only", "-z", "HEAD", "--", "data", folder=folder))
    strangers = git.names(git.run("ls-files", "--others", "--exclude-standard", "-z", "--", "data", folder=folder))
    for name in strangers:
        (folder / name).unlink(missing_ok=True)
    if undone:
        git.run("checkout", "--quiet", "HEAD", "--", "data", folder=folder)
    if "dvc.lock" in git.names(git.run("diff", "--name-only", "-z", "HEAD", "--", "dvc.lock", folder=folder)):
        git.run("checkout", "--quiet", "HEAD", "--", "dvc.lock", folder=folder)
    left = [batch for batch in (folder / "data" / "batches").glob("*/*") if batch.is_dir()]
    for batch in left:
        if not batch.with_name(batch.name + ".dvc").exists():
            undone.append(str(batch.relative_to(folder)))
            shutil.rmtree(batch)
    lost = [path for path in (folder / "data" / "batches").glob("*/*.dvc") if not _whole(path.with_suffix(""))]
    if lost:
        with repository(folder) as repo:
            repo.checkout([str(path.relative_to(folder)) for path in lost], force=True)
        undone += [f"{path.with_suffix('').relative_to(folder)} (fetched again)" for path in lost]
    inside = tuple(f"{name}/" for name in undone)
    return sorted({*undone, *(name for name in strangers if not name.startswith(inside))})


def _whole(batch: Path) -> bool:
    """Whether a batch's folder holds as many files as were admitted; each is checked by hash whenever it is used."""
    out = yaml.load(batch.with_name(batch.name + ".dvc").read_bytes(), yaml.CSafeLoader)["outs"][0]
    return batch.is_dir() and sum(len(files) for _, _, files in os.walk(batch)) == int(out["nfiles"])


def worktree(version: str) -> Path:
    """The retraining's own checkout of `version`, with the shared cache; earlier products stay where they are."""
    tree = paths.place("worktree")
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
    _drop_strangers(tree)
    return tree


def _drop_strangers(tree: Path) -> None:
    """Batches of a later version have no `.dvc` file here: a stage must not read them."""
    for batch in (tree / "data" / "batches").glob("*/*"):
        if batch.is_dir() and not batch.with_name(batch.name + ".dvc").exists():
            shutil.rmtree(batch)


def changed(tree: Path, tasks: list[str]) -> list[str]:
    """The stages, of these tasks, that DVC would run again."""
    with repository(tree) as repo:
        names = {f"{stage}@{task}" for task in tasks for stage in STAGES}
        return sorted(names & set(repo.status(targets=None)))


def reproduce(tree: Path, stage: str, task: str, force: bool = False) -> bool:
    """Run one stage if its inputs changed (or take a fit from the run cache), always with `force`; True if changed.

    A process of its own, so that stages of two tasks can run side by side; DVC's own lock makes its writers wait. It
    ends with this one, and its stage with it: an orphan would keep the lock from whoever runs the command again.
    """
    name = f"{stage}@{task}"
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "repro", "--single-item", name]
    command += ["--force"] if force else []
    command += ["--no-run-cache"] if stage != "fit" else []  # a worker elsewhere may have put notes there: its fit
    with stale_locks.noted():
        done = subprocess.run(
            tethered(command),
            cwd=tree,
            env=subprocess_environment.isolated(os.environ),
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        said = [line for line in (done.stdout + done.stderr).splitlines() if "ERROR" in line or "oncoloop: " in line]
        raise Fault(f"the stage {name} failed: {' '.join(said) or done.stderr[-300:]}")
    return f"Stage '{name}' didn't change, skipping" not in done.stdout


def lock(tree: Path) -> dict[str, Any]:
    """The stages of `dvc.lock`."""
    path = tree / "dvc.lock"
    if not path.is_file():
        return {}
    stages: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))["stages"]
    return stages


def lock_hash(tree: Path, task: str) -> str:
    """What identifies one training of a task: its stages with the hashes of every input and output."""
    stages = lock(tree)
    return digest({name: stages.get(name) for name in (f"{stage}@{task}" for stage in STAGES)})


def keep(tree: Path, folder: Path, message: str) -> str:
    """Bring lock, code fingerprint and pins of the worktree home to the workspace and commit them there."""
    for name in PRODUCTS:
        if (tree / name).is_file():
            shutil.copyfile(tree / name, folder / name)
    version = git.commit([name for name in PRODUCTS if (folder / name).is_file()], message, folder)
    push(tree)
    return version


def checkout(version: str) -> Path:
    """A data version with its bytes, in a folder of its own under ONCOLOOP_HOME; the workspace stays as it is."""
    commit_id = git.run("rev-parse", "--verify", f"{version}^{{commit}}")
    target = paths.place("versions", commit_id[:12])
    if not (target / ".git").exists():
        git.run("worktree", "add", "--quiet", "--detach", str(target), commit_id)
    configure(target)
    with repository(target) as repo:
        repo.checkout(force=True, allow_missing=True)
    return target


def forget(tasks: list[str]) -> None:
    """Take the stages of these tasks out of the workspace's dvc.lock: what they made is no longer kept."""
    stages = lock(Path.cwd())
    left = {name: stage for name, stage in stages.items() if name.split("@")[1] not in tasks}
    if left != stages:
        part = Path("dvc.lock.part")
        part.write_text(yaml.safe_dump({"schema": "2.0", "stages": left}, sort_keys=False), encoding="utf-8")
        part.replace("dvc.lock")


def remove(path: Path) -> None:
    """Drop a batch's `.dvc` file."""
    with repository() as repo:
        repo.remove(str(path.absolute()) + ".dvc")
