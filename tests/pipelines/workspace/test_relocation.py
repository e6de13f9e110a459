"""A copied workspace is independent, a moved one works, and neither contains the path of its old folder."""

from __future__ import annotations

import os
import shutil
import sqlite3
from pathlib import Path

import pytest

from data.phantom import batch, scanner
from lineage import json_files, mlflow_registry
from lineage import paths as lineage_paths
from lineage.errors import Fault
from lineage.record import database as record_database
from lineage.record import ledger
from pipelines import data_versions, params
from pipelines.recovery import interrupted_runs
from pipelines.servers import services
from pipelines.workspace import backup, dvc, git, relocation
from pipelines.workspace import workspace as workspaces
from tests.pipelines.admissions import run_admission
from tests.pipelines.foreign_git import content

TASK = "brain-mr"


def enter(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Enter a workspace like a command in a new process, without a workspace in the environment."""
    for name in (*lineage_paths.FOLDERS, "MLFLOW_TRACKING_URI", "ONCOLOOP_HOME"):
        monkeypatch.delenv(name, raising=False)
    record_database.engine().dispose()
    workspaces.enter(folder)


@pytest.fixture
def original(workspace: Path) -> Path:
    """A workspace with one admitted batch, a worktree of the retraining and a checked-out version."""
    for seed, name in ((40, "first"), (41, "second")):
        batch.write_batch(Path("inbox", name), params.load().tasks[TASK], 2, scanner.SCANNERS["alder-mr"], seed, 1)
    run_admission("first")
    dvc.worktree(git.head())
    data_versions.checkout(git.head())
    return workspace


def files_naming(folder: Path, old: Path) -> set[str]:
    """Files, databases and links below a folder with the path `old`; the ledger, which never changes, is left out."""
    paths = [path for path in folder.rglob("*") if "logs" not in path.parts and "oncoloop.db" not in path.name]
    texts = [path for path in paths if path.is_file() and f"{old}/".encode() in path.read_bytes()]
    links = [path for path in paths if path.is_symlink() and str(old) in str(path.readlink())]
    return {str(path.relative_to(folder)) for path in (*texts, *links)}


def test_a_new_workspace_has_its_path_only_in_its_record_and_in_links(original: Path) -> None:
    allowed = {".git/worktrees/worktree/gitdir", "var/worktree/.git"}
    version = next(Path("var/versions").iterdir()).name
    allowed |= {f".git/worktrees/{version}/gitdir", f"var/versions/{version}/.git"}
    files = {name for name in files_naming(original, original) if not name.startswith("var/cache/dvc/")}
    assert files <= allowed
    assert (original / "var" / relocation.PATH_RECORD).read_text().strip() == str(original)


def test_a_copy_is_independent(
    original: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    record_database.engine().dispose()
    copy = original.parent / "a copy"
    shutil.copytree(original, copy, symlinks=True)
    original_files = content(original)
    enter(copy, monkeypatch)
    assert [record.message for record in caplog.records if "is a copy of" in record.message]
    run_admission("second")
    tree = dvc.worktree(git.head())
    assert (tree / f"data/batches/{TASK}/second.dvc").is_file()
    assert git.batches_of("HEAD") == {f"{TASK}/first", f"{TASK}/second"}
    assert (copy / "var/remote/files").is_dir()
    data_versions.checkout(git.head())
    record_database.engine().dispose()
    assert content(original) == original_files
    assert not files_naming(copy, original)
    caplog.clear()
    enter(copy, monkeypatch)
    assert not caplog.records, "the warning is logged once"


def test_a_moved_workspace_works_and_does_not_recreate_its_old_folder(
    original: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record_database.engine().dispose()
    moved = original.parent / "elsewhere" / "ward 7"
    moved.parent.mkdir()
    os.chdir(moved.parent)
    original.rename(moved)
    enter(moved, monkeypatch)
    run_admission("second")
    shutil.rmtree(Path(f"data/batches/{TASK}/first"))
    interrupted_runs.recover_workspace()
    assert Path(f"data/batches/{TASK}/first/manifest.csv").is_file(), "it comes from the cache of the new folder"
    assert dvc.worktree(git.head()).is_dir() and data_versions.checkout(git.head())[0].is_dir()
    assert ledger.verify().outcome.value == "pass"
    assert not original.exists()
    assert not files_naming(moved, original)


def test_an_old_workspace_without_the_record_is_moved_by_its_dvc_settings(
    original: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An old version had no record of the folder, and full paths in DVC's settings."""
    (original / "var" / relocation.PATH_RECORD).unlink()
    remote = f"['remote \"local\"']\n    url = {original}/var/remote\n"
    text = f'[cache]\n    dir = {original}/var/cache\n    type = "hardlink,copy"\n{remote}'
    for folder in (original, original / "var/worktree"):
        (folder / ".dvc/config.local").write_text(text)
    record_database.engine().dispose()
    copy = original.parent / "copy"
    shutil.copytree(original, copy, symlinks=True)
    original_files = content(original)
    enter(copy, monkeypatch)
    run_admission("second")
    dvc.worktree(git.head())
    record_database.engine().dispose()
    assert content(original) == original_files
    assert 'hardlink,copy"' in (copy / ".dvc/config.local").read_text()


def test_a_cache_in_a_folder_of_the_users_choice_stays_there(original: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    big = original.parent / "big"
    path = original / ".dvc/config.local"
    path.write_text(path.read_text().replace("../var/cache", str(big)))
    record_database.engine().dispose()
    moved = original.with_name("moved")
    os.chdir(original.parent)
    original.rename(moved)
    enter(moved, monkeypatch)
    assert str(big) in (moved / ".dvc/config.local").read_text()


def test_models_are_found_in_the_new_folder(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    client = MlflowClient()
    run_id = client.create_run(client.create_experiment(TASK)).info.run_id
    client.log_text(run_id, "weights", "model/weights.txt")
    mlflow_registry.register(TASK, run_id, "model", {})
    record_database.engine().dispose()
    copy = workspace.with_name("copy")
    shutil.copytree(workspace, copy, symlinks=True)
    (workspace / "var/mlflow/artifacts").rename(workspace / "var/mlflow/away")
    enter(copy, monkeypatch)
    assert (mlflow_registry.download(TASK, "1") / "weights.txt").read_text() == "weights"
    assert str(mlflow_registry.run_facts(run_id)["artifacts"]).startswith(f"{copy}/")
    with sqlite3.connect(copy / "var/mlflow/mlflow.db") as database:
        assert f"{workspace}/" not in "\n".join(database.iterdump())


def content_without_locks(folder: Path) -> dict[str, bytes]:
    """The content of a folder without lock files."""
    return {name: value for name, value in content(folder).items() if "/run/" not in name}


@pytest.mark.parametrize("sharing", ["hard links", "a symbolic link", "ONCOLOOP_HOME"])
def test_a_copy_that_shares_its_state_is_refused(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, sharing: str
) -> None:
    copy = workspace.with_name("copy")
    record_database.engine().dispose()
    if sharing == "a symbolic link":
        (workspace / "var").rename(workspace.parent / "state")
        (workspace / "var").symlink_to(workspace.parent / "state")
    shutil.copytree(workspace, copy, symlinks=True, copy_function=os.link if sharing == "hard links" else shutil.copy2)
    if sharing == "ONCOLOOP_HOME":
        shutil.rmtree(copy / "var")
    original_files = content_without_locks(workspace.parent)
    for name in (*lineage_paths.FOLDERS, "MLFLOW_TRACKING_URI", "ONCOLOOP_HOME"):
        monkeypatch.delenv(name, raising=False)
    if sharing == "ONCOLOOP_HOME":
        monkeypatch.setenv("ONCOLOOP_HOME", str(workspace / "var"))
    with pytest.raises(Fault, match=f"of which {copy} is a copy: both would write there"):
        workspaces.enter(copy)
    assert content_without_locks(workspace.parent) == original_files


def test_a_copy_does_not_use_the_servers_of_the_original(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = {"url": "http://127.0.0.1:7801", "pid": os.getppid(), "healthy": True}
    json_files.write_json(services.run_file("prefect"), record)
    record_database.engine().dispose()
    copy = workspace.with_name("copy")
    shutil.copytree(workspace, copy, symlinks=True)
    enter(copy, monkeypatch)
    assert services.url("prefect") is None
    json_files.write_json(services.run_file("prefect"), record)
    assert services.url("prefect") is None, "the process does not belong to this workspace"


def test_the_page_of_a_verdict_is_stored_relative_to_the_state_folder(home: Path) -> None:
    assert lineage_paths.relative(home / "gx" / "a.html") == "gx/a.html"
    assert lineage_paths.relative("/elsewhere/a.html") == "/elsewhere/a.html"
    assert lineage_paths.relative("") == ""


def test_a_backup_is_restored_as_a_separate_workspace(original: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The path of its folder may contain `..`."""
    backup.write(original.parent / "ward.tar")
    record_database.engine().dispose()
    original_files = content_without_locks(original)
    for name in (*lineage_paths.FOLDERS, "MLFLOW_TRACKING_URI", "ONCOLOOP_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert backup.restore(original.parent / "ward.tar", original / ".." / "restored").outcome.value == "pass"
    assert Path.cwd() == original.parent / "restored"
    run_admission("second")
    record_database.engine().dispose()
    assert content_without_locks(original) == original_files
    assert not files_naming(original.parent / "restored", original)
    assert not {path for path in (original.parent / "restored").rglob("*") if path.name == "ward"}
