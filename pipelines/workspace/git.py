"""git in a workspace: the only place that calls it, always with the repository of that workspace and no other."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from lineage import subprocess_environment
from lineage.errors import Fault

LONGEST = 400  # letters of what a vendor says


def run(*arguments: str, folder: Path | None = None, check: bool = True) -> str:
    """Run git in a workspace and return what it printed."""
    done = _call(*arguments, folder=folder)
    if check and done.returncode:
        raise Fault(f"git {arguments[0]} failed: {short(done.stderr.decode(errors='replace'))}")
    return done.stdout.decode("utf-8", "surrogateescape").strip()


def _call(*arguments: str, folder: Path | None = None) -> subprocess.CompletedProcess[bytes]:
    """git with the repository of `folder` and no other: neither the caller's environment nor a folder above decides."""
    root = (folder or Path.cwd()).absolute()
    where = [] if arguments[0] == "init" else [f"--git-dir={root / '.git'}", f"--work-tree={root}"]
    command = ["git", *where, *arguments]
    return subprocess.run(
        command, cwd=root, env=subprocess_environment.isolated(os.environ), capture_output=True, check=False
    )


def check(folder: Path) -> None:
    """Fault if `.git` of a workspace is no repository (any more): git itself would go on in one of a folder above."""
    done = _call("rev-parse", "--git-dir", folder=folder)
    if done.returncode:
        raise Fault(
            f"{folder / '.git'} is not a git repository ({short(done.stderr.decode(errors='replace'))}): bring it back "
            "from a backup, or move it away, run `oncoloop init` there, and then `oncoloop verify --repair`"
        )


def objects() -> bytes:
    """Every object of the workspace's git, unpacked: whatever was added or committed in all its history."""
    done = _call("cat-file", "--batch-all-objects", "--batch", "--unordered")
    if done.returncode:
        raise Fault(f"git cat-file failed: {short(done.stderr.decode(errors='replace'))}")
    return done.stdout


def head(folder: Path | None = None) -> str:
    """The commit of the workspace: its data version."""
    return run("rev-parse", "HEAD", folder=folder)


def commit(paths: list[str], message: str, folder: Path | None = None) -> str:
    """Commit `paths` if they changed; returns the resulting version either way."""
    here = folder or Path.cwd()
    if present := [path for path in paths if (here / path).exists()]:
        run("add", "--all", "--", *present, folder=folder)
    if run("diff", "--cached", "--name-only", folder=folder):
        run("commit", "--quiet", "--message", message, folder=folder)
    return head(folder)


def committed(path: str, version: str = "HEAD") -> str:
    """The text of a file as a version holds it; empty if there is no such version or it has no such file."""
    blob = run("rev-parse", "--verify", "--quiet", f"{version}:{path}", check=False)
    return run("cat-file", "blob", blob) if blob else ""


def unchanged(path: str, version: str) -> bool:
    """Whether a file here and in the newest commit is still what a version holds, by git's hashes of it."""
    blobs = run("rev-parse", f"{version}:{path}", f"HEAD:{path}", check=False).split()
    return len(blobs) == 2 and Path(path).is_file() and blobs == [run("hash-object", "--", path)] * 2


def batches_of(version: str) -> set[str]:
    """The batches, as `task/batch`, that a data version holds."""
    listed = run("ls-tree", "-r", "--name-only", version, "data/batches").splitlines()
    return {line.removeprefix("data/batches/").removesuffix(".dvc") for line in listed if line.endswith(".dvc")}


def names(text: str) -> list[str]:
    """The paths of a list that git ends with zeros, so that no name is quoted."""
    return [name for name in text.split("\0") if name]


def short(text: str) -> str:
    """One line of what may name every file of a data set."""
    line = " ".join(text.split())
    return line if len(line) <= LONGEST else f"{line[:LONGEST]}..."
