"""Data versions, the pinned worktree, and the recovery of an interrupted admission."""

from __future__ import annotations

from pathlib import Path

import pytest

from lineage.errors import Fault
from pipelines.workspace import dvc, dvc_objects, git

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
def workspace_with_batch(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace with one quick stage and one admitted batch."""
    monkeypatch.setattr(dvc, "STAGES", ("prepare",))
    (workspace / "dvc.yaml").write_text(PIPELINE, encoding="utf-8")
    admit("one")
    return workspace


def admit(name: str) -> str:
    write_batch(name)
    dvc.add(Path("data/batches/lung-ct", name))
    return git.commit(["."], f"Admit {name}")


def write_batch(name: str) -> None:
    Path("data/batches/lung-ct", name).mkdir()
    Path("data/batches/lung-ct", name, "x.txt").write_text(f"{name}\n", encoding="utf-8")


def test_an_admission_reads_no_pointer_of_another_batch(workspace_with_batch: Path) -> None:
    """Its cost is that of the batch, however many there are."""
    Path("data/batches/lung-ct/one.dvc").write_text("not YAML: [")
    write_batch("two")
    dvc.add(Path("data/batches/lung-ct/two"))
    two = dvc_objects.read_pointer(Path("data/batches/lung-ct/two.dvc").read_text())
    assert (
        dvc_objects.is_sound(dvc_objects.object_path(Path("var/cache/files/md5"), two.md5), two.md5) and two.files == 1
    )


def test_a_changed_batch_gets_the_pointer_of_its_new_content(workspace_with_batch: Path) -> None:
    path = Path("data/batches/lung-ct/one.dvc")
    before = dvc_objects.read_pointer(path.read_text())
    Path("data/batches/lung-ct/one/y.txt").write_text("more\n", encoding="utf-8")
    dvc.add(path.with_suffix(""))
    after = dvc_objects.read_pointer(path.read_text())
    assert (before.files, after.files) == (1, 2) and before.md5 != after.md5


def test_a_failed_admission_leaves_no_pointer(workspace_with_batch: Path) -> None:
    write_batch("two")
    Path(".dvc/tmp/rwlock").write_text("{half")
    with pytest.raises(Fault, match="JSON structure is corrupted"):
        dvc.add(Path("data/batches/lung-ct/two"))
    assert not Path("data/batches/lung-ct/two.dvc").exists()


def test_a_stage_runs_once_for_the_same_input(workspace_with_batch: Path) -> None:
    tree = dvc.worktree(git.head(workspace_with_batch))
    assert dvc.changed_stages(tree, ["lung-ct"]) == ["prepare@lung-ct"]
    assert dvc.reproduce(tree, "prepare", "lung-ct")
    assert dvc.changed_stages(tree, ["lung-ct"]) == []
    assert not dvc.reproduce(tree, "prepare", "lung-ct")
    assert (tree / "data/processed/lung-ct/all").read_text() == "one\n"


def test_a_later_batch_is_not_in_the_pinned_version(workspace_with_batch: Path) -> None:
    version = git.head(workspace_with_batch)
    admit("two")
    tree = dvc.worktree(version)
    dvc.reproduce(tree, "prepare", "lung-ct")
    assert (tree / "data/processed/lung-ct/all").read_text() == "one\n"
    newer = dvc.worktree(git.head(workspace_with_batch))
    dvc.reproduce(newer, "prepare", "lung-ct")
    assert (newer / "data/processed/lung-ct/all").read_text() == "one\ntwo\n"
    older = dvc.worktree(version)
    assert not (older / "data/batches/lung-ct/two").exists()


def test_the_lock_is_committed_in_the_workspace_and_identifies_the_training(workspace_with_batch: Path) -> None:
    tree = dvc.worktree(git.head(workspace_with_batch))
    dvc.reproduce(tree, "prepare", "lung-ct")
    first_hash = dvc.lock_hash(tree, "lung-ct")
    version = dvc.commit_products(tree, workspace_with_batch, "Retrain")
    assert git.head(workspace_with_batch) == version
    assert "prepare@lung-ct" in dvc.locked_stages(workspace_with_batch)
    admit("two")
    tree = dvc.worktree(git.head(workspace_with_batch))
    dvc.reproduce(tree, "prepare", "lung-ct")
    assert dvc.lock_hash(tree, "lung-ct") != first_hash


@pytest.mark.parametrize("is_added", [False, True], ids=["before dvc add", "after dvc add"])
def test_an_interrupted_admission_is_undone(workspace_with_batch: Path, is_added: bool) -> None:
    status_before = git.run("status", "--porcelain")
    write_batch("two")
    if is_added:
        dvc.add(Path("data/batches/lung-ct/two"))
    with Path("data/cohorts/lung-ct.csv").open("a", encoding="utf-8") as table:
        table.write("half a row")
    assert dvc.recover(workspace_with_batch)
    assert git.run("status", "--porcelain") == status_before
    assert not Path("data/batches/lung-ct/two").exists()
    assert Path("data/batches/lung-ct/one/x.txt").read_text() == "one\n"
    assert dvc.recover(workspace_with_batch) == []


def test_versions_are_compared_and_checked_out(workspace_with_batch: Path) -> None:
    first = git.head(workspace_with_batch)
    second = admit("two")
    assert git.batches_of(second) - git.batches_of(first) == {"lung-ct/two"}
    folder = dvc.checkout(first)
    assert (folder / "data/batches/lung-ct/one/x.txt").is_file()
    assert not (folder / "data/batches/lung-ct/two").exists()


def test_an_unknown_version_is_a_fault_with_one_sentence(workspace_with_batch: Path) -> None:
    with pytest.raises(Fault, match="git rev-parse failed"):
        dvc.checkout("no-such-version")


def test_a_failing_stage_is_a_fault_with_one_sentence(workspace_with_batch: Path) -> None:
    (workspace_with_batch / "dvc.yaml").write_text(PIPELINE.replace("cat ", "cat /nowhere "), encoding="utf-8")
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


def test_an_evaluation_is_not_taken_from_the_run_cache(workspace_with_batch: Path) -> None:
    """DVC's run cache is shared through the remote, where workers write: only a fit is taken from it."""
    (workspace_with_batch / "dvc.yaml").write_text(FORGED, encoding="utf-8")
    (workspace_with_batch / "figure.txt").write_text("0.99, from the run cache")
    dvc.reproduce(workspace_with_batch, "evaluate", "lung-ct")
    (workspace_with_batch / "figure.txt").write_text("0.61, from the evaluation")
    (workspace_with_batch / "dvc.lock").unlink()
    (workspace_with_batch / "evaluation.txt").unlink()
    dvc.reproduce(workspace_with_batch, "evaluate", "lung-ct")
    assert (workspace_with_batch / "evaluation.txt").read_text() == "0.61, from the evaluation"
