"""The supervisor of all services: restarts them, sends the outbox to Prefect, runs the release servers."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from lineage import keys, paths
from lineage.errors import Fault
from lineage.record import outbox
from pipelines import params
from pipelines.flows import deployments
from pipelines.models.retrain_requests import has_new_labels
from pipelines.servers import run_files, services
from pipelines.servers.release_servers import Fleet
from pipelines.servers.services import HOST, Service
from pipelines.workspace.workspace import hold_lock

log = logging.getLogger(__name__)

NAMES = ("prefect", "runner", "desk", "release", "mlflow", "tools")
PORT = 7800
INTERVAL = 0.5  # seconds between two checks of the processes
RETRY_AFTER = 2.0  # seconds until the next attempt after an error of the ledger or of Prefect
DESK_PACKAGES = ("lineage", "data", "serving", "desk")
RUNNER_PACKAGES = ("lineage", "data", "serving", "training", "monitoring", "pipelines")  # packages of the runner


def lay_out(base: int) -> dict[str, Service]:
    """The services of a workspace: desk on port `base`, Prefect on `base` + 1, the tools' pages on `base` + 3.

    Prefect requires a secret; MLflow listens on a socket that only this user may open.
    """
    import os

    prefect, tools, socket = base + 1, base + 3, paths.mlflow_socket()
    os.environ.setdefault("PREFECT_API_URL", f"http://{HOST}:{prefect}/api")
    os.environ.setdefault("PREFECT_API_AUTH_STRING", keys.prefect_secret())
    python, tracking = sys.executable, os.environ["MLFLOW_TRACKING_URI"]
    artifacts = os.environ["_MLFLOW_SERVER_ARTIFACT_ROOT"]

    def page(application: str, port: int) -> list[str]:
        return [python, "-m", "desk.server", f"desk.{application}:create", "--port", str(port)]

    services_in_order = [
        Service("desk", page("app", base), base, "/healthz", code=DESK_PACKAGES, shares_port=True),
        Service(
            "prefect",
            [services.program("prefect"), "server", "start", "--host", HOST, "--port", str(prefect)],
            prefect,
            "/api/health",
            environment={
                "PREFECT_SERVER_API_AUTH_STRING": keys.prefect_secret(),
                "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": "none",
            },
        ),  # Prefect treats an empty list of origins as all origins
        Service(
            "runner",
            [services.program("oncoloop"), "schedule", "--work"],
            starts_after="prefect",
            ready=deployments.ready_file(),
            environment={"PREFECT_RUNNER_POLL_FREQUENCY": "2"},
            code=RUNNER_PACKAGES,
            files=(Path(params.NAME),),
            orphans_finish=True,
        ),
        Service(
            "mlflow",
            [
                python,
                "-m",
                "mlflow",
                "server",
                "--backend-store-uri",
                tracking,
                "--workers",
                "1",
                "--no-serve-artifacts",
                "--default-artifact-root",
                artifacts,
                "--static-prefix",
                "/mlflow",
                "--allowed-hosts",
                "localhost",
                "--uvicorn-opts",
                f"--uds {socket.name}",
            ],
            health="/mlflow/health",
            socket=socket,
            environment={"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        ),  # it would start seven processes that nothing here uses
        Service("tools", page("tools.proxy", tools), tools, "/healthz", code=DESK_PACKAGES, shares_port=True),
    ]
    return {service.name: service for service in services_in_order}


class Supervisor:
    """Supervises the services and the fleet of release servers. A failure in one part does not stop another part."""

    def __init__(self, base: int, only: tuple[str, ...]) -> None:
        """Plan the services of `only` on ports from `base`; release servers get ports from base + 10."""
        self.base = base
        self.fleet = Fleet(base) if "release" in only else None
        self.services = {name: service for name, service in lay_out(base).items() if name in only}
        self.failures: dict[str, str] = {}

    def adopt(self) -> None:
        """Supervise the up-to-date services of an earlier `oncoloop up`, and end the outdated ones.

        Fault if no service is adopted and a port is in use: then other ports must be chosen.
        """
        records = run_files.records()
        adopted = {
            name
            for name, service in self.services.items()
            if (record := records.get(name)) and (service.adopt(record) or service.replace_outdated(record))
        }
        if self.fleet:
            adopted |= {key for key, record in records.items() if record.get("release") and record.get("mark")}
        services.clear_leftovers(frozenset(adopted))
        for service in self.services.values():
            if not adopted and service.port and services.is_port_in_use(service.port):
                raise Fault(f"port {service.port} for {service.name} is in use; free it or choose others with --port")

    def run(self, stop_event: threading.Event, announce: Any = None) -> None:
        """Keep all services alive until `stop_event` is set; `announce` is called once, when all of them answer.

        The ledger and Prefect are used in separate threads: the restart of a service must not wait for one that is
        slow, locked or unreachable.
        """
        jobs = [("the releases", self.fleet.update)] if self.fleet else []
        if {"prefect", "runner"} & self.services.keys():
            jobs.append(("the outbox", self._drain_outbox))
        threads = [threading.Thread(target=self._run_repeatedly, args=(stop_event, *job), daemon=True) for job in jobs]
        for thread in threads:
            thread.start()
        try:
            while not stop_event.is_set():
                self.restart_ended()
                if announce and self.is_ready():
                    self._run_safely("the list of addresses", partial(announce, self))
                    announce = None
                stop_event.wait(INTERVAL)
        finally:
            stop_event.set()
            for thread in threads:
                thread.join(15)

    def restart_ended(self) -> None:
        """Check every service and restart the ended ones."""
        for service in self.services.values():
            self._run_safely(service.name, partial(self._restart, service))

    def is_ready(self) -> bool:
        """Whether all requested services answer."""
        return (self.fleet is None or self.fleet.is_ready) and all(
            service.healthy for service in self.services.values()
        )

    def _run_repeatedly(self, stop_event: threading.Event, name: str, job: Callable[[], object]) -> None:
        pause = INTERVAL
        while not stop_event.wait(pause):
            pause = INTERVAL if self._run_safely(name, job) else RETRY_AFTER

    def _run_safely(self, name: str, job: Callable[[], object]) -> bool:
        """Run a job; an error is logged once and the job is tried again later. Return whether it succeeded."""
        try:
            job()
        except Exception as error:
            sentence = " ".join(str(error).split())[:300] or repr(error)
            if self.failures.get(name) != sentence:
                self.failures[name] = sentence
                log.warning("%s: %s; this is tried again", name, sentence)
            return False
        if self.failures.pop(name, None):
            log.info("%s: works again", name)
        return True

    def _restart(self, service: Service) -> None:
        if service.is_alive():
            service.check_health()
            return
        service.handle_exit()
        if (service.starts_after and not self.services[service.starts_after].healthy) or not service.backoff.is_over():
            return
        try:
            service.start()
        except Fault as fault:
            service.postpone(str(fault))

    def _drain_outbox(self) -> None:
        if all(self.services[name].healthy for name in ("prefect", "runner") if name in self.services):
            drain_outbox()

    def stop(self) -> None:
        """End all services, in reverse order of their start."""
        if self.fleet:
            self.fleet.stop()
        for service in reversed(self.services.values()):
            service.stop()


def drain_outbox() -> list[str]:
    """Send the pending rows of the outbox to Prefect, and return a line for each.

    A request to retrain waits until there are new labels.
    """
    sent = []
    rows = outbox.pending()
    for row in [row for row in rows if row.kind == "approval"]:
        deployments.emit_task_event(deployments.APPROVAL_EVENT, {"task": row.payload["task"]})
        outbox.mark_delivered(row.id)
        sent.append(f"approval of {row.payload['task']}/{row.payload['version']}")
    requests_by_task: dict[str, list[outbox.Message]] = {}
    for row in [row for row in rows if row.kind == "retrain"]:
        requests_by_task.setdefault(row.payload["task"], []).append(row)
    for task, requests in requests_by_task.items():
        if has_new_labels(task):
            reason = "; ".join(dict.fromkeys(row.payload["reason"] for row in requests))
            deployments.emit_task_event(deployments.RETRAIN_EVENT, {"task": task})
            for row in requests:
                outbox.mark_delivered(row.id)
            sent.append(f"retraining of {task}: {reason}")
    for line in sent:
        log.info("sent to Prefect: %s", line)
    return sent


def up(base: int = PORT, only: tuple[str, ...] = NAMES, announce: Any = log.info) -> None:
    """Run until Ctrl-C or SIGTERM. Fault if a port is taken or another `up` holds the workspace."""
    unknown_names = set(only) - set(NAMES)
    if unknown_names:
        raise Fault(f"up has no service {sorted(unknown_names)[0]!r}; choose from: {', '.join(NAMES)}")
    with hold_lock("up", wait=False):
        stop_event = threading.Event()
        # a shell may have started this process with SIGINT ignored
        for signal_number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signal_number, lambda *_: stop_event.set())
        supervisor = Supervisor(base, only)
        supervisor.adopt()
        try:
            supervisor.run(stop_event, announce)
            log.info("stopping")
        finally:
            supervisor.stop()
