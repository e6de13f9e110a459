"""git in a workspace: the only module that calls git, always with the repository of that workspace."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from lineage import subprocess_environment
from lineage.errors import Fault

LONGEST_MESSAGE = 400  # characters of a message from git or DVC


def run(*arguments: str, folder: Path | None = None, check: bool = True) -> str:
    """Run git in a workspace and return its output. Fault if it fails and `check` is set."""
    process = _call(*arguments, folder=folder)
    if check and process.returncode:
        raise Fault(f"git {arguments[0]} failed: {shorten(process.stderr.decode(errors='replace'))}")
    return process.stdout.decode("utf-8", "surrogateescape").strip()


def _call(*arguments: str, folder: Path | None = None) -> subprocess.CompletedProcess[bytes]:
    """Call git with the repository of `folder`, whatever environment and parent folders contain."""
    root = (folder or Path.cwd()).absolute()
    repository = [] if arguments[0] == "init" else [f"--git-dir={root / '.git'}", f"--work-tree={root}"]
    command = ["git", *repository, *arguments]
    return subprocess.run(
        command, cwd=root, env=subprocess_environment.isolated_environment(os.environ), capture_output=True, check=False
    )


def check(folder: Path) -> None:
    """Fault if `.git` of a workspace is not a repository: git itself would use one in a parent folder."""
    process = _call("rev-parse", "--git-dir", folder=folder)
    if process.returncode:
        raise Fault(
            f"{folder / '.git'} is not a git repository ({shorten(process.stderr.decode(errors='replace'))}): restore "
            "it from a backup, or move it away, run `oncoloop init` there, and then `oncoloop verify --repair`"
        )


def read_all_objects() -> bytes:
    """All objects of the workspace's git, unpacked: everything that was ever added or committed."""
    process = _call("cat-file", "--batch-all-objects", "--batch", "--unordered")
    if process.returncode:
        raise Fault(f"git cat-file failed: {shorten(process.stderr.decode(errors='replace'))}")
    return process.stdout


def head(folder: Path | None = None) -> str:
    """The current commit of the workspace, which is its data version."""
    return run("rev-parse", "HEAD", folder=folder)


def commit(paths: list[str], message: str, folder: Path | None = None) -> str:
    """Commit `paths` if they changed; return the current version."""
    root = folder or Path.cwd()
    if present_paths := [path for path in paths if (root / path).exists()]:
        run("add", "--all", "--", *present_paths, folder=folder)
    if run("diff", "--cached", "--name-only", folder=folder):
        run("commit", "--quiet", "--message", message, folder=folder)
    return head(folder)


def committed_text(path: str, version: str = "HEAD") -> str:
    """The text of a file in a version; empty if the version or the file does not exist."""
    blob = run("rev-parse", "--verify", "--quiet", f"{version}:{path}", check=False)
    return run("cat-file", "blob", blob) if blob else ""


def is_unchanged(path: str, version: str) -> bool:
    """Whether a file is the same in the workspace, in the newest commit and in a version, by git's hashes."""
    blobs = run("rev-parse", f"{version}:{path}", f"HEAD:{path}", check=False).split()
    return len(blobs) == 2 and Path(path).is_file() and blobs == [run("hash-object", "--", path)] * 2


def batches_of(version: str) -> set[str]:
    """The batches of a data version, as `task/batch`."""
    paths = run("ls-tree", "-r", "--name-only", version, "data/batches").splitlines()
    return {line.removeprefix("data/batches/").removesuffix(".dvc") for line in paths if line.endswith(".dvc")}


def split_paths(text: str) -> list[str]:
    """The paths in a zero-terminated list of git (option -z), in which no name is quoted."""
    return [name for name in text.split("\0") if name]


def shorten(text: str) -> str:
    """A message as one line, cut after `LONGEST_MESSAGE` characters: it may name every file of a data set."""
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_MESSAGE else f"{line[:LONGEST_MESSAGE]}..."
