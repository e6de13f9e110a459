"""One supervisor for everything that must run: keeps it alive, drains the outbox, moves traffic to the release."""

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
from pipelines.workspace.workspace import alone

log = logging.getLogger(__name__)

NAMES = ("prefect", "runner", "desk", "release", "mlflow", "tools")
PORT = 7800
TURN = 0.5  # seconds between two looks after the processes
AFTER_ERROR = 2.0  # seconds until the ledger or Prefect is asked again
DESK = ("lineage", "data", "serving", "desk")
OWN = ("lineage", "data", "serving", "training", "monitoring", "pipelines")  # packages of the runner


def lay_out(base: int) -> dict[str, Service]:
    """The services of a workspace on ports from `base` on: desk, Prefect, and the origin of the tools' pages.

    Prefect asks everybody for a secret; MLflow listens on a socket that only this user may open.
    """
    import os

    prefect, tools, socket = base + 1, base + 3, paths.mlflow_socket()
    os.environ.setdefault("PREFECT_API_URL", f"http://{HOST}:{prefect}/api")
    os.environ.setdefault("PREFECT_API_AUTH_STRING", keys.prefect_secret())
    python, tracking = sys.executable, os.environ["MLFLOW_TRACKING_URI"]
    artifacts = os.environ["_MLFLOW_SERVER_ARTIFACT_ROOT"]

    def page(application: str, port: int) -> list[str]:
        return [python, "-m", "desk.server", f"desk.{application}:create", "--port", str(port)]

    listed = [
        Service("desk", page("app", base), base, "/healthz", code=DESK, shares_port=True),
        Service(
            "prefect",
            [services.program("prefect"), "server", "start", "--host", HOST, "--port", str(prefect)],
            prefect,
            "/api/health",
            environment={
                "PREFECT_SERVER_API_AUTH_STRING": keys.prefect_secret(),
                "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": "none",
            },
        ),  # its own word for nobody would be everybody
        Service(
            "runner",
            [services.program("oncoloop"), "schedule", "--work"],
            after="prefect",
            ready=deployments.ready_file(),
            environment={"PREFECT_RUNNER_POLL_FREQUENCY": "2"},
            code=OWN,
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
        ),  # seven processes that nothing here uses
        Service("tools", page("tools.proxy", tools), tools, "/healthz", code=DESK, shares_port=True),
    ]
    return {service.name: service for service in listed}


class Supervisor:
    """Holds the processes: services here, releases in the fleet. Nothing that goes wrong in one part stops another."""

    def __init__(self, base: int, only: tuple[str, ...]) -> None:
        """Plan the services of `only` on ports from `base`; release servers get ports from base + 10."""
        self.base = base
        self.fleet = Fleet(base) if "release" in only else None
        self.services = {name: service for name, service in lay_out(base).items() if name in only}
        self.troubles: dict[str, str] = {}

    def adopt(self) -> None:
        """Go on with what an earlier `up` left running, and end what this one would not start so.

        Fault where nothing is adopted and a port of a service is taken: then the ports were chosen badly.
        """
        records = run_files.records()
        kept = {
            name
            for name, service in self.services.items()
            if (record := records.get(name)) and (service.adopt(record) or service.follow(record))
        }
        if self.fleet:
            kept |= {key for key, record in records.items() if record.get("release") and record.get("mark")}
        services.clear_leftovers(frozenset(kept))
        for service in self.services.values():
            if not kept and service.port and services.taken(service.port):
                raise Fault(f"port {service.port} for {service.name} is in use; free it or choose others with --port")

    def run(self, stopped: threading.Event, say: Any = None) -> None:
        """Keep everything alive until `stopped` is set; `say` is called once, when all of it answers.

        The ledger and Prefect are asked in threads of their own: one that is slow, locked or away must not keep a
        fallen service waiting.
        """
        parts = [("the releases", self.fleet.turn)] if self.fleet else []
        if {"prefect", "runner"} & self.services.keys():
            parts.append(("the outbox", self._drain))
        threads = [threading.Thread(target=self._repeat, args=(stopped, *part), daemon=True) for part in parts]
        for thread in threads:
            thread.start()
        try:
            while not stopped.is_set():
                self.tend()
                if say and self.ready():
                    self._safely("the list of addresses", partial(say, self))
                    say = None
                stopped.wait(TURN)
        finally:
            stopped.set()
            for thread in threads:
                thread.join(15)

    def tend(self) -> None:
        """Restart the services that fell."""
        for service in self.services.values():
            self._safely(service.name, partial(self._tend, service))

    def ready(self) -> bool:
        """Whether everything asked for answers."""
        return (self.fleet is None or self.fleet.is_ready) and all(one.healthy for one in self.services.values())

    def _repeat(self, stopped: threading.Event, name: str, part: Callable[[], object]) -> None:
        pause = TURN
        while not stopped.wait(pause):
            pause = TURN if self._safely(name, part) else AFTER_ERROR

    def _safely(self, name: str, part: Callable[[], object]) -> bool:
        """Do a part of a turn; what goes wrong is said once, and tried again in a later turn. Whether all went well."""
        try:
            part()
        except Exception as error:
            sentence = " ".join(str(error).split())[:300] or repr(error)
            if self.troubles.get(name) != sentence:
                self.troubles[name] = sentence
                log.warning("%s: %s; this is tried again", name, sentence)
            return False
        if self.troubles.pop(name, None):
            log.info("%s: works again", name)
        return True

    def _tend(self, service: Service) -> None:
        if service.alive():
            service.look()
            return
        service.fell()
        if (service.after and not self.services[service.after].healthy) or not service.backoff.over():
            return
        try:
            service.start()
        except Fault as fault:
            service.postpone(str(fault))

    def _drain(self) -> None:
        if all(self.services[name].healthy for name in ("prefect", "runner") if name in self.services):
            drain()

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
        deployments.emit(deployments.APPROVED, {"task": row.payload["task"]})
        outbox.done(row.id)
        told.append(f"approval of {row.payload['task']}/{row.payload['version']}")
    asked: dict[str, list[outbox.Message]] = {}
    for row in [row for row in rows if row.kind == "retrain"]:
        asked.setdefault(row.payload["task"], []).append(row)
    for task, requests in asked.items():
        if has_new_labels(task):
            reason = "; ".join(dict.fromkeys(row.payload["reason"] for row in requests))
            deployments.emit(deployments.ASKED, {"task": task})
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
        stopped = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):  # also where a shell started us with SIGINT ignored
            signal.signal(number, lambda *_: stopped.set())
        supervisor = Supervisor(base, only)
        supervisor.adopt()
        try:
            supervisor.run(stopped, say)
            log.info("stopping")
        finally:
            supervisor.stop()


def logs() -> Path:
    """The folder of the services' logs."""
    return paths.home() / "logs"
