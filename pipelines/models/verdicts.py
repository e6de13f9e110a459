"""The verdict on a model version, and the champions of all tasks."""

from __future__ import annotations

from lineage import registry
from lineage.errors import Fault
from lineage.record import ledger
from lineage.record.verdict import Verdict, from_dict
from pipelines import params


def version_verdict(task: str, version: str) -> Verdict:
    """The newest verdict of the training gate on a version. Fault if there is none."""
    events = ledger.events(kind="verdict", subject=f"{task}/{version}")
    if not events:
        raise Fault(f"there is no verdict on {task}/{version}; `oncoloop status` lists the versions")
    return from_dict(events[-1].payload)


def champions() -> dict[str, str]:
    """The champion version of every task that has one."""
    versions = {task: registry.roles(task).get("champion") for task in params.load().tasks}
    return {task: version for task, version in versions.items() if version}
