"""Prefect deployments: ingest, retrain and watch by cron and by event; the process that runs them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from lineage import places
from pipelines import params

log = logging.getLogger(__name__)

ASKED = "oncoloop.retrain.asked"
APPROVED = "oncoloop.approval.given"


def deployments() -> list[Any]:
    """Every deployment of this workspace, with its cron line or the event that triggers it."""
    from prefect.events import DeploymentEventTrigger
    from prefect.flows import EntrypointType

    from pipelines.decide import decide
    from pipelines.ingest import ingest
    from pipelines.retrain import retrain
    from pipelines.watch import watch

    cron = params.load().schedule
    module: Any = {"entrypoint_type": EntrypointType.MODULE_PATH, "concurrency_limit": 1, "tags": ["oncoloop"]}
    asked = DeploymentEventTrigger(
        name="retraining was asked for",
        expect={ASKED},
        match={"prefect.resource.id": "oncoloop.task.*"},
        parameters={"task": "{{ event.payload.task }}", "reason": "{{ event.payload.reason }}"},
    )
    approved = DeploymentEventTrigger(
        name="a person decided",
        expect={APPROVED},
        match={"prefect.resource.id": "oncoloop.task.*"},
        parameters={
            name: f"{{{{ event.payload.{name} }}}}" for name in ("task", "version", "decision", "actor", "reason")
        },
    )
    return [
        ingest.to_deployment("inbox", cron=cron.ingest, description="new folders in the inbox", **module),
        retrain.to_deployment("scheduled", cron=cron.retrain, description="by cron", **module),
        retrain.to_deployment("asked", triggers=[asked], description="by drift or by new labels", **module),
        watch.to_deployment("scheduled", cron=cron.watch, description="by cron", **module),
        decide.to_deployment("asked", triggers=[approved], description="a person's decision", **module),
    ]


def register() -> list[str]:
    """Register the deployments with the server of PREFECT_API_URL; returns their names."""
    made = deployments()
    for deployment in made:
        deployment.apply()
    return [f"{deployment.flow_name}/{deployment.name}" for deployment in made]


def work() -> None:
    """Run what is due, until stopped: registers the deployments, says so, and polls for their runs."""
    from prefect import serve

    made = deployments()
    for deployment in made:
        deployment.apply()
    ready_file().touch()
    serve(*made, limit=2, print_starting_message=False)


def ready_file() -> Path:
    """Made when the deployments and their triggers stand: an event sent earlier would find nobody."""
    return places.place("run", "runner.ready")


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
