"""Load on running servers: tiny releases behind the desk, and users who send requests without a pause."""

from __future__ import annotations

import itertools
import json
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest

from bench.serving import load_generator
from lineage import accounts, keys, paths
from lineage.record import database, ledger
from lineage.record.events import EventKind
from lineage.record.verdict import Outcome, Verdict
from pipelines.servers.supervisor import Supervisor
from serving.bundle import bento_build
from serving.bundle.bento_server import free_port
from serving.inference import outlier
from serving.inference.graph import Graph
from tests.conftest import ROOT
from tests.serving.conftest import batch, dicom, facts, manifest, write_graph

TASK = "tiny-mr"
WORKER = "_bentoml_impl.worker.service"


def build(name: str, folder: Path, version: str = "1", kind: str = "release.built", **changed: Any) -> None:
    """Build a release of one tiny network as a Bento, with its ledger events and a passing verdict."""
    release = bento_build.assemble(
        paths.home() / "releases" / name, manifest(name, **{TASK: facts(version=version, **changed)}), {TASK: folder}
    )
    ledger.append(kind, name, {"bento": bento_build.build(release), "tasks": {TASK: version}})
    if kind == "release.built":
        ledger.record_verdict(Verdict("release", name, Outcome.PASS, ("set by the test",)))


def network(folder: Path) -> Path:
    """The tiny network of the serving tests: graph, linear layer, reference."""
    write_graph(folder)
    outlier.save(folder / "reference.npz", Graph.load(folder / "graph.onnx").run(batch(*[True, False] * 10))[1])
    return folder


@dataclass
class RunningServers:
    """The supervisor in a separate thread."""

    supervisor: Supervisor
    stopped: threading.Event = field(default_factory=threading.Event)
    failed: list[BaseException] = field(default_factory=list)

    @property
    def desk(self) -> str:
        return f"http://127.0.0.1:{self.supervisor.base}"

    def run(self) -> None:
        """Run the supervisor like `oncoloop up`."""
        try:
            self.supervisor.run(self.stopped)
        except BaseException as error:
            self.failed.append(error)

    def wait_ready(self) -> None:
        wait_for(lambda: self.failed or self.supervisor.is_ready(), 60)
        assert not self.failed, self.failed

    def workers(self, release: str) -> dict[int, psutil.Process]:
        """The worker processes of a release's server."""
        assert self.supervisor.fleet
        process = self.supervisor.fleet.running[release].process
        family = psutil.Process(process.pid).children(recursive=True) if process else []
        return {child.pid: child for child in family if WORKER in " ".join(_command(child))}

    def at_work(self, release: str) -> set[int]:
        """The workers of a release that accept one of ten new connections and answer on it."""
        assert self.supervisor.fleet
        port = self.supervisor.fleet.running[release].port
        answering: set[int] = set()
        for _ in range(10):
            with socket.create_connection(("127.0.0.1", port), 20) as connection:
                status, _ = exchange(connection, b"GET /readyz HTTP/1.1\r\nHost: here\r\n\r\n")
                client_port = connection.getsockname()[1]
                answering |= {
                    pid
                    for pid, worker in self.workers(release).items()
                    if status == 200 and client_port in _peers(worker)
                }
        return answering


