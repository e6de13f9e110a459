"""Flow: what a person decided about a version -> promoted and released, or rejected."""

from __future__ import annotations

from typing import Any

from prefect import flow

from pipelines import promote
from pipelines.workspace import alone


@flow(name="decide")
def decide(task: str, version: str, decision: str, actor: str, reason: str) -> dict[str, Any]:
    """Act on an approval or a rejection that was signed in the ledger or given on the command line."""
    with alone("workspace"):
        act = promote.approve if decision == "approve" else promote.reject
        act(task, version, actor, reason)
        return {"task": task, "version": version, "decision": decision, "release": promote.release_champions()}
