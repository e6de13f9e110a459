"""A workspace of another user works for whoever may write there; whoever may not is told so in one sentence."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from data.phantom import batch, scanner
from lineage import paths
from lineage.errors import Fault
from lineage.record import database
from pipelines import params
from pipelines.workspace import dvc, git
from pipelines.workspace import workspace as workspaces
from tests.pipelines.flows.test_atomic_admission import child, made_in, run

NOBODY = 65534
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to another user")


@pytest.fixture(scope="module")
def made() -> Iterator[Path]:
    """A workspace with an admitted batch and a waiting one, below a folder that everybody may enter."""
    above = Path(tempfile.mkdtemp())
    above.chmod(0o755)
    with made_in(above / "ward") as folder:
        for seed, name in ((40, "first"), (41, "second")):
            batch.write_batch(
                Path("inbox", name), params.load().tasks["brain-mr"], 2, scanner.SCANNERS["alder-mr"], seed, 1
            )
        run("first")
        database.engine().dispose()
        yield folder
    shutil.rmtree(above)


def entered_by_somebody(folder: Path, told: Path) -> None:
    """What a user without any rights of root does: an admission, and a worktree of it."""
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    os.chdir("/")
    try:
        workspaces.enter(folder)
        run("second")
        dvc.worktree(git.head())
    except Fault as fault:
        told.write_text(str(fault))


@pytest.fixture
def told(made: Path) -> Path:
    path = made.parent / "told"
    path.write_text("")
    path.chmod(0o666)
    return path


def test_who_may_not_write_is_told_so(made: Path, told: Path) -> None:
    assert child(lambda: entered_by_somebody(made, told)) == 0
    assert told.read_text().startswith(f"{made} belongs to user 0 and may not be written by user {NOBODY}; run the")


def test_root_works_in_the_workspace_of_another(made: Path, caplog: pytest.LogCaptureFixture) -> None:
    copy = made.with_name("copy")
    shutil.copytree(made, copy, symlinks=True)
    for path in (copy, *copy.rglob("*")):
        os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
    with pytest.MonkeyPatch.context() as patch:
        for name in (*paths.FOLDERS, "MLFLOW_TRACKING_URI", "ONCOLOOP_HOME"):
            patch.delenv(name, raising=False)
        patch.chdir(copy)
        workspaces.enter(copy)
        run("second")
        assert dvc.worktree(git.head()).is_dir()
        assert len(git.batches_of("HEAD")) == 2
    database.engine().dispose()
    os.chdir(made)
    assert (
        f"belongs to user {NOBODY}, who may not be able to change the files that root writes there now" in caplog.text
    )


def test_somebody_who_may_write_works_in_the_workspace_of_root(made: Path, told: Path) -> None:
    for path in (made, *made.rglob("*")):
        path.chmod(path.stat().st_mode | (0o777 if path.is_dir() else 0o666))
    assert child(lambda: entered_by_somebody(made, told)) == 0
    assert told.read_text() == ""
    assert len(git.batches_of("HEAD")) == 2
