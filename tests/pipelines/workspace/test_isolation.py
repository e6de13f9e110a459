"""A workspace uses its own repository, whatever the caller's environment, the folders above and the user's git say."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from data.phantom import batch, scanner
from lineage.errors import Fault
from lineage.record import ledger
from pipelines import params
from pipelines.flows import retrain_plan
from pipelines.recovery import interrupted_runs
from pipelines.workspace import dvc, git
from pipelines.workspace import workspace as workspaces
from tests.pipelines.conftest import Run
from tests.pipelines.flows.test_atomic_admission import run

TASK = "brain-mr"
FOREIGN = (
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
def other(tmp_path: Path) -> Path:
    """Somebody's own repository, with a commit."""
    folder = tmp_path / "other"
    folder.mkdir()
    plain(folder, "init", "-q", "-b", "main")
    (folder / "theirs.txt").write_text("theirs\n")
    plain(folder, "add", ".")
    plain(folder, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "theirs")
    return folder


def plain(folder: Path, *arguments: str, **more: str) -> str:
    """git as anybody calls it."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")} | more
    return subprocess.run(
        ["git", *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=True
    ).stdout


def content(folder: Path) -> dict[str, bytes]:
    """The bytes of every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def as_from_a_hook(monkeypatch: pytest.MonkeyPatch, other: Path) -> None:
    """What git sets for a hook of another repository, and more of the kind."""
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
        monkeypatch.setenv(name, str(other / value) if value.startswith(".") else value)
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "core.worktree")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", str(other))
    monkeypatch.setenv("GIT_AUTHOR_DATE", "2001-01-01T00:00:00")
    monkeypatch.setenv("DVC_ROOT", str(other))


