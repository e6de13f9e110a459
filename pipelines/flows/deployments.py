"""Prefect deployments of the flows, the process that runs them, and the events that start them."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path
from typing import Any

from lineage import decisions, paths
from lineage.record import ledger
from lineage.record.events import EventKind
from pipelines import params
from pipelines.flows.work_pool import TAG

log = logging.getLogger(__name__)

RETRAIN_EVENT = "oncoloop.retrain.asked"
APPROVAL_EVENT = "oncoloop.approval.given"
CHECK_SECONDS = 5.0  # between two comparisons of the deployments
# These fields decide what a run executes.
COMPARED_FIELDS = ("entrypoint", "pull_steps", "path", "parameters", "job_variables", "work_pool_name")


def planned_deployments() -> list[tuple[Any, dict[str, Any]]]:
    """Every flow that a schedule or an event starts, with its deployment options. None takes a parameter."""
    from prefect.events import DeploymentEventTrigger
    from prefect.flows import EntrypointType

    from pipelines.flows.scheduled_flows import decide, ingest_inbox, retrain_all, retrain_asked, watch_all

    schedule = params.load().schedule
    any_task = {"prefect.resource.id": "oncoloop.task.*"}
    on_request = DeploymentEventTrigger(name="retraining was asked for", expect={RETRAIN_EVENT}, match=any_task)
    on_decision = DeploymentEventTrigger(name="a person decided", expect={APPROVAL_EVENT}, match=any_task)
    flow_options: list[tuple[Any, dict[str, Any]]] = [
        (ingest_inbox, {"name": "inbox", "cron": schedule.ingest, "description": "new folders in the inbox"}),
        (retrain_all, {"name": "scheduled", "cron": schedule.retrain, "description": "by cron"}),
        (retrain_asked, {"name": "asked", "triggers": [on_request], "description": "by drift or by new labels"}),
        (watch_all, {"name": "scheduled", "cron": schedule.watch, "description": "by cron"}),
        (decide, {"name": "asked", "triggers": [on_decision], "description": "a person's decision"}),
    ]
    shared = {"entrypoint_type": EntrypointType.MODULE_PATH, "concurrency_limit": 1, "tags": [TAG]}
    return [(flow, shared | options) for flow, options in flow_options]


def register() -> list[str]:
    """Register the deployments with the server of PREFECT_API_URL. Returns their names."""
    deployments = [flow.to_deployment(**options) for flow, options in planned_deployments()]
    for deployment in deployments:
        deployment.apply()
    return [f"{deployment.flow_name}/{deployment.name}" for deployment in deployments]


def serve_deployments() -> None:
    """Register the deployments, create the ready file, and run the flows that are due until stopped.

    A run executes the flow of this installation. The entry point and pull steps stored on the server are ignored.
    """
    import asyncio

    from prefect.runner import Runner

    runner = Runner(limit=2)
    for flow, options in planned_deployments():
        runner.add_flow(flow, **options)
    ready_file().touch()
    emit_unfinished_requests()
    threading.Thread(target=guard_deployments, daemon=True, name="deployments").start()
    asyncio.run(runner.start())


def guard_deployments() -> None:
    """Compare the server's deployments with the registered ones for ever. Report a change and register them again."""
    registered = _registered_fields()
    while True:
        time.sleep(CHECK_SECONDS)
        try:
            changes = changed_fields(registered, _registered_fields())
            for name, fields in changes.items():
                log.error("the deployment %s was changed from outside (%s); it is registered again", name, fields)
                ledger.append(EventKind.DEPLOYMENT_CHANGED, name, {"fields": fields})
            if changes:
                register()
                registered = _registered_fields()
            for name in _remove_foreign_deployments():
                log.warning("the deployment %s does not belong to this version; it was removed", name)
                ledger.append(EventKind.DEPLOYMENT_REMOVED, name, {})
        except Exception as error:  # for example an unreachable server: the next comparison tries again
            log.warning("the deployments could not be compared: %s", " ".join(str(error).split())[:200])


def changed_fields(registered: dict[str, dict[str, Any]], current: dict[str, dict[str, Any]]) -> dict[str, list[str]]:
    """The changed fields of each deployment, or `deleted`. A pause is no change: those who may pause may do so."""
    deleted = {name: ["deleted"] for name in registered.keys() - current.keys()}
    changed = {
        name: [field for field in COMPARED_FIELDS if registered[name][field] != current[name][field]]
        for name in registered.keys() & current.keys()
    }
    return deleted | {name: fields for name, fields in changed.items() if fields}


def _registered_fields() -> dict[str, dict[str, Any]]:
    """The compared fields of this product's deployments as the server stores them, by flow and name."""
    names = _planned_names()
    return {
        name: {field: getattr(deployment, field) for field in COMPARED_FIELDS}
        for name, deployment in _server_deployments().items()
        if name in names
    }


def _remove_foreign_deployments() -> list[str]:
    """Remove deployments with this product's tag that this version did not plan. Returns their names."""
    from prefect.client.orchestration import get_client

    planned_names = _planned_names()
    foreign = {
        name: deployment
        for name, deployment in _server_deployments().items()
        if TAG in deployment.tags and name not in planned_names and not name.startswith("fit/")
    }
    with get_client(sync_client=True) as client:
        for deployment in foreign.values():
            client.delete_deployment(deployment.id)
    return sorted(foreign)


def _planned_names() -> set[str]:
    return {f"{flow.name}/{options['name']}" for flow, options in planned_deployments()}


def _server_deployments() -> dict[str, Any]:
    """All deployments of the server, by flow and name."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        flow_names = {flow.id: flow.name for flow in client.read_flows(limit=200)}
        deployments = client.read_deployments(limit=200)
    return {f"{flow_names.get(deployment.flow_id)}/{deployment.name}": deployment for deployment in deployments}


def emit_unfinished_requests() -> None:
    """Emit the events of decisions and requests that were not finished when the last runner ended."""
    for kind, event in ((EventKind.APPROVAL, APPROVAL_EVENT), (EventKind.RETRAIN_ASKED, RETRAIN_EVENT)):
        for task in {row.subject.partition("/")[0] for row in decisions.pending_decisions(kind)}:
            emit_task_event(event, {"task": task})


def ready_file() -> Path:
    """The file that exists once deployments and triggers are registered: no flow would react to an earlier event."""
    return paths.state_path("run", "runner.ready")


def emit_task_event(event: str, payload: dict[str, Any]) -> None:
    """Send an event about a task to Prefect. Raises unless the server accepted it.

    `prefect.events.emit_event` would only queue the event, and would not report a refusal.
    """
    from prefect.client.orchestration import get_client
    from prefect.events import Event, Resource

    resource = {"prefect.resource.id": f"oncoloop.task.{payload['task']}", "prefect.resource.name": payload["task"]}
    body = [Event(event=event, resource=Resource(resource), payload=payload).model_dump(mode="json")]
    with get_client(sync_client=True) as client:
        client.request("POST", "/events", json=body).raise_for_status()