@contextmanager
def running_servers(folder: Path) -> Iterator[RunningServers]:
    """A supervisor of desk and releases, with a new state folder, settings, keys and database."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        shutil.copyfile(ROOT / "params.yaml", folder / "params.yaml")
        patch.setenv("ONCOLOOP_HOME", str(folder / "var"))
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.delenv("ONCOLOOP_DATABASE_URL", raising=False)
        for name, value in paths.environment().items():
            patch.setenv(name, value)
        keys.create()
        database.migrate()
        ledger.append(EventKind.MODEL_PROMOTED, TASK, {"version": "1"})
        running = RunningServers(Supervisor(free_port(), ("desk", "release")))
        thread = threading.Thread(target=running.run)
        try:
            build("blue", network(folder / "tiny"))
            thread.start()
            running.wait_ready()
            yield running
        finally:
            running.stopped.set()
            thread.join(30)
            running.supervisor.stop()


@dataclass(frozen=True)
class Response:
    """The response to one request: time (monotonic), status, id and release of the answer."""

    at: float
    status: int
    id: str
    release: str


class ConcurrentUsers:
    """Users who send requests to the desk until the block ends, all with the token of one account."""

    def __init__(self, desk: str, name: str, users: int = 4) -> None:
        self.name = accounts.add(name, "clinician").name
        token = accounts.issue(name, "predict", 1)
        self.responses: list[Response] = []
        self.stop_event = threading.Event()
        self.request = load_generator.form(
            [("a.dcm", dicom(True))], TASK, "/api/predict", {"Authorization": f"Bearer {token}"}
        )
        self.address = (urlsplit(desk).hostname or "", urlsplit(desk).port or 0)
        self.threads = [threading.Thread(target=self._user) for _ in range(users)]

    def __enter__(self) -> ConcurrentUsers:
        wait_for(self._open, 20)
        for thread in self.threads:
            thread.start()
        wait_for(lambda: len(self.responses) > 20, 20)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop_event.set()
        for thread in self.threads:
            thread.join(60)

    def _open(self) -> bool:
        """Whether the desk has noticed a live release: it refuses an empty form, which is not journalled."""
        with socket.create_connection(self.address, 20) as connection:
            head, _, _ = self.request.partition(b"\r\n\r\n")
            head = b"\r\n".join(line for line in head.split(b"\r\n") if not line.startswith(b"Content-Length"))
            return exchange(connection, head + b"\r\nContent-Length: 0\r\n\r\n")[0] == 400

    def _user(self) -> None:
        with socket.create_connection(self.address, 20) as connection:
            while not self.stop_event.is_set():
                status, body = exchange(connection, self.request)
                answer = json.loads(body)
                self.responses.append(
                    Response(time.monotonic(), status, answer.get("id", ""), answer.get("release", str(answer)))
                )

    def since(self, moment: float, release: str) -> tuple[float, float]:
        """Seconds from `moment` to the first answer of a release, and to the last answer of any other release."""
        of_release = [
            response.at - moment for response in self.responses if response.at > moment and response.release == release
        ]
        of_others = [
            response.at - moment for response in self.responses if response.at > moment and response.release != release
        ]
        return min(of_release, default=float("inf")), max(of_others, default=0.0)

    def longest_gap(self) -> float:
        """The longest time without an answer, in seconds."""
        moments = sorted(response.at for response in self.responses)
        return max(after - before for before, after in itertools.pairwise(moments))


def exchange(connection: socket.socket, request: bytes) -> tuple[int, bytes]:
    """Send a request and read the response: status and body."""
    connection.sendall(request)
    received = b""
    while b"\r\n\r\n" not in received:
        received += load_generator._receive(connection)
    head, _, body = received.partition(b"\r\n\r\n")
    length = next(
        int(line.partition(b":")[2]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
    )
    while len(body) < length:
        body += load_generator._receive(connection)
    return int(head.split(b" ", 2)[1]), body


def journalled_and_answered_ids(rush: ConcurrentUsers) -> tuple[list[str], list[str]]:
    """The sorted ids in the journal, and the sorted ids of the answers."""
    rows = database.fetch(database.journal.select().where(database.journal.c.actor == rush.name))
    return sorted(row["id"] for row in rows), sorted(response.id for response in rush.responses)


def shadow_rows_are_stable() -> bool:
    """Whether no shadow wrote a row within one second."""
    row_count = len(database.fetch(database.journal.select().where(database.journal.c.shadows != "")))
    time.sleep(1.0)
    return row_count == len(database.fetch(database.journal.select().where(database.journal.c.shadows != ""))) > 0


def wait_for(condition: Any, seconds: float) -> Any:
    """Call `condition` until its result is true, and return it; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if answer := condition():
            return answer
        time.sleep(0.02)
    pytest.fail(f"waited {seconds:g} s in vain")


def _peers(process: psutil.Process) -> set[int]:
    try:
        return {connection.raddr.port for connection in process.net_connections("tcp4") if connection.raddr}
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return set()


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return []
