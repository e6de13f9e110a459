"""A fit that runs on another machine: what crosses by git and DVC's remote, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lineage import places
from lineage.fault import Fault
from pipelines import carry, git, parents, repro, stages

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
          - training
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
    repro.add(Path("data/batches/lung-ct/one"))
    made = repro.worktree(git.commit(["."], "Admit one"))
    stages.write_code(made)
    parents.pin(made)
    repro.reproduce(made, "prepare", TASK)
    return made


class Machine:
    """This machine, or one that shares nothing with it but the addresses of git and of DVC's remote."""

    def __init__(self, workspace: Path, patch: pytest.MonkeyPatch) -> None:
        self.here, self.there, self.patch = workspace / "var", workspace.parent / "elsewhere", patch
        self.addresses = str(workspace), str(workspace / "var" / "remote")

    def at(self, home: Path) -> None:
        self.patch.setenv("ONCOLOOP_HOME", str(home))
        for name, value in places.environment().items():
            self.patch.setenv(name, value)

    def fits(self, commit: str) -> Path:
        self.at(self.there)
        received = carry.receive(TASK, commit, *self.addresses)
        assert carry.take(received, TASK) is False, "nobody has run it before"
        carry.give_back(received, TASK)
        carry.forget(received)
        self.at(self.here)
        return received


@pytest.fixture
def machine(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(workspace, monkeypatch)


def test_a_fit_runs_there_and_its_result_comes_home(tree: Path, machine: Machine) -> None:
    before = git.head()
    assert carry.due(tree, TASK)
    received = machine.fits(carry.send(tree, TASK))
    assert carry.take(tree, TASK) is True, "what ran there is not run again"
    assert (tree / "models/lung-ct/out").read_text() == f"pixels of P1\n{machine.there}\n"
    assert not carry.due(tree, TASK) and not repro.reproduce(tree, "fit", TASK)
    assert repro.lock(tree) == repro.lock(received), "the worktree's lock says what ran there"
    assert git.head() == before == git.run("rev-parse", "main"), "no branch of the workspace has moved"
    bytes_there = [path for path in machine.there.rglob("*") if path.is_file() and b"pixels of P1" in path.read_bytes()]
    assert {path.name for path in bytes_there} == {"out"}, "the model alone stays there: no scan, no shard"
    assert not (machine.there / "oncoloop.db").exists() and not (machine.there / "mlflow/mlflow.db").exists()


def test_a_second_fit_takes_what_is_new(tree: Path, machine: Machine, workspace: Path) -> None:
    machine.fits(carry.send(tree, TASK))
    carry.take(tree, TASK)
    (workspace / "data/batches/lung-ct/two").mkdir()
    (workspace / "data/batches/lung-ct/two/x.txt").write_text("more\n", encoding="utf-8")
    repro.add(Path("data/batches/lung-ct/two"))
    repro.keep(tree, workspace, "Retrain")
    again = repro.worktree(git.commit(["."], "Admit two"))
    stages.write_code(again)
    repro.reproduce(again, "prepare", TASK)
    machine.fits(carry.send(again, TASK))
    assert carry.take(again, TASK) is True
    assert (again / "models/lung-ct/out").read_text() == f"pixels of P1\nmore\n{machine.there}\n"


def test_the_parent_of_a_warm_fit_crosses_too(tree: Path, machine: Machine) -> None:
    (tree / "parents.json").write_text(json.dumps({TASK: {"version": "1", "sha256": "ab"}}))
    (tree / "parents/lung-ct").mkdir(parents=True)
    (tree / "parents/lung-ct/fit.json").write_text("the parent\n")
    machine.fits(carry.send(tree, TASK))
    carry.take(tree, TASK)
    assert (tree / "models/lung-ct/out").read_text() == f"pixels of P1\n{machine.there}\nthe parent\n"


def test_other_code_is_refused(tree: Path, machine: Machine) -> None:
    record = json.loads((tree / "code.json").read_text())
    (tree / "code.json").write_text(json.dumps(record | {"training": {"training/fit.py": "ab" * 32}}))
    commit = carry.send(tree, TASK)
    machine.at(machine.there)
    with pytest.raises(Fault, match=r"this machine has other code than the workspace \(training\)"):
        carry.receive(TASK, commit, *machine.addresses)


def test_what_the_remote_does_not_hold_is_one_sentence(tree: Path, machine: Machine, tmp_path: Path) -> None:
    commit = carry.send(tree, TASK)
    machine.at(machine.there)
    with pytest.raises(Fault, match=r"dvc pull in .* failed: ERROR"):
        carry.receive(TASK, commit, machine.addresses[0], str(tmp_path / "nowhere"))
    with pytest.raises(Fault, match="git fetch failed"):
        carry.receive("brain-mr", commit, *machine.addresses)
