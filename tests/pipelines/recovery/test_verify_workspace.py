"""`oncoloop verify` names everything that is lost or changed, and `--repair` restores what can be restored."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from data.batch import manifest
from data.phantom import batch as phantom_batch
from data.phantom import scanner
from lineage.errors import Fault
from lineage.record import database, ledger
from lineage.record.events import EventKind
from pipelines import params
from pipelines.recovery import interrupted_runs, repair, verify_workspace
from pipelines.withdrawal import locate, withdraw
from pipelines.workspace import dvc, dvc_objects, git
from pipelines.workspace import workspace as workspaces
from tests.pipelines.admissions import new_workspace_in, run_admission
from tests.pipelines.conftest import Run
from tests.pipelines.foreign_git import run_git

TASK = "brain-mr"
FIRST, SECOND = f"{TASK}/first", f"{TASK}/second"
COHORTS = Path("data/cohorts", f"{TASK}.csv")


@pytest.fixture(scope="module")
def prepared_workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A workspace with two admitted batches and a quarantined one, with a copy from which each test begins."""
    with new_workspace_in(tmp_path_factory.mktemp("verify") / "ward") as folder:
        for seed, name in ((40, "first"), (41, "second")):
            phantom_batch.write_batch(
                Path("inbox", name), params.load().tasks[TASK], 3, scanner.SCANNERS["alder-mr"], seed, 1
            )
            run_admission(name)
        Path("data/quarantine/bad").mkdir(parents=True)
        ledger.append(EventKind.BATCH_QUARANTINED, "bad", {"task": TASK, "digest": "0" * 64})
        database.engine().dispose()
        shutil.copytree(folder, folder.with_name("kept"), symlinks=True)
        yield folder


@pytest.fixture
def workspace(prepared_workspace: Path) -> Path:
    os.chdir(prepared_workspace.parent)
    database.engine().dispose()
    shutil.rmtree(prepared_workspace)
    shutil.copytree(prepared_workspace.with_name("kept"), prepared_workspace, symlinks=True)
    os.chdir(prepared_workspace)
    return prepared_workspace


def verify(full: bool = False) -> tuple[str, str]:
    """Outcome and reasons of a verification, as two texts."""
    verdict = verify_workspace.verify(full)
    return verdict.outcome.value, "\n".join(verdict.reasons)


def objects_of(name: str) -> dict[str, str]:
    pointer = dvc_objects.read_pointer(Path(f"data/batches/{TASK}/{name}.dvc").read_text())
    return {".": pointer.md5, **(dvc_objects.folder_listing(dvc.object_stores().values(), pointer.md5) or {})}


def drop_objects(batch: str, *stores: str) -> None:
    shared = set(objects_of("first").values()) & set(objects_of("second").values())
    own_objects = [md5 for md5 in objects_of(batch).values() if md5 not in shared]
    for path in [dvc_objects.object_path(dvc.object_stores()[name], md5) for name in stores for md5 in own_objects]:
        path.unlink()


def rewrite(path: Path, change: Callable[[str], str]) -> None:
    text = change(path.read_text())
    path.chmod(0o644)
    path.unlink()
    path.write_text(text)


def first_version() -> str:
    return str(ledger.events(kind=EventKind.BATCH_ADMITTED)[0].payload["data_version"])


def reset_the_branch() -> None:
    """Do what `git reset --hard`, another branch or an old commit does."""
    git.run("reset", "--hard", "--quiet", first_version())


def lose_the_commits() -> None:
    """Leave the commit of the second batch in another repository, as GIT_DIR in the environment once did."""
    reset_the_branch()
    run_git(Path.cwd(), "reflog", "expire", "--expire=now", "--all")
    run_git(Path.cwd(), "prune", "--expire=now")
    shutil.rmtree(f"data/batches/{SECOND}")


def recreate_git() -> None:
    shutil.rmtree(".git")
    workspaces.create(Path.cwd())


def delete_everything() -> None:
    """Delete all batches and tables, as an ingest after lost commits once did."""
    for path in Path("data/batches", TASK).iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    COHORTS.unlink()


