"""Fits on a Prefect work pool: register the flow with a pool, run a fit there."""

from __future__ import annotations

import os
from typing import Any

from lineage.errors import Fault

TAG = "oncoloop"  # of every deployment that this product registers


def register_fit(pool: str) -> None:
    """Register the flow `fit` with a work pool. Fault without a server, without that pool, or without a worker."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.objects import WorkerStatus
    from prefect.exceptions import ObjectNotFound
    from prefect.flows import EntrypointType

    from pipelines.flows.remote_fit import fit

    hint = (
        f"start one there with `prefect worker start --pool {pool} --type process` (docs/how-to/engineer/work-pool.md)"
    )
    if "PREFECT_API_URL" not in os.environ:
        raise Fault("--pool needs a Prefect server that workers can reach: run `oncoloop up`, or set PREFECT_API_URL")
    with get_client(sync_client=True) as client:
        try:
            client.read_work_pool(pool)
            workers = client.read_workers_for_work_pool(pool)
        except ObjectNotFound as error:
            raise Fault(f"there is no work pool {pool!r} yet, since no worker made it: {hint}") from error
    if not any(worker.status == WorkerStatus.ONLINE for worker in workers):
        raise Fault(f"no worker of the pool {pool!r} is online: {hint}")
    fit.to_deployment(
        pool,
        work_pool_name=pool,
        entrypoint_type=EntrypointType.MODULE_PATH,
        description="one fit on a worker's machine",
        tags=[TAG],
    ).apply()


def run_fit(pool: str, parameters: dict[str, Any], name: str) -> None:
    """Run the fit on a worker of the pool as a sub-flow, and wait until it ends. Fault if it does not complete."""
    from prefect.deployments import run_deployment

    flow_run = run_deployment(f"fit/{pool}", parameters=parameters, timeout=None, poll_interval=2, flow_run_name=name)
    if flow_run.state is None or not flow_run.state.is_completed():
        message = flow_run.state.message if flow_run.state else "its state is unknown"
        raise Fault(f"{name} on a worker of {pool!r} did not complete: {message}")
