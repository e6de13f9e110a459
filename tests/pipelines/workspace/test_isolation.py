"""A workspace uses its own repository, whatever environment, parent folders and git settings of the user contain."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import yaml

from data.phantom import batch, scanner
from lineage.errors import Fault
from lineage.record import ledger
from lineage.record.events import EventKind
from pipelines import params
from pipelines.flows import retrain_plan
from pipelines.recovery import interrupted_runs
from pipelines.workspace import dvc, git
from pipelines.workspace import workspace as workspaces
from tests.pipelines.admissions import run_admission
from tests.pipelines.conftest import Run
from tests.pipelines.foreign_git import content, run_git

TASK = "brain-mr"
GIT_VARIABLES = (
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_COMMON_DIR",
    "GIT_NAMESPACE",
    "GIT_PREFIX",
)


@pytest.fixture
def foreign_repository(tmp_path: Path) -> Path:
    """A repository of another person, with a commit."""
    folder = tmp_path / "other"
    folder.mkdir()
    run_git(folder, "init", "-q", "-b", "main")
    (folder / "theirs.txt").write_text("theirs\n")
    run_git(folder, "add", ".")
    run_git(folder, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "theirs")
    return folder


def set_hook_environment(monkeypatch: pytest.MonkeyPatch, foreign_repository: Path) -> None:
    """Set the variables that git sets for a hook of another repository, and similar ones."""
    values = {
        "GIT_DIR": ".git",
        "GIT_WORK_TREE": ".",
        "GIT_INDEX_FILE": ".git/index",
        "GIT_NAMESPACE": "theirs",
        "GIT_OBJECT_DIRECTORY": ".git/objects",
        "GIT_COMMON_DIR": ".git",
        "GIT_ALTERNATE_OBJECT_DIRECTORIES": ".git/objects",
        "GIT_CEILING_DIRECTORIES": "/",
    }
    for name, value in values.items():
        monkeypatch.setenv(name, str(foreign_repository / value) if value.startswith(".") else value)
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "core.worktree")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", str(foreign_repository))
    monkeypatch.setenv("GIT_AUTHOR_DATE", "2001-01-01T00:00:00")
    monkeypatch.setenv("DVC_ROOT", str(foreign_repository))


@pytest.mark.parametrize("name", ["GIT_DIR alone", "as from a hook"])
def test_an_admission_from_a_hook_of_another_repository_uses_the_workspace(
    workspace: Path, foreign_repository: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    batch.write_batch(Path("inbox/first"), params.load().tasks[TASK], 2, scanner.SCANNERS["alder-mr"], 40, 1)
    batch.write_batch(Path("inbox/second"), params.load().tasks[TASK], 2, scanner.SCANNERS["alder-mr"], 41, 1)
    run_admission("first")
    first_version, foreign_files = git.head(), content(foreign_repository)
    if name == "GIT_DIR alone":
        monkeypatch.setenv("GIT_DIR", str(foreign_repository / ".git"))
    else:
        set_hook_environment(monkeypatch, foreign_repository)
    workspaces.enter(workspace)
    run_admission("second")
    assert content(foreign_repository) == foreign_files
    assert git.batches_of("HEAD") == {f"{TASK}/first", f"{TASK}/second"}
    assert git.run("rev-parse", "HEAD~1") == first_version
    assert ledger.events(kind=EventKind.BATCH_ADMITTED)[-1].payload["data_version"] == git.head()
    assert Path(f"data/batches/{TASK}/first.dvc").is_file()


def test_a_command_from_a_hook_of_another_repository_uses_the_workspace(
    workspace: Path, foreign_repository: Path, oncoloop: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign_files = content(foreign_repository)
    set_hook_environment(monkeypatch, foreign_repository)
    facts = Path("facts.yaml")
    facts.write_text(
        yaml.safe_dump(
            {
                "name": "liver-ct",
                "title": "Liver",
                "organ": "liver",
                "modality": "CT",
                "body_parts": ["LIVER"],
                "classes": ["normal", "tumour"],
                "positive": ["tumour"],
                "size": 128,
                "window": [60, 300],
                "sensitivity": 0.9,
            }
        )
    )
    process = oncoloop("task", "new", "--facts", str(facts), "--json", cwd=workspace)
    assert process.returncode == 0, process.stderr
    assert json.loads(process.stdout)["version"] == git.head()
    assert content(foreign_repository) == foreign_files


def test_git_libraries_of_this_process_use_the_workspace(
    workspace: Path, foreign_repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign_files = content(foreign_repository)
    set_hook_environment(monkeypatch, foreign_repository)
    folder = Path(f"data/batches/{TASK}/one")
    folder.mkdir()
    (folder / "x.txt").write_text("one\n")
    dvc.add(folder)
    dvc.push(batch=folder)
    git.commit(["data"], "Admit one")
    tree = dvc.worktree(git.head())
    assert (tree / folder / "x.txt").read_text() == "one\n"
    assert content(foreign_repository) == foreign_files
    assert not {name for name in GIT_VARIABLES if name in os.environ}, "child processes would inherit them"


def test_git_settings_for_other_machines_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    from lineage import subprocess_environment

    user_variables = {
        "GIT_SSH_COMMAND": "ssh -i key",
        "GIT_SSL_CAINFO": "/etc/ca.pem",
        "PATH": "/bin",
        "PREFECT_API_URL": "http://x",
    }
    foreign = {"GIT_EXEC_PATH": "/nowhere", "GIT_TRACE": "1", "DVC_STUDIO_TOKEN": "t", "PREFECT_PROFILE": "theirs"}
    environment = subprocess_environment.isolated_environment(user_variables | foreign)
    assert user_variables.items() <= environment.items()
    assert not foreign.keys() & environment.keys()


@pytest.mark.parametrize("damage", ["removed", "emptied", "HEAD removed", "a file that points nowhere"])
def test_a_workspace_with_damaged_git_does_not_write_into_a_parent_repository(
    workspace: Path, oncoloop: Run, damage: str
) -> None:
    parent = workspace.parent
    run_git(parent, "init", "-q")
    parent_files = content(parent / ".git")
    batch.write_batch(Path("inbox/first"), params.load().tasks[TASK], 2, scanner.SCANNERS["alder-mr"], 40, 1)
    if damage == "HEAD removed":
        (workspace / ".git/HEAD").unlink()
    else:
        shutil.move(workspace / ".git", parent / "aside")
        if damage == "emptied":
            (workspace / ".git").mkdir()
        if damage.startswith("a file"):
            (workspace / ".git").write_text("gitdir: /nowhere\n")
    process = oncoloop("ingest", cwd=workspace)
    assert process.returncode == 1
    assert "Traceback" not in process.stderr and ".git" in process.stderr.splitlines()[-1]
    assert content(parent / ".git") == parent_files


def test_a_worktree_with_a_damaged_link_does_not_change_the_workspace(workspace: Path) -> None:
    version = git.head()
    tree = dvc.worktree(version)
    (tree / ".git").write_text("")
    Path("note.txt").write_text("mine\n")
    git.commit(["note.txt"], "A note")
    with pytest.raises(Fault, match="git"):
        git.run("checkout", "--force", "--detach", version, folder=tree)
    assert git.run("rev-parse", "--abbrev-ref", "HEAD") == "main" and Path("note.txt").is_file()


def test_git_settings_of_the_user_have_no_effect(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ignore list, line endings, hooks, signatures and template have no effect, from a global or a local file."""
    user = tmp_path / "user"
    (user / "git").mkdir(parents=True)
    (user / "hooks").mkdir()
    (user / "hooks/pre-commit").write_text("#!/bin/sh\nexit 1\n")
    (user / "hooks/pre-commit").chmod(0o755)
    (user / "ignored").write_text("*.csv\n*.dvc\n")
    settings = (
        f"[core]\n excludesFile = {user}/ignored\n autocrlf = true\n hooksPath = {user}/hooks\n"
        "[commit]\n gpgsign = true\n template = /nowhere\n"
    )
    (user / ".gitconfig").write_text(settings)
    (user / "git/ignore").write_text("*.csv\n")
    monkeypatch.setenv("HOME", str(user))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(user))
    with (workspace / ".git/config").open("a") as config:
        config.write(settings)
    path = Path("data/cohorts/new.csv")
    path.write_text("a,b\n1,2\n")
    git.commit(["data"], "A table")
    assert git.run("ls-files", "--", str(path)) == str(path)
    path.unlink()
    git.run("checkout", "HEAD", "--", str(path))
    assert path.read_bytes() == b"a,b\n1,2\n"


