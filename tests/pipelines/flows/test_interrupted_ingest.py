"""The command itself, killed at random moments: `oncoloop ingest` with its Prefect server, again and again (soak)."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from data.phantom import batch, scanner
from lineage import paths
from lineage.record import database, ledger
from pipelines import params
from pipelines.servers import services
from pipelines.workspace import git
from tests.pipelines.conftest import Run
from tests.pipelines.flows.test_atomic_admission import SEED, state

KILLS = int(os.environ.get("ONCOLOOP_KILLS", "20"))
HIDDEN = ("ONCOLOOP_", "MLFLOW_", "PREFECT_", "BENTOML_HOME", "DVC_", "XDG_", "KERAS_HOME", "MPLCONFIGDIR")
SPOKEN = "units are admitted"  # what the flow logs before it writes anything
pytestmark = pytest.mark.skipif(not os.environ.get("ONCOLOOP_SOAK"), reason="minutes; test_admission.py is its sample")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[dict[str, str]]:
    """One Prefect server for all runs: one of its own for each would cost 20 seconds a time."""
    port = next(port for port in range(9700, 9800) if not services.taken(port))
    plain = {name: value for name, value in os.environ.items() if not name.startswith(HIDDEN)}
    plain |= {"PREFECT_HOME": str(tmp_path / "prefect"), **paths.SILENT}
    command = [services.program("prefect"), "server", "start", "--host", services.HOST, "--port", str(port)]
    with (tmp_path / "server.log").open("w") as log:
        process = subprocess.Popen(command, env=plain, stdout=log, stderr=log, start_new_session=True)
    deadline = time.monotonic() + 120
    while not services.answers(f"http://{services.HOST}:{port}/api/health") and time.monotonic() < deadline:
        time.sleep(0.5)
    yield plain | {"PREFECT_API_URL": f"http://{services.HOST}:{port}/api"}
    services.end(process.pid)
    process.wait(20)


def test_the_command_killed_at_random_moments(workspace: Path, oncoloop: Run, server: dict[str, str]) -> None:
    """Half of the kills fall anywhere in a run, half after the gate has spoken, when state is written."""
    task = params.load().tasks["brain-mr"]
    for seed, name in ((40, "first"), (41, "second")):
        batch.write_batch(Path("inbox", name), task, 4, scanner.SCANNERS["alder-mr"], seed, 2)
    said = workspace.with_name("ingest.log")
    assert ingest("inbox/first", server, said).code == 0
    kept = workspace.with_name("kept")
    shutil.copytree(workspace, kept, symlinks=True)
    usual = ingest("inbox/second", server, said)
    assert usual.code == 0
    whole, chance = comparable(workspace), random.Random(SEED)
    for number in range(KILLS):
        restore(workspace, kept)
        alone, late = chance.random() < 0.5, number % 2 == 1
        wait = chance.uniform(0, 2) if late else chance.uniform(0.2, 1.0) * usual.seconds
        killed = ingest("inbox/second", server, said, Kill(SPOKEN if late else "", wait, alone))
        again = ingest("inbox/second", server, said)
        told = f"kill {number}: {wait:.1f} s after {'the gate' if late else 'the start'}, alone: {alone}, {killed.code}"
        with said.open("a") as log:
            log.write(f"{told}, {killed.seconds:.1f} s; then {again.seconds:.1f} s\n")
        assert again.code == 0, told
        assert comparable(workspace) == whole, told
        assert ledger.verify().outcome.value == "pass", told
        assert git.run("fsck", "--no-dangling") == "", told
        assert again.seconds < 4 * usual.seconds + 30, f"{told}: the run after it took {again.seconds:.0f} s"


@dataclass(frozen=True)
class Kill:
    """SIGKILL so many seconds after a text came into the log ("": after the start), alone or with all children."""

    after: str
    seconds: float
    alone: bool


@dataclass(frozen=True)
class Ended:
    """How a command ended (negative: by that signal), and after how many seconds."""

    code: int
    seconds: float


def ingest(folder: str, server: dict[str, str], said: Path, kill: Kill | None = None) -> Ended:
    """Run the command as a user would; what it says is added to the file `said`."""
    began, size = time.monotonic(), said.stat().st_size if said.exists() else 0
    with said.open("a") as log:
        process = subprocess.Popen(
            [services.program("oncoloop"), "ingest", folder], env=server, stdout=log, stderr=log, start_new_session=True
        )
    try:
        if kill is None:
            return Ended(process.wait(300), time.monotonic() - began)
        while process.poll() is None and kill.after.encode() not in said.read_bytes()[size:]:
            time.sleep(0.02)
        return Ended(process.wait(kill.seconds), time.monotonic() - began)  # it may have been done sooner
    except subprocess.TimeoutExpired:
        if kill is not None and kill.alone:
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
        return Ended(process.wait(10), time.monotonic() - began)


def comparable(ward: Path) -> dict[str, str]:
    """Bytes that do not depend on when the batch came, since a run that was killed early had not written that down."""
    database.engine().dispose()
    found = state(ward)
    times = ("record.json", "data/cohorts", ".dvc", "tree", "admissions", "var/cache", "var/remote")
    kept = {name: value for name, value in found.items() if not name.startswith(times) and not name.endswith(times)}
    sides = (ward / "data/cohorts/brain-mr.csv").read_text().splitlines()
    return kept | {"sides": str([line.rsplit(",", 1)[0] for line in sides]), "objects": str(count(found))}


def count(found: dict[str, str]) -> int:
    return sum(name.startswith(("var/cache", "var/remote")) for name in found)


def restore(ward: Path, kept: Path) -> None:
    os.chdir(kept)
    database.engine().dispose()
    shutil.rmtree(ward)
    shutil.copytree(kept, ward, symlinks=True)
    os.chdir(ward)
