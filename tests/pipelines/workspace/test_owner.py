"""A workspace of another user works for users who may write there; others get one sentence."""

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
from tests.pipelines.admissions import new_workspace_in, run_admission, run_in_child

NOBODY = 65534
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to another user")


@pytest.fixture(scope="module")
def prepared() -> Iterator[Path]:
    """A workspace with an admitted batch and a waiting one, in a folder that everybody may enter."""
    parent = Path(tempfile.mkdtemp())
    parent.chmod(0o755)
    with new_workspace_in(parent / "ward") as folder:
        for seed, name in ((40, "first"), (41, "second")):
            batch.write_batch(
                Path("inbox", name), params.load().tasks["brain-mr"], 2, scanner.SCANNERS["alder-mr"], seed, 1
            )
        run_admission("first")
        database.engine().dispose()
        yield folder
    shutil.rmtree(parent)


def work_as_nobody(folder: Path, message_file: Path) -> None:
    """Admit a batch and check it out as a user without rights of root."""
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    os.chdir("/")
    try:
        workspaces.enter(folder)
        run_admission("second")
        dvc.worktree(git.head())
    except Fault as fault:
        message_file.write_text(str(fault))


@pytest.fixture
def message_file(prepared: Path) -> Path:
    path = prepared.parent / "told"
    path.write_text("")
    path.chmod(0o666)
    return path


def test_a_user_who_may_not_write_gets_one_sentence(prepared: Path, message_file: Path) -> None:
    assert run_in_child(lambda: work_as_nobody(prepared, message_file)) == 0
    assert message_file.read_text().startswith(
        f"{prepared} belongs to user 0 and may not be written by user {NOBODY}; run the"
    )


def test_root_works_in_the_workspace_of_another_user(prepared: Path, caplog: pytest.LogCaptureFixture) -> None:
    copy = prepared.with_name("copy")
    shutil.copytree(prepared, copy, symlinks=True)
    for path in (copy, *copy.rglob("*")):
        os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
    with pytest.MonkeyPatch.context() as patch:
        for name in (*paths.FOLDERS, "MLFLOW_TRACKING_URI", "ONCOLOOP_HOME"):
            patch.delenv(name, raising=False)
        patch.chdir(copy)
        workspaces.enter(copy)
        run_admission("second")
        assert dvc.worktree(git.head()).is_dir()
        assert len(git.batches_of("HEAD")) == 2
    database.engine().dispose()
    os.chdir(prepared)
    assert (
        f"belongs to user {NOBODY}, who may not be able to change the files that root writes there now" in caplog.text
    )


def test_a_user_who_may_write_works_in_the_workspace_of_root(prepared: Path, message_file: Path) -> None:
    for path in (prepared, *prepared.rglob("*")):
        path.chmod(path.stat().st_mode | (0o777 if path.is_dir() else 0o666))
    assert run_in_child(lambda: work_as_nobody(prepared, message_file)) == 0
    assert message_file.read_text() == ""
    assert len(git.batches_of("HEAD")) == 2
