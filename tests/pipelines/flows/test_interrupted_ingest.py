"""The command `oncoloop ingest` with its Prefect server, killed at random moments (soak)."""

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
from tests.pipelines.admissions import SEED, workspace_state
from tests.pipelines.conftest import Run

KILLS = int(os.environ.get("ONCOLOOP_KILLS", "20"))
HIDDEN = ("ONCOLOOP_", "MLFLOW_", "PREFECT_", "BENTOML_HOME", "DVC_", "XDG_", "KERAS_HOME", "MPLCONFIGDIR")
VERDICT_LINE = "units are admitted"  # the flow logs it before it writes anything
pytestmark = pytest.mark.skipif(
    not os.environ.get("ONCOLOOP_SOAK"), reason="minutes; test_atomic_admission.py is its sample"
)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[dict[str, str]]:
    """One Prefect server for all runs: a server for each run would cost 20 seconds."""
    port = next(port for port in range(9700, 9800) if not services.is_port_in_use(port))
    environment = {name: value for name, value in os.environ.items() if not name.startswith(HIDDEN)}
    environment |= {"PREFECT_HOME": str(tmp_path / "prefect"), **paths.SILENT}
    command = [services.program("prefect"), "server", "start", "--host", services.HOST, "--port", str(port)]
    with (tmp_path / "server.log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    deadline = time.monotonic() + 120
    while not services.answers(f"http://{services.HOST}:{port}/api/health") and time.monotonic() < deadline:
        time.sleep(0.5)
    yield environment | {"PREFECT_API_URL": f"http://{services.HOST}:{port}/api"}
    services.end(process.pid)
    process.wait(20)


def test_the_command_killed_at_random_moments_is_finished_by_the_next(
    workspace: Path, oncoloop: Run, server: dict[str, str]
) -> None:
    """Half of the kills fall anywhere in a run, half after the gate's verdict, while state is written."""
    task = params.load().tasks["brain-mr"]
    for seed, name in ((40, "first"), (41, "second")):
        batch.write_batch(Path("inbox", name), task, 4, scanner.SCANNERS["alder-mr"], seed, 2)
    log_file = workspace.with_name("ingest.log")
    assert ingest("inbox/first", server, log_file).code == 0
    copy = workspace.with_name("kept")
    shutil.copytree(workspace, copy, symlinks=True)
    usual = ingest("inbox/second", server, log_file)
    assert usual.code == 0
    expected, generator = comparable(workspace), random.Random(SEED)
    for number in range(KILLS):
        restore(workspace, copy)
        is_alone, is_late = generator.random() < 0.5, number % 2 == 1
        wait = generator.uniform(0, 2) if is_late else generator.uniform(0.2, 1.0) * usual.seconds
        killed = ingest("inbox/second", server, log_file, Kill(VERDICT_LINE if is_late else "", wait, is_alone))
        rerun = ingest("inbox/second", server, log_file)
        moment = f"{wait:.1f} s after {'the gate' if is_late else 'the start'}"
        description = f"kill {number}: {moment}, alone: {is_alone}, {killed.code}"
        with log_file.open("a") as log:
            log.write(f"{description}, {killed.seconds:.1f} s; then {rerun.seconds:.1f} s\n")
        assert rerun.code == 0, description
        assert comparable(workspace) == expected, description
        assert ledger.verify().outcome.value == "pass", description
        assert git.run("fsck", "--no-dangling") == "", description
        assert rerun.seconds < 4 * usual.seconds + 30, f"{description}: the next run took {rerun.seconds:.0f} s"


@dataclass(frozen=True)
class Kill:
    """SIGKILL `seconds` after a text came into the log ("": after the start), to the process alone or its group."""

    after: str
    seconds: float
    alone: bool


@dataclass(frozen=True)
class Exit:
    """Exit code of a command (negative: killed by that signal), and its duration in seconds."""

    code: int
    seconds: float


def ingest(folder: str, server: dict[str, str], log_file: Path, kill: Kill | None = None) -> Exit:
    """Run the command as a user would, and append its output to a file."""
    start_time, size = time.monotonic(), log_file.stat().st_size if log_file.exists() else 0
    with log_file.open("a") as log:
        process = subprocess.Popen(
            [services.program("oncoloop"), "ingest", folder], env=server, stdout=log, stderr=log, start_new_session=True
        )
    try:
        if kill is None:
            return Exit(process.wait(300), time.monotonic() - start_time)
        while process.poll() is None and kill.after.encode() not in log_file.read_bytes()[size:]:
            time.sleep(0.02)
        return Exit(process.wait(kill.seconds), time.monotonic() - start_time)  # it may finish before the kill
    except subprocess.TimeoutExpired:
        if kill is not None and kill.alone:
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
        return Exit(process.wait(10), time.monotonic() - start_time)


def comparable(workspace: Path) -> dict[str, str]:
    """The state without what depends on the arrival time: a run that was killed early has not recorded it."""
    database.engine().dispose()
    contents = workspace_state(workspace)
    times = ("record.json", "data/cohorts", ".dvc", "tree", "admissions", "var/cache", "var/remote")
    timeless = {
        name: value for name, value in contents.items() if not name.startswith(times) and not name.endswith(times)
    }
    sides = (workspace / "data/cohorts/brain-mr.csv").read_text().splitlines()
    object_count = sum(name.startswith(("var/cache", "var/remote")) for name in contents)
    return timeless | {"sides": str([line.rsplit(",", 1)[0] for line in sides]), "objects": str(object_count)}


def restore(workspace: Path, copy: Path) -> None:
    os.chdir(copy)
    database.engine().dispose()
    shutil.rmtree(workspace)
    shutil.copytree(copy, workspace, symlinks=True)
    os.chdir(workspace)
