"""Versions, the pinned worktree, and what happens to an admission that was cut off."""

from __future__ import annotations

from pathlib import Path

import pytest

from lineage.errors import Fault
from pipelines.workspace import dvc, git

PIPELINE = """
stages:
  prepare:
    matrix:
      task: [lung-ct, pancreas-ct, brain-mr]
    cmd: mkdir -p data/processed/${item.task} && cat data/batches/${item.task}/*/x.txt > data/processed/${item.task}/all
    deps:
      - data/batches/${item.task}
    outs:
      - data/processed/${item.task}
"""


@pytest.fixture
def small(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace with one quick stage, and one admitted batch."""
    monkeypatch.setattr(dvc, "STAGES", ("prepare",))
    (workspace / "dvc.yaml").write_text(PIPELINE, encoding="utf-8")
    admit("one")
    return workspace


def admit(name: str) -> str:
    write(name)
    dvc.add(Path("data/batches/lung-ct", name))
    return git.commit(["."], f"Admit {name}")


def write(name: str) -> None:
    Path("data/batches/lung-ct", name).mkdir()
    Path("data/batches/lung-ct", name, "x.txt").write_text(f"{name}\n", encoding="utf-8")


def test_a_stage_runs_once_for_one_input(small: Path) -> None:
    tree = dvc.worktree(git.head(small))
    assert dvc.changed(tree, ["lung-ct"]) == ["prepare@lung-ct"]
    assert dvc.reproduce(tree, "prepare", "lung-ct")
    assert dvc.changed(tree, ["lung-ct"]) == []
    assert not dvc.reproduce(tree, "prepare", "lung-ct")
    assert (tree / "data/processed/lung-ct/all").read_text() == "one\n"


def test_a_batch_that_arrives_meanwhile_stays_out_of_the_pinned_version(small: Path) -> None:
    version = git.head(small)
    admit("two")
    tree = dvc.worktree(version)
    dvc.reproduce(tree, "prepare", "lung-ct")
    assert (tree / "data/processed/lung-ct/all").read_text() == "one\n"
    newer = dvc.worktree(git.head(small))
    dvc.reproduce(newer, "prepare", "lung-ct")
    assert (newer / "data/processed/lung-ct/all").read_text() == "one\ntwo\n"
    older = dvc.worktree(version)
    assert not (older / "data/batches/lung-ct/two").exists()


def test_the_lock_comes_home_and_identifies_the_training(small: Path) -> None:
    tree = dvc.worktree(git.head(small))
    dvc.reproduce(tree, "prepare", "lung-ct")
    first = dvc.lock_hash(tree, "lung-ct")
    version = dvc.keep(tree, small, "Retrain")
    assert git.head(small) == version
    assert "prepare@lung-ct" in dvc.lock(small)
    admit("two")
    tree = dvc.worktree(git.head(small))
    dvc.reproduce(tree, "prepare", "lung-ct")
    assert dvc.lock_hash(tree, "lung-ct") != first


@pytest.mark.parametrize("added", [False, True], ids=["before dvc add", "after dvc add"])
def test_an_admission_that_was_cut_off_is_undone(small: Path, added: bool) -> None:
    before = git.run("status", "--porcelain")
    write("two")
    if added:
        dvc.add(Path("data/batches/lung-ct/two"))
    with Path("data/cohorts/lung-ct.csv").open("a", encoding="utf-8") as table:
        table.write("half a row")
    assert dvc.recover(small)
    assert git.run("status", "--porcelain") == before
    assert not Path("data/batches/lung-ct/two").exists()
    assert Path("data/batches/lung-ct/one/x.txt").read_text() == "one\n"
    assert dvc.recover(small) == []


def test_versions_are_compared_and_checked_out(small: Path) -> None:
    first = git.head(small)
    second = admit("two")
    assert git.batches_of(second) - git.batches_of(first) == {"lung-ct/two"}
    folder = dvc.checkout(first)
    assert (folder / "data/batches/lung-ct/one/x.txt").is_file()
    assert not (folder / "data/batches/lung-ct/two").exists()


def test_what_git_refuses_is_one_sentence(small: Path) -> None:
    with pytest.raises(Fault, match="git rev-parse failed"):
        dvc.checkout("no-such-version")


def test_a_failing_stage_is_one_sentence(small: Path) -> None:
    (small / "dvc.yaml").write_text(PIPELINE.replace("cat ", "cat /nowhere "), encoding="utf-8")
    tree = dvc.worktree(git.commit(["."], "Break the stage"))
    with pytest.raises(Fault, match="the stage prepare@lung-ct failed"):
        dvc.reproduce(tree, "prepare", "lung-ct")


FORGED = """
stages:
  evaluate:
    matrix:
      task: [lung-ct]
    cmd: cp figure.txt evaluation.txt
    deps:
      - data/batches/${item.task}
    outs:
      - evaluation.txt
"""


def test_what_somebody_noted_of_an_evaluation_is_not_taken_for_it(small: Path) -> None:
    """DVC's notes of runs travel with the remote, where a worker of a pool writes: a fit alone is taken from them."""
    (small / "dvc.yaml").write_text(FORGED, encoding="utf-8")
    (small / "figure.txt").write_text("0.99, said the note")
    dvc.reproduce(small, "evaluate", "lung-ct")
    (small / "figure.txt").write_text("0.61, said the evaluation")
    (small / "dvc.lock").unlink()
    (small / "evaluation.txt").unlink()
    dvc.reproduce(small, "evaluate", "lung-ct")
    assert (small / "evaluation.txt").read_text() == "0.61, said the evaluation"
