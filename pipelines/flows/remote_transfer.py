"""Transfer of a remote fit between machines: the pinned worktree through git, the files through DVC's remote.

Each task has its own folders on both sides, so fits of several tasks do not wait for or disturb each other.
DVC runs as a child process: its library uses the working folder of the process, which all threads of a flow share.
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


def git_reference(task: str) -> str:
    """The reference in the workspace's git from which a worker fetches the fit of a task."""
    return f"refs/oncoloop/fit/{task}"


def is_fit_due(tree: Path, task: str) -> bool:
    """Whether the inputs of a task's fit have changed since the last fit."""
    return bool(json.loads(_run_dvc("status", "--json", f"fit@{task}", folder=tree)))


def send_fit_inputs(tree: Path, task: str) -> str:
    """Commit settings, lock and pins of the worktree, and push the fit's inputs to the remote. Returns the commit.

    The inputs are the outputs of `prepare`, and the parent model of a warm start.
    """
    sent = paths.state_path("sent", task)
    if not (sent / ".git").exists():
        shutil.rmtree(sent, ignore_errors=True)
        git.run("worktree", "prune", folder=tree)
        git.run("worktree", "add", "--detach", str(sent), "HEAD", folder=tree)
    git.run("checkout", "--force", "--detach", git.head(tree), folder=sent)
    dvc.configure(sent)
    for name in dvc.PRODUCTS:
        shutil.copyfile(tree / name, sent / name)
    targets = [f"prepare@{task}"]
    if warm_start_pins.pin_of_task(tree, task):
        shutil.copytree(tree / warm_start_pins.FOLDER / task, sent / warm_start_pins.FOLDER / task, dirs_exist_ok=True)
        _run_dvc("add", f"{warm_start_pins.FOLDER}/{task}", folder=sent)
        targets.append(_parent_pointer(task))
    _run_dvc("push", *targets, folder=sent)
    commit = git.commit([*dvc.PRODUCTS, _parent_pointer(task)], f"Fit {task} on another machine", sent)
    git.run("update-ref", git_reference(task), commit, folder=sent)
    return commit


def receive_fit_inputs(task: str, commit: str, source: str, remote: str) -> Path:
    """Check out a commit from `source` (git) and pull the fit's inputs from `remote` (DVC). Returns the worktree.

    Fault if this machine's code differs from the code of that commit: the fit would not be the same.
    """
    tree = paths.state_path("received", fingerprint.text_sha256(source)[:12], task, "tree")
    if not (tree / ".git").exists():
        tree.mkdir(parents=True, exist_ok=True)
        git.run("init", folder=tree)
    git.run("fetch", "--force", source, f"{git_reference(task)}:{git_reference(task)}", folder=tree)
    git.run("checkout", "--force", "--detach", commit, folder=tree)
    shutil.rmtree(tree / "models", ignore_errors=True)
    dvc.configure(tree, remote, str(_cache(tree)))
    workspace_code = json_files.read_json(tree / "code.json")
    local_code = code_snapshot.write_code_snapshot(tree)
    if changed := sorted(package for package in local_code if local_code[package] != workspace_code.get(package)):
        raise Fault(f"this machine has other code than the workspace ({', '.join(changed)}): install the same oncoloop")
    targets = [f"prepare@{task}", *([_parent_pointer(task)] if (tree / _parent_pointer(task)).is_file() else [])]
    _run_dvc("pull", "--force", *targets, folder=tree)
    return tree


def push_fit_result(tree: Path, task: str) -> None:
    """Push the fit's outputs and its run cache entry to the remote, where `pull_or_run_fit` finds them."""
    _run_dvc("push", "--run-cache", f"fit@{task}", folder=tree)


def delete_patient_data(tree: Path) -> None:
    """Delete all scans and shards of a fit from this machine: a withdrawal of a patient does not reach it."""
    for folder in (_cache(tree), tree / "data" / "processed"):
        shutil.rmtree(folder, ignore_errors=True)


def _cache(tree: Path) -> Path:
    return tree.with_name("cache")


def pull_or_run_fit(tree: Path, task: str) -> bool:
    """Pull a fit of these inputs from the remote (returns True), or run it here if the remote has none (False)."""
    output = _run_dvc("repro", "--single-item", "--pull", f"fit@{task}", folder=tree)
    return f"Running stage 'fit@{task}'" not in output


def _parent_pointer(task: str) -> str:
    return f"{warm_start_pins.FOLDER}/{task}.dvc"


def _run_dvc(*arguments: str, folder: Path) -> str:
    """Run DVC in a folder and return its output. Fault with its error lines if it fails."""
    scripts = str(Path(sys.executable).parent)
    path = os.pathsep.join([scripts, os.environ.get("PATH", "")])  # DVC calls `oncoloop stage`
    command = tethered([sys.executable, "-m", "dvc", "--wait-for-lock", *arguments])
    with stale_locks.marked_dvc_work():
        environment = subprocess_environment.isolated_environment(os.environ) | {"PATH": path, "PYTHONSAFEPATH": "1"}
        result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if result.returncode:
        lines = (result.stdout + result.stderr).splitlines()
        errors = [line for line in lines if "ERROR" in line or "oncoloop: " in line]
        raise Fault(f"dvc {arguments[0]} in {folder} failed: {' '.join(errors)[:400] or result.stderr[-300:]}")
    return result.stdout
