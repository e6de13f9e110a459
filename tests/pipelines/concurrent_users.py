"""A ward in a rush: tiny releases served for real, the desk in front, and users who ask without a pause."""

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

from bench import load
from lineage import accounts, keys, paths
from lineage.record import database, ledger
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
    """A release of one tiny network, built as a Bento, known to the ledger, and let through by its gate."""
    release = bento_build.assemble(
        paths.home() / "releases" / name, manifest(name, **{TASK: facts(version=version, **changed)}), {TASK: folder}
    )
    ledger.append(kind, name, {"bento": bento_build.build(release), "tasks": {TASK: version}})
    if kind == "release.built":
        ledger.record(Verdict("release", name, Outcome.PASS, ("said so by the test",)))


def network(folder: Path) -> Path:
    """The tiny network of the serving tests: graph, linear layer, reference."""
    write_graph(folder)
    outlier.save(folder / "reference.npz", Graph.load(folder / "graph.onnx").run(batch(*[True, False] * 10))[1])
    return folder


@dataclass
class Town:
    """The supervisor in a thread of its own."""

    supervisor: Supervisor
    stopped: threading.Event = field(default_factory=threading.Event)
    failed: list[BaseException] = field(default_factory=list)

    @property
    def desk(self) -> str:
        return f"http://127.0.0.1:{self.supervisor.base}"

    def run(self) -> None:
        """As `oncoloop up` does."""
        try:
            self.supervisor.run(self.stopped)
        except BaseException as error:
            self.failed.append(error)

    def wait_ready(self) -> None:
        wait(lambda: self.failed or self.supervisor.is_ready(), 60)
        assert not self.failed, self.failed

    def workers(self, release: str) -> dict[int, psutil.Process]:
        """The worker processes of a release's server."""
        assert self.supervisor.fleet
        process = self.supervisor.fleet.running[release].process
        family = psutil.Process(process.pid).children(recursive=True) if process else []
        return {one.pid: one for one in family if WORKER in " ".join(_command(one))}

    def at_work(self, release: str) -> set[int]:
        """The workers of a release that took one of ten new connections and answered on it."""
        assert self.supervisor.fleet
        port = self.supervisor.fleet.running[release].port
        found: set[int] = set()
        for _ in range(10):
            with socket.create_connection(("127.0.0.1", port), 20) as connection:
                status, _ = exchange(connection, b"GET /readyz HTTP/1.1\r\nHost: here\r\n\r\n")
                own = connection.getsockname()[1]
                found |= {pid for pid, one in self.workers(release).items() if status == 200 and own in _peers(one)}
        return found


@contextmanager
def town(folder: Path) -> Iterator[Town]:
    """A state folder of its own, with params, keys, database, and a supervisor of desk and releases."""
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
        ledger.append("model.promoted", TASK, {"version": "1"})
        made = Town(Supervisor(free_port(), ("desk", "release")))
        thread = threading.Thread(target=made.run)
        try:
            build("blue", network(folder / "tiny"))
            thread.start()
            made.wait_ready()
            yield made
        finally:
            made.stopped.set()
            thread.join(30)
            made.supervisor.stop()


@dataclass(frozen=True)
class Told:
    """What one request came to: when it was answered (monotonic), its status, the answer's id and release."""

    at: float
    status: int
    id: str
    release: str


class Rush:
    """Users who ask the desk again and again until the block ends, all with the token of one account."""

    def __init__(self, desk: str, name: str, users: int = 4) -> None:
        self.name = accounts.add(name, "clinician").name
        token = accounts.issue(name, "predict", 1)
        self.told: list[Told] = []
        self.over = threading.Event()
        self.request = load.form([("a.dcm", dicom(True))], TASK, "/api/predict", {"Authorization": f"Bearer {token}"})
        self.address = (urlsplit(desk).hostname or "", urlsplit(desk).port or 0)
        self.threads = [threading.Thread(target=self._user) for _ in range(users)]

    def __enter__(self) -> Rush:
        wait(self._open, 20)
        for thread in self.threads:
            thread.start()
        wait(lambda: len(self.told) > 20, 20)
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        for thread in self.threads:
            thread.join(60)

    def _open(self) -> bool:
        """Whether the desk has seen that a release is live; a bad form is refused by it, and journalled by nobody."""
        with socket.create_connection(self.address, 20) as connection:
            head, _, _ = self.request.partition(b"\r\n\r\n")
            head = b"\r\n".join(one for one in head.split(b"\r\n") if not one.startswith(b"Content-Length"))
            return exchange(connection, head + b"\r\nContent-Length: 0\r\n\r\n")[0] == 400

    def _user(self) -> None:
        with socket.create_connection(self.address, 20) as connection:
            while not self.over.is_set():
                status, body = exchange(connection, self.request)
                said = json.loads(body)
                self.told.append(Told(time.monotonic(), status, said.get("id", ""), said.get("release", str(said))))

    def since(self, moment: float, release: str) -> tuple[float, float]:
        """Seconds after `moment` of the first answer of a release, and of the last one of any other."""
        mine = [one.at - moment for one in self.told if one.at > moment and one.release == release]
        others = [one.at - moment for one in self.told if one.at > moment and one.release != release]
        return min(mine, default=float("inf")), max(others, default=0.0)

    def longest_gap(self) -> float:
        """The longest time, in seconds, in which nobody was answered."""
        moments = sorted(one.at for one in self.told)
        return max(after - before for before, after in itertools.pairwise(moments))


def exchange(connection: socket.socket, request: bytes) -> tuple[int, bytes]:
    """Send, and read one answer: status and body."""
    connection.sendall(request)
    seen = b""
    while b"\r\n\r\n" not in seen:
        seen += load._some(connection)
    head, _, body = seen.partition(b"\r\n\r\n")
    length = next(
        int(line.partition(b":")[2]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
    )
    while len(body) < length:
        body += load._some(connection)
    return int(head.split(b" ", 2)[1]), body


def kept_and_told(rush: Rush) -> tuple[list[str], list[str]]:
    """The ids of the journal's rows, and those of the answers that were given, each in order."""
    rows = database.fetch(database.journal.select().where(database.journal.c.actor == rush.name))
    return sorted(row["id"] for row in rows), sorted(one.id for one in rush.told)


def settled() -> bool:
    """Whether a second has gone by in which no shadow wrote a row."""
    before = len(database.fetch(database.journal.select().where(database.journal.c.shadows != "")))
    time.sleep(1.0)
    return before == len(database.fetch(database.journal.select().where(database.journal.c.shadows != ""))) > 0


def wait(found: Any, seconds: float) -> Any:
    """Ask until there is something, and fail after some seconds."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if answer := found():
            return answer
        time.sleep(0.02)
    pytest.fail(f"waited {seconds:g} s in vain")


def _peers(process: psutil.Process) -> set[int]:
    try:
        return {one.raddr.port for one in process.net_connections("tcp4") if one.raddr}
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return set()


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return []
