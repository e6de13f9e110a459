"""The command itself, killed at random moments: `oncoloop ingest` with its Prefect server, again and again (soak)."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from data import phantom
from lineage import ledger, store
from pipelines import params, repro, services
from tests.pipelines.conftest import Run
from tests.pipelines.test_admission import SEED, state

KILLS = int(os.environ.get("ONCOLOOP_KILLS", "20"))
HIDDEN = ("ONCOLOOP_", "MLFLOW_", "PREFECT_", "BENTOML_HOME", "DVC_", "XDG_", "KERAS_HOME", "MPLCONFIGDIR")
pytestmark = pytest.mark.skipif(not os.environ.get("ONCOLOOP_SOAK"), reason="minutes; test_admission.py is its sample")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[dict[str, str]]:
    """One Prefect server for all runs: one of its own for each would cost 20 seconds a time."""
    port = next(port for port in range(9700, 9800) if not services.taken(port))
    plain = {name: value for name, value in os.environ.items() if not name.startswith(HIDDEN)}
    plain |= {"PREFECT_HOME": str(tmp_path / "prefect"), "DO_NOT_TRACK": "1"}
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
    task = params.load().tasks["brain-mr"]
    for seed, name in ((40, "first"), (41, "second")):
        phantom.write_batch(Path("inbox", name), task, 4, phantom.SCANNERS["alder-mr"], seed, 2)
    ended, _ = ingest("inbox/first", server)
    assert ended == 0
    kept = workspace.with_name("kept")
    shutil.copytree(workspace, kept, symlinks=True)
    ended, usual = ingest("inbox/second", server)
    assert ended == 0
    whole = comparable(workspace)
    chance, moments = random.Random(SEED), []
    for _ in range(KILLS):
        restore(workspace, kept)
        moments.append(chance.uniform(0.2, 1.0) * usual)
        ended, _ = ingest("inbox/second", server, moments[-1], alone=chance.random() < 0.5)
        ended, _ = ingest("inbox/second", server)
        assert ended == 0, f"after a kill at {moments[-1]:.1f} s"
        assert comparable(workspace) == whole, f"after a kill at {moments[-1]:.1f} s"
        assert ledger.verify().outcome.value == "pass"
        assert repro.git("fsck", "--no-dangling") == ""


def ingest(
    folder: str, server: dict[str, str], kill_after: float | None = None, alone: bool = False
) -> tuple[int, float]:
    """Run the command as a user would; its exit code and seconds. Killed by SIGKILL, alone or with its children."""
    began = time.monotonic()
    with Path("ingest.log").open("a") as log:
        process = subprocess.Popen(
            [services.program("oncoloop"), "ingest", folder], env=server, stdout=log, stderr=log, start_new_session=True
        )
    try:
        return process.wait(kill_after or 300), time.monotonic() - began
    except subprocess.TimeoutExpired:
        (os.kill if alone else os.killpg)(process.pid, signal.SIGKILL)
        return process.wait(10), time.monotonic() - began


def comparable(ward: Path) -> dict[str, str]:
    """Bytes that do not depend on when the batch came, since a run that was killed early had not written that down."""
    store.engine().dispose()
    found = state(ward)
    times = ("record.json", "data/cohorts", ".dvc", "tree", "admissions", "var/cache", "var/remote")
    kept = {name: value for name, value in found.items() if not name.startswith(times) and not name.endswith(times)}
    sides = (ward / "data/cohorts/brain-mr.csv").read_text().splitlines()
    return kept | {"sides": str([line.rsplit(",", 1)[0] for line in sides]), "objects": str(count(found))}


def count(found: dict[str, str]) -> int:
    return sum(name.startswith(("var/cache", "var/remote")) for name in found)


def restore(ward: Path, kept: Path) -> None:
    os.chdir(kept)
    store.engine().dispose()
    shutil.rmtree(ward)
    shutil.copytree(kept, ward, symlinks=True)
    os.chdir(ward)
