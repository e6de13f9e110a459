"""The work that a retraining would do now: pinned worktree, changed stages, unjudged models. No Prefect import."""

from __future__ import annotations

from pathlib import Path

from lineage.errors import Fault
from lineage.record import ledger
from lineage.record.events import EventKind
from pipelines import params, warm_start_pins
from pipelines.models import promote
from pipelines.recovery import interrupted_runs
from pipelines.workspace import code_snapshot, dvc, git

SETTINGS_FILES = ("params.yaml", "dvc.yaml")


def trainable_tasks(name: str | None) -> list[str]:
    """The tasks with admitted data, or the one named. Fault if there is none."""
    candidates = [params.load().task(name).name] if name else list(params.load().tasks)
    tasks = [task for task in candidates if any(Path("data/batches", task).glob("*.dvc"))]
    if not tasks:
        raise Fault(f"no admitted batch of {name or 'any task'} yet; put one into inbox/ and run `oncoloop ingest`")
    return tasks


def pin_worktree() -> Path:
    """Check out today's data and settings into the retraining's own worktree, with code fingerprint and parents."""
    interrupted_runs.recover_workspace()
    tree = dvc.worktree(git.commit(list(SETTINGS_FILES), "Change the settings"))
    code_snapshot.write_code_snapshot(tree)
    warm_start_pins.write_pins(tree)
    return tree


def pending_work(name: str | None = None) -> list[str]:
    """The stages, gates and release that a retraining would run now, in words. Empty if nothing has changed."""
    tasks = trainable_tasks(name)
    tree = pin_worktree()
    work = dvc.changed_stages(tree, tasks)
    for task in tasks:
        version = find_logged_version(task, dvc.lock_hash(tree, task))
        if not work and (version is None or not ledger.events(kind=EventKind.VERDICT, subject=f"{task}/{version}")):
            work.append(f"gate {task}")
    if not work and promote.is_release_pending():
        work.append("release")
    return work


def find_logged_version(name: str, lock_hash: str) -> str | None:
    """The version under which the training with this lock hash was registered. None if it was not."""
    events = list(ledger.events(kind=EventKind.MODEL_LOGGED, subject=name))
    return next(
        (str(event.payload["version"]) for event in reversed(events) if event.payload["lock_hash"] == lock_hash), None
    )
