"""What a retraining would have to do now: pinned worktree, changed stages, unjudged models. Free of Prefect."""

from __future__ import annotations

from pathlib import Path

from lineage.errors import Fault
from lineage.record import ledger
from pipelines import params, warm_start_pins
from pipelines.models import promote
from pipelines.recovery import interrupted_runs
from pipelines.workspace import code_snapshot, dvc, git

SETTINGS = ("params.yaml", "dvc.yaml")


def trainable(name: str | None) -> list[str]:
    """The tasks with admitted data; Fault if the asked one, or every one, has none."""
    known = [params.load().task(name).name] if name else list(params.load().tasks)
    names = [each for each in known if any(Path("data/batches", each).glob("*.dvc"))]
    if not names:
        raise Fault(f"no admitted batch of {name or 'any task'} yet; put one into inbox/ and run `oncoloop ingest`")
    return names


def pin() -> Path:
    """The retraining's own worktree of today's data and settings, with today's code fingerprint and parents in it."""
    interrupted_runs.settle()
    tree = dvc.worktree(git.commit(list(SETTINGS), "Change the settings"))
    code_snapshot.write_code(tree)
    warm_start_pins.pin(tree)
    return tree


def due(name: str | None = None) -> list[str]:
    """What a retraining would do now, in words; empty if nothing changed since the last one."""
    names = trainable(name)
    tree = pin()
    found = dvc.changed(tree, names)
    for each in names:
        version = logged(each, dvc.lock_hash(tree, each))
        if not found and (version is None or not ledger.events(kind="verdict", subject=f"{each}/{version}")):
            found.append(f"gate {each}")
    if not found and promote.pending_release():
        found.append("release")
    return found


def logged(name: str, lock_hash: str) -> str | None:
    """The version that this very training was registered as, if it was."""
    events = list(ledger.events(kind="model.logged", subject=name))
    return next((str(e.payload["version"]) for e in reversed(events) if e.payload["lock_hash"] == lock_hash), None)
