"""A fit that runs on another machine: what crosses by git and DVC's remote, and what is refused."""

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
    """A pinned worktree whose inputs are prepared and whose fit is due."""
    (workspace / "dvc.yaml").write_text(PIPELINE, encoding="utf-8")
    Path("data/batches/lung-ct/one").mkdir()
    Path("data/batches/lung-ct/one/x.txt").write_text("pixels of P1\n", encoding="utf-8")
    dvc.add(Path("data/batches/lung-ct/one"))
    made = dvc.worktree(git.commit(["."], "Admit one"))
    code_snapshot.write_code(made)
    warm_start_pins.pin(made)
    dvc.reproduce(made, "prepare", TASK)
    return made


class Machine:
    """This machine, or one that shares nothing with it but the addresses of git and of DVC's remote."""

    def __init__(self, workspace: Path, patch: pytest.MonkeyPatch) -> None:
        self.here, self.there, self.patch = workspace / "var", workspace.parent / "elsewhere", patch
        self.addresses = str(workspace), str(workspace / "var" / "remote")

    def at(self, home: Path) -> None:
        self.patch.setenv("ONCOLOOP_HOME", str(home))
        for name, value in paths.environment().items():
            self.patch.setenv(name, value)

    def fits(self, commit: str) -> Path:
        self.at(self.there)
        received = remote_transfer.receive(TASK, commit, *self.addresses)
        assert remote_transfer.take(received, TASK) is False, "nobody has run it before"
        remote_transfer.give_back(received, TASK)
        remote_transfer.forget(received)
        self.at(self.here)
        return received


@pytest.fixture
def machine(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(workspace, monkeypatch)


def test_a_fit_runs_there_and_its_result_comes_home(tree: Path, machine: Machine) -> None:
    before = git.head()
    assert remote_transfer.due(tree, TASK)
    received = machine.fits(remote_transfer.send(tree, TASK))
    assert remote_transfer.take(tree, TASK) is True, "what ran there is not run again"
    assert (tree / "models/lung-ct/out").read_text() == f"pixels of P1\n{machine.there}\n"
    assert not remote_transfer.due(tree, TASK) and not dvc.reproduce(tree, "fit", TASK)
    assert dvc.lock(tree) == dvc.lock(received), "the worktree's lock says what ran there"
    assert git.head() == before == git.run("rev-parse", "main"), "no branch of the workspace has moved"
    bytes_there = [path for path in machine.there.rglob("*") if path.is_file() and b"pixels of P1" in path.read_bytes()]
    assert {path.name for path in bytes_there} == {"out"}, "the model alone stays there: no scan, no shard"
    assert not (machine.there / "oncoloop.db").exists() and not (machine.there / "mlflow/mlflow.db").exists()


def test_a_second_fit_takes_what_is_new(tree: Path, machine: Machine, workspace: Path) -> None:
    machine.fits(remote_transfer.send(tree, TASK))
    remote_transfer.take(tree, TASK)
    (workspace / "data/batches/lung-ct/two").mkdir()
    (workspace / "data/batches/lung-ct/two/x.txt").write_text("more\n", encoding="utf-8")
    dvc.add(Path("data/batches/lung-ct/two"))
    dvc.keep(tree, workspace, "Retrain")
    again = dvc.worktree(git.commit(["."], "Admit two"))
    code_snapshot.write_code(again)
    dvc.reproduce(again, "prepare", TASK)
    machine.fits(remote_transfer.send(again, TASK))
    assert remote_transfer.take(again, TASK) is True
    assert (again / "models/lung-ct/out").read_text() == f"pixels of P1\nmore\n{machine.there}\n"


def test_the_parent_of_a_warm_fit_crosses_too(tree: Path, machine: Machine) -> None:
    (tree / "parents.json").write_text(json.dumps({TASK: {"version": "1", "sha256": "ab"}}))
    (tree / "parents/lung-ct").mkdir(parents=True)
    (tree / "parents/lung-ct/fit.json").write_text("the parent\n")
    machine.fits(remote_transfer.send(tree, TASK))
    remote_transfer.take(tree, TASK)
    assert (tree / "models/lung-ct/out").read_text() == f"pixels of P1\n{machine.there}\nthe parent\n"


def test_other_code_is_refused(tree: Path, machine: Machine) -> None:
    record = json.loads((tree / "code.json").read_text())
    (tree / "code.json").write_text(json.dumps(record | {"training/fitting": {"training/fitting/fit.py": "ab" * 32}}))
    commit = remote_transfer.send(tree, TASK)
    machine.at(machine.there)
    with pytest.raises(Fault, match=r"this machine has other code than the workspace \(training/fitting\)"):
        remote_transfer.receive(TASK, commit, *machine.addresses)


def test_what_the_remote_does_not_hold_is_one_sentence(tree: Path, machine: Machine, tmp_path: Path) -> None:
    commit = remote_transfer.send(tree, TASK)
    machine.at(machine.there)
    with pytest.raises(Fault, match=r"dvc pull in .* failed: ERROR"):
        remote_transfer.receive(TASK, commit, machine.addresses[0], str(tmp_path / "nowhere"))
    with pytest.raises(Fault, match="git fetch failed"):
        remote_transfer.receive("brain-mr", commit, *machine.addresses)