def commit_after(change: Callable[[], None]) -> Callable[[], None]:
    def change_and_commit() -> None:
        change()
        git.commit(["data"], "By hand")

    return change_and_commit


def drop_a_row() -> None:
    rewrite(COHORTS, lambda text: "\n".join(text.splitlines()[:2] + text.splitlines()[3:]) + "\n")


def move_a_row() -> None:
    side = COHORTS.read_text().splitlines()[1].split(",")[2]
    other_side = "test" if side != "test" else "training"
    rewrite(COHORTS, lambda text: text.replace(f",{side},", f",{other_side},", 1))


def duplicate_a_row() -> None:
    rewrite(COHORTS, lambda text: text + text.splitlines()[1] + "\n")


def point_to_another_batch() -> None:
    second = Path(f"data/batches/{SECOND}.dvc")
    first_list = objects_of("first")["."]
    rewrite(second, lambda text: text.replace(objects_of("second")["."], first_list))


DAMAGES: dict[str, tuple[Callable[[], None], str]] = {
    "the branch was reset": (reset_the_branch, rf"{SECOND}: the ledger has it .* today's commit does not"),
    "the commits are in another repository": (lose_the_commits, r"is not in this git at all"),
    "git was created again": (recreate_git, r"data version \w+: is not in this git at all"),
    "the working folder was emptied": (delete_everything, rf"{FIRST}: data/batches/{FIRST}.dvc is missing in"),
    "a commit deleted everything": (commit_after(delete_everything), rf"{FIRST}: the ledger has it"),
    "a row is missing": (drop_a_row, r"in the working folder, an old assignment is gone or changed"),
    "a row is missing, committed": (commit_after(drop_a_row), r"in today's commit, an old assignment is gone"),
    "a patient changed sides": (commit_after(move_a_row), r"in today's commit, .* side was"),
    "a patient occurs twice": (commit_after(duplicate_a_row), r"1 clusters occur in it twice"),
    "a batch points to another": (commit_after(point_to_another_batch), rf"{SECOND}: .*second.dvc was changed after"),
    "the cache lost objects": (lambda: drop_objects("second", "cache"), rf"{SECOND}: .* are missing in cache"),
    "the remote lost objects": (lambda: drop_objects("second", "remote"), rf"{SECOND}: .* are missing in remote"),
    "a scan is missing": (lambda: next(Path(f"data/batches/{FIRST}/scans").iterdir()).unlink(), rf"{FIRST}: 1 of its"),
    "a table was edited": (lambda: rewrite(Path(f"data/batches/{FIRST}/manifest.csv"), str.upper), r"were changed"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damage_is_named_and_repaired(workspace: Path, name: str) -> None:
    assert verify()[0] == "pass"
    sides, damage, pattern = COHORTS.read_bytes(), *DAMAGES[name]
    damage()
    outcome, reasons = verify()
    assert outcome == "fail" and re.search(pattern, reasons), reasons
    repairs = repair.repair()
    outcome, reasons = verify(full=True)
    assert outcome == "pass", reasons
    recorded = ledger.events(kind=EventKind.WORKSPACE_REPAIRED)[-1].payload
    assert recorded["restored"] == repairs and (repairs or recorded["lost"]["versions"])
    assert git.batches_of("HEAD") == {FIRST, SECOND} and git.run("status", "--porcelain") == ""
    assert sorted(COHORTS.read_bytes().splitlines()) == sorted(sides.splitlines()), "every side is what it was"
    interrupted_runs.recover_workspace()
    assert repair.repair() == [], "a second repair has nothing to do"


def test_changed_bytes_in_the_cache_are_found_by_the_full_verification(workspace: Path) -> None:
    scan = next(name for name in objects_of("first") if name.startswith("scans/"))
    path = dvc_objects.object_path(dvc.object_stores()["cache"], objects_of("first")[scan])
    path.chmod(0o644)
    path.write_bytes(b"other bytes")
    assert "other bytes" in verify(full=True)[1]
    repair.repair()
    assert verify(full=True)[0] == "pass"


def test_a_lost_batch_is_recorded_and_may_be_admitted_again(workspace: Path) -> None:
    drop_objects("second", "cache", "remote")
    lose_the_commits()
    Path(f"data/batches/{SECOND}.dvc").unlink(missing_ok=True)
    with pytest.raises(Fault, match="lost what the ledger names"):
        interrupted_runs.recover_workspace()
    repair.repair()
    outcome, reasons = verify()
    assert outcome == "inconclusive" and f"{SECOND}: its data are lost for good" in reasons
    assert ledger.events(kind=EventKind.WORKSPACE_REPAIRED)[-1].payload["lost"]["batches"] == [SECOND]
    assert Path(f"data/batches/{FIRST}/manifest.csv").is_file()
    run_admission("second")
    outcome, reasons = verify()
    assert outcome == "pass", reasons
    assert git.batches_of("HEAD") == {FIRST, SECOND}


def test_sides_that_a_model_has_learned_from_are_not_assigned_again(workspace: Path) -> None:
    facts = {"version": "1", "batches": ["second"], "data_version": first_version(), "lock_hash": "x"}
    ledger.append(EventKind.MODEL_LOGGED, TASK, facts)
    lose_the_commits()
    repair.repair()
    outcome, reasons = verify()
    assert outcome == "fail" and f"{SECOND}: 3 of its clusters have no side" in reasons
    assert f"{TASK}/1: the ledger has this model, MLflow does not" in reasons


def test_sides_that_only_the_working_folder_has_are_restored(workspace: Path) -> None:
    """They were assigned while another repository took the commit. They are valid even if the rule has changed."""
    rows = COHORTS.read_text()
    lose_the_commits()
    moved_rows = [line.replace(",test,", ",training,") if ",second," in line else line for line in rows.splitlines()]
    COHORTS.write_text("\n".join(moved_rows) + "\n")
    repair.repair()
    assert verify()[0] == "pass"
    assert sorted(COHORTS.read_text().splitlines()) == sorted(moved_rows)


def test_a_withdrawal_is_no_damage(workspace: Path) -> None:
    patient = str(manifest.read_manifest(Path(f"data/batches/{FIRST}/manifest.csv"))["patient"].iloc[0])
    withdraw.withdraw(locate.locate_patient(patient), "asked")
    outcome, reasons = verify(full=True)
    assert outcome == "pass", reasons
    assert git.batches_of("HEAD") == {f"{FIRST}-w1", SECOND}
    reset_the_branch()
    assert f"{FIRST}-w1: the ledger has it" in verify()[1]
    repair.repair()
    assert verify()[0] == "pass"
    assert patient not in COHORTS.read_text() and not Path(f"data/batches/{FIRST}.dvc").exists()


def test_missing_quarantined_copies_give_an_inconclusive_verdict(workspace: Path) -> None:
    shutil.rmtree("data/quarantine/bad")
    assert verify() == ("inconclusive", verify()[1])
    assert "data/quarantine/bad: the copy of this quarantined batch, with the reasons, is missing" in verify()[1]


def test_the_command_names_what_is_missing_and_restores_it(workspace: Path, oncoloop: Run) -> None:
    reset_the_branch()
    process = oncoloop("verify", cwd=workspace)
    assert process.returncode == 3
    assert process.stdout.splitlines()[0] == "ledger: pass" and "workspace: fail" in process.stdout
    assert f"{SECOND}: the ledger has it" in process.stdout and "oncoloop verify --repair" in process.stdout
    process = oncoloop("verify", "--repair", "--json", cwd=workspace)
    answer = json.loads(process.stdout)
    outcomes = (process.returncode, answer["outcome"], answer["workspace"]["outcome"])
    assert outcomes == (0, "pass", "pass"), process.stderr
    assert any("in the history again" in line for line in answer["repaired"])
    assert oncoloop("verify", "--full", cwd=workspace).returncode == 0