@pytest.mark.parametrize("name", ["GIT_DIR alone", "as from a hook"])
def test_an_admission_started_from_another_repositorys_hook(
    workspace: Path, other: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    batch.write_batch(Path("inbox/first"), params.load().tasks[TASK], 2, scanner.SCANNERS["alder-mr"], 40, 1)
    batch.write_batch(Path("inbox/second"), params.load().tasks[TASK], 2, scanner.SCANNERS["alder-mr"], 41, 1)
    run("first")
    before, theirs = git.head(), content(other)
    if name == "GIT_DIR alone":
        monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    else:
        as_from_a_hook(monkeypatch, other)
    workspaces.enter(workspace)
    run("second")
    assert content(other) == theirs
    assert git.batches_of("HEAD") == {f"{TASK}/first", f"{TASK}/second"}
    assert git.run("rev-parse", "HEAD~1") == before
    assert ledger.events(kind="batch.admitted")[-1].payload["data_version"] == git.head()
    assert Path(f"data/batches/{TASK}/first.dvc").is_file()


def test_a_command_started_from_another_repositorys_hook(
    workspace: Path, other: Path, oncoloop: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = content(other)
    as_from_a_hook(monkeypatch, other)
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
    done = oncoloop("task", "new", "--facts", str(facts), "--json", cwd=workspace)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["version"] == git.head()
    assert content(other) == theirs


def test_libraries_of_this_process_use_the_workspace_too(
    workspace: Path, other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = content(other)
    as_from_a_hook(monkeypatch, other)
    folder = Path(f"data/batches/{TASK}/one")
    folder.mkdir()
    (folder / "x.txt").write_text("one\n")
    dvc.add(folder)
    dvc.push(batch=folder)
    git.commit(["data"], "Admit one")
    tree = dvc.worktree(git.head())
    assert (tree / folder / "x.txt").read_text() == "one\n"
    assert content(other) == theirs
    assert not {name for name in FOREIGN if name in os.environ}, "children would inherit them"


def test_how_git_reaches_another_machine_stays_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    from lineage import subprocess_environment

    own = {
        "GIT_SSH_COMMAND": "ssh -i key",
        "GIT_SSL_CAINFO": "/etc/ca.pem",
        "PATH": "/bin",
        "PREFECT_API_URL": "http://x",
    }
    foreign = {"GIT_EXEC_PATH": "/nowhere", "GIT_TRACE": "1", "DVC_STUDIO_TOKEN": "t", "PREFECT_PROFILE": "theirs"}
    found = subprocess_environment.isolated(own | foreign)
    assert own.items() <= found.items()
    assert not foreign.keys() & found.keys()


@pytest.mark.parametrize("damage", ["removed", "emptied", "HEAD removed", "a file that points nowhere"])
def test_a_workspace_whose_git_is_damaged_does_not_write_into_the_repository_above(
    workspace: Path, oncoloop: Run, damage: str
) -> None:
    above = workspace.parent
    plain(above, "init", "-q")
    theirs = content(above / ".git")
    batch.write_batch(Path("inbox/first"), params.load().tasks[TASK], 2, scanner.SCANNERS["alder-mr"], 40, 1)
    if damage == "HEAD removed":
        (workspace / ".git/HEAD").unlink()
    else:
        shutil.move(workspace / ".git", above / "aside")
        if damage == "emptied":
            (workspace / ".git").mkdir()
        if damage.startswith("a file"):
            (workspace / ".git").write_text("gitdir: /nowhere\n")
    done = oncoloop("ingest", cwd=workspace)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr and ".git" in done.stderr.splitlines()[-1]
    assert content(above / ".git") == theirs


def test_a_worktree_whose_link_is_damaged_does_not_move_the_workspace(workspace: Path) -> None:
    version = git.head()
    tree = dvc.worktree(version)
    (tree / ".git").write_text("")
    Path("note.txt").write_text("mine\n")
    git.commit(["note.txt"], "A note")
    with pytest.raises(Fault, match="git"):
        git.run("checkout", "--force", "--detach", version, folder=tree)
    assert git.run("rev-parse", "--abbrev-ref", "HEAD") == "main" and Path("note.txt").is_file()


def test_the_users_own_git_settings_change_nothing(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A global ignore list, line endings, hooks, signatures and a template are neutral, from a file or a repository."""
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
    with (workspace / ".git/config").open("a") as own:
        own.write(settings)
    path = Path("data/cohorts/new.csv")
    path.write_text("a,b\n1,2\n")
    git.commit(["data"], "A table")
    assert git.run("ls-files", "--", str(path)) == str(path)
    path.unlink()
    git.run("checkout", "HEAD", "--", str(path))
    assert path.read_bytes() == b"a,b\n1,2\n"


def test_a_workspace_whose_git_lost_an_admission_is_stopped_before_more_is_deleted(
    workspace: Path, oncoloop: Run
) -> None:
    settings = params.load().tasks[TASK]
    first = git.head()
    for seed, name in ((40, "first"), (41, "second")):
        batch.write_batch(Path("inbox", name), settings, 2, scanner.SCANNERS["alder-mr"], seed, 1)
        run(name)
    kept = content(workspace / "data")
    git.run("update-ref", "HEAD", first)
    done = oncoloop("withdraw", "4711", "--reason", "asked", cwd=workspace)
    assert done.returncode == 1, done.stderr
    assert f"lost what the ledger names ({TASK}/first, {TASK}/second" in done.stderr
    assert "oncoloop verify --repair" in done.stderr
    assert content(workspace / "data") == kept
    for work in (interrupted_runs.settle, retrain_plan.pin):  # before an ingest, before a retraining
        with pytest.raises(Fault, match="lost what the ledger names"):
            work()


def test_a_folder_of_another_repository_is_made_a_workspace_of_its_own(
    tmp_path: Path, other: Path, oncoloop: Run
) -> None:
    theirs = content(other)
    assert oncoloop("init", str(other / "ward"), cwd=tmp_path).returncode == 0
    assert {name: value for name, value in content(other).items() if not name.startswith("ward/")} == theirs
    assert plain(other / "ward", "rev-parse", "--show-toplevel").strip() == str(other / "ward")