def test_a_workspace_whose_git_lost_an_admission_is_refused(workspace: Path, oncoloop: Run) -> None:
    settings = params.load().tasks[TASK]
    first = git.head()
    for seed, name in ((40, "first"), (41, "second")):
        batch.write_batch(Path("inbox", name), settings, 2, scanner.SCANNERS["alder-mr"], seed, 1)
        run_admission(name)
    data_files = content(workspace / "data")
    git.run("update-ref", "HEAD", first)
    process = oncoloop("withdraw", "4711", "--reason", "asked", cwd=workspace)
    assert process.returncode == 1, process.stderr
    assert f"lost what the ledger names ({TASK}/first, {TASK}/second" in process.stderr
    assert "oncoloop verify --repair" in process.stderr
    assert content(workspace / "data") == data_files
    for function in (
        interrupted_runs.recover_workspace,
        retrain_plan.pin_worktree,
    ):  # before an ingest, before a retraining
        with pytest.raises(Fault, match="lost what the ledger names"):
            function()


def test_a_folder_in_another_repository_becomes_a_separate_workspace(
    tmp_path: Path, foreign_repository: Path, oncoloop: Run
) -> None:
    foreign_files = content(foreign_repository)
    assert oncoloop("init", str(foreign_repository / "ward"), cwd=tmp_path).returncode == 0
    assert {
        name: value for name, value in content(foreign_repository).items() if not name.startswith("ward/")
    } == foreign_files
    assert run_git(foreign_repository / "ward", "rev-parse", "--show-toplevel").strip() == str(
        foreign_repository / "ward"
    )
