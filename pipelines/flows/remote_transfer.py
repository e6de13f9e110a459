"""What crosses machines for a fit elsewhere: the pinned worktree by git, bytes by DVC's remote, in both directions.

Each task has folders of its own on either side, so that fits of several tasks neither wait for nor disturb each other.
DVC is called as a process: its library works in the process's folder, which the threads of a flow share.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from lineage import fingerprint, json_files, paths, subprocess_environment
from lineage.child_process import tethered
from lineage.errors import Fault
from pipelines import warm_start_pins
from pipelines.workspace import code_snapshot, dvc, git, stale_locks


def reference(task: str) -> str:
    """The name in the workspace's git under which a fit of a task waits to be fetched."""
    return f"refs/oncoloop/fit/{task}"


def due(tree: Path, task: str) -> bool:
    """Whether the fit of a task has other inputs than the last time."""
    return bool(json.loads(_dvc("status", "--json", f"fit@{task}", folder=tree)))


def send(tree: Path, task: str) -> str:
    """Make a fit ready to be fetched: the worktree's settings, lock and pins as a commit, its inputs in the remote.

    Returns the commit. The fit's inputs are what `prepare` made, and the parent of a warm fit.
    """
    sent = paths.place("sent", task)
    if not (sent / ".git").exists():
        shutil.rmtree(sent, ignore_errors=True)
        git.run("worktree", "prune", folder=tree)
        git.run("worktree", "add", "--detach", str(sent), "HEAD", folder=tree)
    git.run("checkout", "--force", "--detach", git.head(tree), folder=sent)
    dvc.configure(sent)
    for name in dvc.PRODUCTS:
        shutil.copyfile(tree / name, sent / name)
    targets = [f"prepare@{task}"]
    if warm_start_pins.of(tree, task):
        shutil.copytree(tree / warm_start_pins.FOLDER / task, sent / warm_start_pins.FOLDER / task, dirs_exist_ok=True)
        _dvc("add", f"{warm_start_pins.FOLDER}/{task}", folder=sent)
        targets.append(_pointer(task))
    _dvc("push", *targets, folder=sent)
    commit = git.commit([*dvc.PRODUCTS, _pointer(task)], f"Fit {task} elsewhere", sent)
    git.run("update-ref", reference(task), commit, folder=sent)
    return commit


def receive(task: str, commit: str, source: str, remote: str) -> Path:
    """The worktree of a fit on another machine: its commit from `source` (git), its inputs from `remote` (DVC).

    Fault where this machine's code is not the code of that commit: its fit would be another one.
    """
    tree = paths.place("received", fingerprint.text_sha256(source)[:12], task, "tree")
    if not (tree / ".git").exists():
        tree.mkdir(parents=True, exist_ok=True)
        git.run("init", folder=tree)
    git.run("fetch", "--force", source, f"{reference(task)}:{reference(task)}", folder=tree)
    git.run("checkout", "--force", "--detach", commit, folder=tree)
    shutil.rmtree(tree / "models", ignore_errors=True)
    dvc.configure(tree, remote, str(_cache(tree)))
    asked = json_files.read_json(tree / "code.json")
    mine = code_snapshot.write_code(tree)
    if changed := sorted(room for room in mine if mine[room] != asked.get(room)):
        raise Fault(f"this machine has other code than the workspace ({', '.join(changed)}): install the same oncoloop")
    targets = [f"prepare@{task}", *([_pointer(task)] if (tree / _pointer(task)).is_file() else [])]
    _dvc("pull", "--force", *targets, folder=tree)
    return tree


def give_back(tree: Path, task: str) -> None:
    """Put what a fit made, and the note that it ran, into the remote: from there DVC takes it instead of running."""
    _dvc("push", "--run-cache", f"fit@{task}", folder=tree)


def forget(tree: Path) -> None:
    """Leave no pixels on a machine that has fitted: a withdrawal of a patient does not reach it."""
    for folder in (_cache(tree), tree / "data" / "processed"):
        shutil.rmtree(folder, ignore_errors=True)


def _cache(tree: Path) -> Path:
    return tree.with_name("cache")


def take(tree: Path, task: str) -> bool:
    """Bring a fit into the worktree: the remote's, if it holds one of these very inputs (True), else one made here."""
    return f"Running stage 'fit@{task}'" not in _dvc("repro", "--single-item", "--pull", f"fit@{task}", folder=tree)


def _pointer(task: str) -> str:
    return f"{warm_start_pins.FOLDER}/{task}.dvc"


def _dvc(*arguments: str, folder: Path) -> str:
    """Run DVC in a folder and return what it printed; Fault with what it complained of."""
    scripts = str(Path(sys.executable).parent)
    path = os.pathsep.join([scripts, os.environ.get("PATH", "")])  # DVC calls `oncoloop stage`
    command = tethered([sys.executable, "-m", "dvc", "--wait-for-lock", *arguments])
    with stale_locks.noted():
        environment = subprocess_environment.isolated(os.environ) | {"PATH": path, "PYTHONSAFEPATH": "1"}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        said = [line for line in (done.stdout + done.stderr).splitlines() if "ERROR" in line or "oncoloop: " in line]
        raise Fault(f"dvc {arguments[0]} in {folder} failed: {' '.join(said)[:400] or done.stderr[-300:]}")
    return done.stdout
