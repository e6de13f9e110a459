"""A fit on another machine: the transfer through git and DVC's remote, and its refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lineage import paths
from lineage.errors import Fault
from pipelines import warm_start_pins
from pipelines.flows import remote_transfer
from pipelines.workspace import code_snapshot, dvc, git

PIPELINE = """
stages:
  prepare:
    matrix:
      task: [lung-ct]
    cmd: mkdir -p data/processed/${item.task} && cat data/batches/${item.task}/*/x.txt > data/processed/${item.task}/all
    deps:
      - data/batches/${item.task}
    outs:
      - data/processed/${item.task}
  fit:
    matrix:
      task: [lung-ct]
    cmd: >-
      mkdir -p models/${item.task} && cat data/processed/${item.task}/all > models/${item.task}/out &&
      echo "$ONCOLOOP_HOME" >> models/${item.task}/out &&
      if [ -d parents/${item.task} ]; then cat parents/${item.task}/fit.json >> models/${item.task}/out; fi
    deps:
      - data/processed/${item.task}
    params:
      - parents.json:
          - ${item.task}
      - code.json:
          - training/fitting
    outs:
      - models/${item.task}
"""
TASK = "lung-ct"


@pytest.fixture
def tree(workspace: Path) -> Path:
    """A pinned worktree with prepared inputs and a fit that is due."""
    (workspace / "dvc.yaml").write_text(PIPELINE, encoding="utf-8")
    Path("data/batches/lung-ct/one").mkdir()
    Path("data/batches/lung-ct/one/x.txt").write_text("pixels of P1\n", encoding="utf-8")
    dvc.add(Path("data/batches/lung-ct/one"))
    worktree = dvc.worktree(git.commit(["."], "Admit one"))
    code_snapshot.write_code_snapshot(worktree)
    warm_start_pins.write_pins(worktree)
    dvc.reproduce(worktree, "prepare", TASK)
    return worktree


class Machine:
    """A worker that shares only the addresses of git and of DVC's remote with the workspace's machine."""

    def __init__(self, workspace: Path, patch: pytest.MonkeyPatch) -> None:
        self.workspace_home, self.worker_home, self.patch = workspace / "var", workspace.parent / "elsewhere", patch
        self.addresses = str(workspace), str(workspace / "var" / "remote")

    def use_home(self, home: Path) -> None:
        self.patch.setenv("ONCOLOOP_HOME", str(home))
        for name, value in paths.environment().items():
            self.patch.setenv(name, value)

    def run_fit(self, commit: str) -> Path:
        self.use_home(self.worker_home)
        received = remote_transfer.receive_fit_inputs(TASK, commit, *self.addresses)
        assert remote_transfer.pull_or_run_fit(received, TASK) is False, "no machine has run it before"
        remote_transfer.push_fit_result(received, TASK)
        remote_transfer.delete_patient_data(received)
        self.use_home(self.workspace_home)
        return received


@pytest.fixture
def machine(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(workspace, monkeypatch)


def test_a_fit_runs_on_the_worker_and_its_result_reaches_the_workspace(tree: Path, machine: Machine) -> None:
    before = git.head()
    assert remote_transfer.is_fit_due(tree, TASK)
    received = machine.run_fit(remote_transfer.send_fit_inputs(tree, TASK))
    assert remote_transfer.pull_or_run_fit(tree, TASK) is True, "the worker's fit is not run again"
    assert (tree / "models/lung-ct/out").read_text() == f"pixels of P1\n{machine.worker_home}\n"
    assert not remote_transfer.is_fit_due(tree, TASK) and not dvc.reproduce(tree, "fit", TASK)
    assert dvc.locked_stages(tree) == dvc.locked_stages(received), "the worktree's lock records the worker's fit"
    assert git.head() == before == git.run("rev-parse", "main"), "no branch of the workspace has moved"
    files = [path for path in machine.worker_home.rglob("*") if path.is_file()]
    files_with_pixels = [path for path in files if b"pixels of P1" in path.read_bytes()]
    assert {path.name for path in files_with_pixels} == {"out"}, "only the model stays there: no scan, no shard"
    assert (
        not (machine.worker_home / "oncoloop.db").exists() and not (machine.worker_home / "mlflow/mlflow.db").exists()
    )


def test_a_second_fit_uses_the_new_batch(tree: Path, machine: Machine, workspace: Path) -> None:
    machine.run_fit(remote_transfer.send_fit_inputs(tree, TASK))
    remote_transfer.pull_or_run_fit(tree, TASK)
    (workspace / "data/batches/lung-ct/two").mkdir()
    (workspace / "data/batches/lung-ct/two/x.txt").write_text("more\n", encoding="utf-8")
    dvc.add(Path("data/batches/lung-ct/two"))
    dvc.commit_products(tree, workspace, "Retrain")
    second_tree = dvc.worktree(git.commit(["."], "Admit two"))
    code_snapshot.write_code_snapshot(second_tree)
    dvc.reproduce(second_tree, "prepare", TASK)
    machine.run_fit(remote_transfer.send_fit_inputs(second_tree, TASK))
    assert remote_transfer.pull_or_run_fit(second_tree, TASK) is True
    assert (second_tree / "models/lung-ct/out").read_text() == f"pixels of P1\nmore\n{machine.worker_home}\n"


def test_the_parent_of_a_warm_start_is_transferred_too(tree: Path, machine: Machine) -> None:
    (tree / "parents.json").write_text(json.dumps({TASK: {"version": "1", "sha256": "ab"}}))
    (tree / "parents/lung-ct").mkdir(parents=True)
    (tree / "parents/lung-ct/fit.json").write_text("the parent\n")
    machine.run_fit(remote_transfer.send_fit_inputs(tree, TASK))
    remote_transfer.pull_or_run_fit(tree, TASK)
    assert (tree / "models/lung-ct/out").read_text() == f"pixels of P1\n{machine.worker_home}\nthe parent\n"


def test_a_worker_with_other_code_is_refused(tree: Path, machine: Machine) -> None:
    record = json.loads((tree / "code.json").read_text())
    (tree / "code.json").write_text(json.dumps(record | {"training/fitting": {"training/fitting/fit.py": "ab" * 32}}))
    commit = remote_transfer.send_fit_inputs(tree, TASK)
    machine.use_home(machine.worker_home)
    with pytest.raises(Fault, match=r"this machine has other code than the workspace \(training/fitting\)"):
        remote_transfer.receive_fit_inputs(TASK, commit, *machine.addresses)


def test_missing_inputs_in_the_remote_raise_one_sentence(tree: Path, machine: Machine, tmp_path: Path) -> None:
    commit = remote_transfer.send_fit_inputs(tree, TASK)
    machine.use_home(machine.worker_home)
    with pytest.raises(Fault, match=r"dvc pull in .* failed: ERROR"):
        remote_transfer.receive_fit_inputs(TASK, commit, machine.addresses[0], str(tmp_path / "nowhere"))
    with pytest.raises(Fault, match="git fetch failed"):
        remote_transfer.receive_fit_inputs("brain-mr", commit, *machine.addresses)
