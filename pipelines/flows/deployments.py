"""Prefect deployments: ingest, retrain and watch by cron and by event; the process that runs them."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path
from typing import Any

from lineage import decisions, paths
from lineage.record import ledger
from pipelines import params
from pipelines.flows.work_pool import TAG

log = logging.getLogger(__name__)

ASKED = "oncoloop.retrain.asked"
APPROVED = "oncoloop.approval.given"
LOOK_SECONDS = 5.0  # between two comparisons of the deployments
FIELDS = ("entrypoint", "pull_steps", "path", "parameters", "job_variables", "work_pool_name")  # what a run would do


def planned() -> list[tuple[Any, dict[str, Any]]]:
    """Every flow that a schedule or an event starts, and how it is deployed. None takes a parameter."""
    from prefect.events import DeploymentEventTrigger
    from prefect.flows import EntrypointType

    from pipelines.flows.scheduled_flows import decide, ingest_inbox, retrain_all, retrain_asked, watch_all

    cron = params.load().schedule
    about_a_task = {"prefect.resource.id": "oncoloop.task.*"}
    asked = DeploymentEventTrigger(name="retraining was asked for", expect={ASKED}, match=about_a_task)
    decided = DeploymentEventTrigger(name="a person decided", expect={APPROVED}, match=about_a_task)
    every: list[tuple[Any, dict[str, Any]]] = [
        (ingest_inbox, {"name": "inbox", "cron": cron.ingest, "description": "new folders in the inbox"}),
        (retrain_all, {"name": "scheduled", "cron": cron.retrain, "description": "by cron"}),
        (retrain_asked, {"name": "asked", "triggers": [asked], "description": "by drift or by new labels"}),
        (watch_all, {"name": "scheduled", "cron": cron.watch, "description": "by cron"}),
        (decide, {"name": "asked", "triggers": [decided], "description": "a person's decision"}),
    ]
    shared = {"entrypoint_type": EntrypointType.MODULE_PATH, "concurrency_limit": 1, "tags": [TAG]}
    return [(flow, shared | own) for flow, own in every]


def register() -> list[str]:
    """Register the deployments with the server of PREFECT_API_URL; returns their names."""
    made = [flow.to_deployment(**own) for flow, own in planned()]
    for deployment in made:
        deployment.apply()
    return [f"{deployment.flow_name}/{deployment.name}" for deployment in made]


def work() -> None:
    """Run what is due, until stopped: registers the deployments, says so, and polls for their runs.

    A run executes the flow of this installation, whatever the server says of its entry point and of steps before it.
    """
    import asyncio

    from prefect.runner import Runner

    runner = Runner(limit=2)
    for flow, own in planned():
        runner.add_flow(flow, **own)
    ready_file().touch()
    wake()
    threading.Thread(target=guard, daemon=True, name="deployments").start()
    asyncio.run(runner.start())


def guard() -> None:
    """Compare the deployments with what was registered, again and again; tell of a change, and register them anew."""
    known = _registered()
    while True:
        time.sleep(LOOK_SECONDS)
        try:
            changed = compare(known, _registered())
            for name, fields in changed.items():
                log.error("the deployment %s was changed from outside (%s); it is registered anew", name, fields)
                ledger.append("deployment.changed", name, {"fields": fields})
            if changed:
                register()
                known = _registered()
            for name in _retired():
                log.warning("the deployment %s is none of this version's; it was removed", name)
                ledger.append("deployment.removed", name, {})
        except Exception as error:  # the server is away, say: the next look tells
            log.warning("the deployments could not be compared: %s", " ".join(str(error).split())[:200])


def compare(known: dict[str, dict[str, Any]], found: dict[str, dict[str, Any]]) -> dict[str, list[str]]:
    """Which deployments differ from what was registered, and in what; pausing one is everybody's right who may."""
    gone = {name: ["deleted"] for name in known.keys() - found.keys()}
    changed = {
        name: [field for field in FIELDS if known[name][field] != found[name][field]]
        for name in known.keys() & found.keys()
    }
    return gone | {name: fields for name, fields in changed.items() if fields}


def _registered() -> dict[str, dict[str, Any]]:
    """Our deployments as the server has them, by flow and name."""
    names = _names()
    ours = {name: each for name, each in _deployments().items() if name in names}
    return {name: {field: getattr(each, field) for field in FIELDS} for name, each in ours.items()}


def _retired() -> list[str]:
    """Remove the deployments that earlier versions registered, or somebody else in our name; which they were."""
    from prefect.client.orchestration import get_client

    strange = {
        name: each
        for name, each in _deployments().items()
        if TAG in each.tags and name not in _names() and not name.startswith("fit/")
    }
    with get_client(sync_client=True) as client:
        for each in strange.values():
            client.delete_deployment(each.id)
    return sorted(strange)


def _names() -> set[str]:
    return {f"{flow.name}/{own['name']}" for flow, own in planned()}


def _deployments() -> dict[str, Any]:
    """All deployments of the server, by flow and name."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        flows = {flow.id: flow.name for flow in client.read_flows(limit=200)}
        return {f"{flows.get(each.flow_id)}/{each.name}": each for each in client.read_deployments(limit=200)}


def wake() -> None:
    """Start what was decided or asked for, and was not finished when the last runner ended."""
    for kind, event in (("approval", APPROVED), ("retrain.asked", ASKED)):
        for task in {row.subject.partition("/")[0] for row in decisions.waiting(kind)}:
            emit(event, {"task": task})


def ready_file() -> Path:
    """Made when the deployments and their triggers stand: an event sent earlier would find nobody."""
    return paths.place("run", "runner.ready")


def emit(event: str, payload: dict[str, Any]) -> None:
    """Tell Prefect what the outbox holds; Fault-free only if the server took it."""
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.events import Event, Resource

    resource = {"prefect.resource.id": f"oncoloop.task.{payload['task']}", "prefect.resource.name": payload["task"]}
    with get_client(sync_client=True) as client:
        body = [Event(event=event, resource=Resource(resource), payload=payload).model_dump(mode="json")]
        response: httpx.Response = client._client.post("/events", json=body)
        response.raise_for_status()


def run(deployment: str, parameters: dict[str, Any]) -> str:
    """Ask the server for a run of a deployment; its id."""
    from prefect.deployments import run_deployment

    return str(run_deployment(deployment, parameters=parameters, timeout=0).id)
