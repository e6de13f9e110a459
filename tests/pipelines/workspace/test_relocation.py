"""A workspace may be copied, which makes an independent one, or moved, and nothing of it names its old folder."""

from __future__ import annotations

import os
import shutil
import sqlite3
from pathlib import Path

import pytest

from data.phantom import batch, scanner
from lineage import json_files, registry
from lineage import paths as lineage_paths
from lineage.errors import Fault
from lineage.record import database as record_database
from lineage.record import ledger
from pipelines import data_versions, params
from pipelines.recovery import interrupted_runs
from pipelines.servers import services
from pipelines.workspace import backup, dvc, git, relocation
from pipelines.workspace import workspace as workspaces
from tests.pipelines.flows.test_atomic_admission import run
from tests.pipelines.workspace.test_isolation import content

TASK = "brain-mr"


def enter(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Enter a workspace as a command in a new process does, whose environment names no workspace."""
    for name in (*lineage_paths.FOLDERS, "MLFLOW_TRACKING_URI", "ONCOLOOP_HOME"):
        monkeypatch.delenv(name, raising=False)
    record_database.engine().dispose()
    workspaces.enter(folder)


@pytest.fixture
def ward(workspace: Path) -> Path:
    """A workspace with one admitted batch, a worktree of the retraining and a checked-out version."""
    for seed, name in ((40, "first"), (41, "second")):
        batch.write_batch(Path("inbox", name), params.load().tasks[TASK], 2, scanner.SCANNERS["alder-mr"], seed, 1)
    run("first")
    dvc.worktree(git.head())
    data_versions.checkout(git.head())
    return workspace


def names(folder: Path, old: Path) -> set[str]:
    """Files, databases and links below a folder naming another folder; the ledger, which never changes, is left out."""
    paths = [path for path in folder.rglob("*") if "logs" not in path.parts and "oncoloop.db" not in path.name]
    texts = [path for path in paths if path.is_file() and f"{old}/".encode() in path.read_bytes()]
    links = [path for path in paths if path.is_symlink() and str(old) in str(path.readlink())]
    return {str(path.relative_to(folder)) for path in (*texts, *links)}


def test_a_fresh_workspace_names_its_own_folder_in_one_file_and_links_alone(ward: Path) -> None:
    linked = {".git/worktrees/worktree/gitdir", "var/worktree/.git"}
    version = next(Path("var/versions").iterdir()).name
    linked |= {f".git/worktrees/{version}/gitdir", f"var/versions/{version}/.git"}
    found = {name for name in names(ward, ward) if not name.startswith("var/cache/dvc/")}
    assert found <= linked
    assert (ward / "var" / relocation.PATH_RECORD).read_text().strip() == str(ward)


def test_a_copy_is_independent(ward: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    record_database.engine().dispose()
    copy = ward.parent / "a copy"
    shutil.copytree(ward, copy, symlinks=True)
    before = content(ward)
    enter(copy, monkeypatch)
    assert [record.message for record in caplog.records if "is a copy of" in record.message]
    run("second")
    tree = dvc.worktree(git.head())
    assert (tree / f"data/batches/{TASK}/second.dvc").is_file()
    assert git.batches_of("HEAD") == {f"{TASK}/first", f"{TASK}/second"}
    assert (copy / "var/remote/files").is_dir()
    data_versions.checkout(git.head())
    record_database.engine().dispose()
    assert content(ward) == before
    assert not names(copy, ward)
    caplog.clear()
    enter(copy, monkeypatch)
    assert not caplog.records, "it is said once"


def test_a_moved_workspace_works_and_its_old_folder_is_not_made_anew(
    ward: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record_database.engine().dispose()
    moved = ward.parent / "elsewhere" / "ward 7"
    moved.parent.mkdir()
    os.chdir(moved.parent)
    ward.rename(moved)
    enter(moved, monkeypatch)
    run("second")
    shutil.rmtree(Path(f"data/batches/{TASK}/first"))
    interrupted_runs.settle()
    assert Path(f"data/batches/{TASK}/first/manifest.csv").is_file(), "it comes from the cache of the new folder"
    assert dvc.worktree(git.head()).is_dir() and data_versions.checkout(git.head())[0].is_dir()
    assert ledger.verify().outcome.value == "pass"
    assert not ward.exists()
    assert not names(moved, ward)


def test_a_workspace_made_before_is_moved_by_its_settings_of_dvc(ward: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Made at a time when its folder was written down nowhere else, and DVC's settings named it in full."""
    (ward / "var" / relocation.PATH_RECORD).unlink()
    remote = f"['remote \"local\"']\n    url = {ward}/var/remote\n"
    text = f'[cache]\n    dir = {ward}/var/cache\n    type = "hardlink,copy"\n{remote}'
    for folder in (ward, ward / "var/worktree"):
        (folder / ".dvc/config.local").write_text(text)
    record_database.engine().dispose()
    copy = ward.parent / "copy"
    shutil.copytree(ward, copy, symlinks=True)
    before = content(ward)
    enter(copy, monkeypatch)
    run("second")
    dvc.worktree(git.head())
    record_database.engine().dispose()
    assert content(ward) == before
    assert 'hardlink,copy"' in (copy / ".dvc/config.local").read_text()


def test_a_cache_that_a_person_put_elsewhere_stays_there(ward: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    big = ward.parent / "big"
    path = ward / ".dvc/config.local"
    path.write_text(path.read_text().replace("../var/cache", str(big)))
    record_database.engine().dispose()
    moved = ward.with_name("moved")
    os.chdir(ward.parent)
    ward.rename(moved)
    enter(moved, monkeypatch)
    assert str(big) in (moved / ".dvc/config.local").read_text()


def test_models_are_found_where_the_workspace_lies_now(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    client = MlflowClient()
    run_id = client.create_run(client.create_experiment(TASK)).info.run_id
    client.log_text(run_id, "weights", "model/weights.txt")
    registry.register(TASK, run_id, "model", {})
    record_database.engine().dispose()
    copy = workspace.with_name("copy")
    shutil.copytree(workspace, copy, symlinks=True)
    (workspace / "var/mlflow/artifacts").rename(workspace / "var/mlflow/away")
    enter(copy, monkeypatch)
    assert (registry.download(TASK, "1") / "weights.txt").read_text() == "weights"
    assert str(registry.run_facts(run_id)["artifacts"]).startswith(f"{copy}/")
    with sqlite3.connect(copy / "var/mlflow/mlflow.db") as database:
        assert f"{workspace}/" not in "\n".join(database.iterdump())


def unlocked(folder: Path) -> dict[str, bytes]:
    """The content of a folder without lock files."""
    return {name: value for name, value in content(folder).items() if "/run/" not in name}


@pytest.mark.parametrize("how", ["hard links", "a symbolic link", "ONCOLOOP_HOME"])
def test_a_copy_that_shares_its_state_is_refused(workspace: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    copy = workspace.with_name("copy")
    record_database.engine().dispose()
    if how == "a symbolic link":
        (workspace / "var").rename(workspace.parent / "state")
        (workspace / "var").symlink_to(workspace.parent / "state")
    shutil.copytree(workspace, copy, symlinks=True, copy_function=os.link if how == "hard links" else shutil.copy2)
    if how == "ONCOLOOP_HOME":
        shutil.rmtree(copy / "var")
    before = unlocked(workspace.parent)
    for name in (*lineage_paths.FOLDERS, "MLFLOW_TRACKING_URI", "ONCOLOOP_HOME"):
        monkeypatch.delenv(name, raising=False)
    if how == "ONCOLOOP_HOME":
        monkeypatch.setenv("ONCOLOOP_HOME", str(workspace / "var"))
    with pytest.raises(Fault, match=f"of which {copy} is a copy: both would write there"):
        workspaces.enter(copy)
    assert unlocked(workspace.parent) == before


def test_a_copy_does_not_take_the_servers_of_the_original_for_its_own(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = {"url": "http://127.0.0.1:7801", "pid": os.getppid(), "healthy": True}
    json_files.write_json(services.run_file("prefect"), record)
    record_database.engine().dispose()
    copy = workspace.with_name("copy")
    shutil.copytree(workspace, copy, symlinks=True)
    enter(copy, monkeypatch)
    assert services.url("prefect") is None
    json_files.write_json(services.run_file("prefect"), record)
    assert services.url("prefect") is None, "the process is not one of this workspace"


def test_a_page_of_a_verdict_is_kept_by_its_place_below_the_state_folder(home: Path) -> None:
    assert lineage_paths.relative(home / "gx" / "a.html") == "gx/a.html"
    assert lineage_paths.relative("/elsewhere/a.html") == "/elsewhere/a.html"
    assert lineage_paths.relative("") == ""


def test_a_backup_is_restored_as_a_workspace_of_its_own(ward: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its folder may be named with `..` in it."""
    backup.write(ward.parent / "ward.tar")
    record_database.engine().dispose()
    before = unlocked(ward)
    for name in (*lineage_paths.FOLDERS, "MLFLOW_TRACKING_URI", "ONCOLOOP_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert backup.restore(ward.parent / "ward.tar", ward / ".." / "restored").outcome.value == "pass"
    assert Path.cwd() == ward.parent / "restored"
    run("second")
    record_database.engine().dispose()
    assert unlocked(ward) == before
    assert not names(ward.parent / "restored", ward)
    assert not {path for path in (ward.parent / "restored").rglob("*") if path.name == "ward"}
