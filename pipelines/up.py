"""One supervisor for everything that must run: keeps it alive, drains the outbox, moves traffic to the release."""

from __future__ import annotations

import logging
import signal
import sys
import time
from pathlib import Path
from typing import Any

from lineage import keys, ledger, outbox, places
from lineage.fault import Fault
from pipelines import schedule, services
from pipelines.fleet import Fleet
from pipelines.requests import has_new_labels
from pipelines.services import HOST, Service
from pipelines.workspace import alone

log = logging.getLogger(__name__)

NAMES = ("prefect", "runner", "desk", "release", "mlflow", "tools")
PORT = 7800


def lay_out(base: int) -> dict[str, Service]:
    """The services of a workspace on ports from `base` on: desk, Prefect, and the origin of the tools' pages.

    Prefect asks everybody for a secret; MLflow listens on a socket that only this user may open.
    """
    import os

    prefect, tools, socket = base + 1, base + 3, places.mlflow_socket()
    os.environ.setdefault("PREFECT_API_URL", f"http://{HOST}:{prefect}/api")
    os.environ.setdefault("PREFECT_API_AUTH_STRING", keys.prefect_secret())
    python, tracking = sys.executable, os.environ["MLFLOW_TRACKING_URI"]
    artifacts = os.environ["_MLFLOW_SERVER_ARTIFACT_ROOT"]

    def page(application: str, port: int) -> list[str]:
        return [python, "-m", "uvicorn", "--factory", f"desk.{application}:create", "--host", HOST, "--port", str(port),
                "--http", "httptools", "--loop", "uvloop", "--no-server-header", "--log-level", "warning"]  # fmt: skip

    listed = [
        Service("desk", page("app", base), base, "/healthz"),
        Service("prefect", [services.program("prefect"), "server", "start", "--host", HOST, "--port", str(prefect)],
                prefect, "/api/health", environment={
                    "PREFECT_SERVER_API_AUTH_STRING": keys.prefect_secret(),
                    "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": "none"}),  # its own word for nobody would be everybody
        Service("runner", [services.program("oncoloop"), "schedule", "--work"], after="prefect",
                ready=schedule.ready_file(), environment={"PREFECT_RUNNER_POLL_FREQUENCY": "2"}),
        Service("mlflow", [python, "-m", "mlflow", "server", "--backend-store-uri", tracking, "--workers", "1",
                           "--no-serve-artifacts", "--default-artifact-root", artifacts, "--static-prefix", "/mlflow",
                           "--allowed-hosts", "localhost", "--uvicorn-opts", f"--uds {socket.name}"],
                health="/mlflow/health", socket=socket,
                environment={"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}),  # seven processes that nothing here uses
        Service("tools", page("tools", tools), tools, "/healthz"),
    ]  # fmt: skip
    return {service.name: service for service in listed}


class Supervisor:
    """Holds the processes; `turn` is called about once a second."""

    def __init__(self, base: int, only: tuple[str, ...]) -> None:
        """Plan the services of `only` on ports from `base`; release servers get ports from base + 10."""
        self.base = base
        self.fleet = Fleet(base) if "release" in only else None
        self.services = {name: service for name, service in lay_out(base).items() if name in only}
        self.drain_at = 0.0

    def turn(self) -> None:
        """Follow the wanted release, restart what fell, hand on what the outbox holds."""
        if self.fleet:
            self.fleet.turn()
        for service in self.services.values():
            self._tend(service)
        if all(self.services[name].healthy for name in ("prefect", "runner") if name in self.services):
            self._drain()

    def ready(self) -> bool:
        """Whether everything asked for answers."""
        live = self.fleet is None or self.fleet.ready()
        return live and all(service.healthy for service in self.services.values())

    def _tend(self, service: Service) -> None:
        if service.alive():
            service.look()
            return
        if service.after and not self.services[service.after].healthy:
            return
        if service.process is not None:
            service.failures += 1
            log.warning("%s ended (exit %s); it starts again, see logs/%s.log", service.name,
                        service.process.returncode, service.name)  # fmt: skip
        if service.failures >= 5:
            log_file = places.home() / "logs" / f"{service.name}.log"
            raise Fault(f"{service.name} ended {service.failures} times; its log {log_file} says why")
        service.start()

    def _drain(self) -> None:
        if time.monotonic() < self.drain_at:
            return
        self.drain_at = time.monotonic() + 1.0
        try:
            drain()
        except Exception as error:
            if isinstance(error, Fault):
                raise
            self.drain_at = time.monotonic() + 10.0
            log.warning("the outbox waits, Prefect did not take its event: %s", error)

    def stop(self) -> None:
        """End everything, last started first."""
        if self.fleet:
            self.fleet.stop()
        for service in reversed(self.services.values()):
            service.stop()


def drain() -> list[str]:
    """Tell Prefect what waits in the outbox. A request to retrain waits until there are labels it could learn from."""
    told = []
    rows = outbox.pending()
    for row in [row for row in rows if row.kind == "approval"]:
        if not ledger.events("approval", row.key):
            continue  # its signed row is being written
        schedule.emit(schedule.APPROVED, {"task": row.payload["task"]})
        outbox.done(row.id)
        told.append(f"approval of {row.payload['task']}/{row.payload['version']}")
    asked: dict[str, list[outbox.Message]] = {}
    for row in [row for row in rows if row.kind == "retrain"]:
        asked.setdefault(row.payload["task"], []).append(row)
    for task, requests in asked.items():
        if has_new_labels(task):
            reason = "; ".join(dict.fromkeys(row.payload["reason"] for row in requests))
            schedule.emit(schedule.ASKED, {"task": task})
            for row in requests:
                outbox.done(row.id)
            told.append(f"retraining of {task}: {reason}")
    for line in told:
        log.info("told Prefect: %s", line)
    return told


def up(base: int = PORT, only: tuple[str, ...] = NAMES, say: Any = log.info) -> None:
    """Run until Ctrl-C or SIGTERM. Fault if a port is taken or another `up` holds the workspace."""
    unknown = set(only) - set(NAMES)
    if unknown:
        raise Fault(f"up knows no {sorted(unknown)[0]!r}; known: {', '.join(NAMES)}")
    with alone("up", wait=False):
        services.clear_leftovers()
        for number in (signal.SIGINT, signal.SIGTERM):  # also where a shell started us with SIGINT ignored
            signal.signal(number, _interrupt)
        supervisor = Supervisor(base, only)
        told = False
        try:
            while True:
                supervisor.turn()
                if not told and supervisor.ready():
                    told = True
                    say(supervisor)
                time.sleep(0.5)
        except KeyboardInterrupt:
            log.info("stopping")
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)
            supervisor.stop()


def _interrupt(_number: int, _frame: Any) -> None:
    raise KeyboardInterrupt


def logs() -> Path:
    """The folder of the services' logs."""
    return places.home() / "logs"
