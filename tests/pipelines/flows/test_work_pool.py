"""Fits on a real Prefect work pool, with two real workers that share only addresses (soak)."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lineage import paths
from lineage.errors import Fault
from pipelines import warm_start_pins
from pipelines.flows import retrain, work_pool
from pipelines.servers import services
from pipelines.workspace import code_snapshot, dvc, git
from tests.pipelines.flows.test_remote_transfer import PIPELINE

TASKS = ("brain-mr", "lung-ct")
REPORT = {"device": "none", "backend": "a shell", "seconds": 20, "epochs": 0, "strategy": "full"}
soak = pytest.mark.skipif(
    not os.environ.get("ONCOLOOP_SOAK"), reason="two minutes; test_remote_transfer.py is its sample"
)


@pytest.fixture
def start_process() -> Iterator[Callable[..., None]]:
    """Start processes that end with the test."""
    running: list[subprocess.Popen[bytes]] = []

    def start(log: Path, *command: str, **environment: str) -> None:
        with log.open("w") as output:
            program = [services.program(command[0]), *command[1:]]
            running.append(
                subprocess.Popen(
                    program, env=os.environ | environment, stdout=output, stderr=output, start_new_session=True
                )
            )

    yield start
    for process in reversed(running):
        services.end(process.pid)
        process.wait(20)


def wait_until(is_true: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < end, f"nothing after {seconds} s"
        time.sleep(0.5)


def can_register_fit() -> bool:
    try:
        work_pool.register_fit("gpu")
    except Fault:
        return False
    return True


@pytest.mark.usefixtures("workspace")
def test_without_a_server_a_pool_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    with pytest.raises(Fault, match="--pool needs a Prefect server that workers can reach: run `oncoloop up`"):
        work_pool.register_fit("gpu")


@soak
def test_two_workers_fit_two_tasks_side_by_side(
    workspace: Path, start_process: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect import flow
    from prefect.settings import PREFECT_API_URL, temporary_settings

    port = next(port for port in range(9800, 9900) if not services.is_port_in_use(port))
    url = f"http://{services.HOST}:{port}/api"
    start_process(workspace / "server.log", "prefect", "server", "start", "--host", services.HOST, "--port", str(port))
    wait_until(lambda: services.answers(f"{url}/health"))
    monkeypatch.setenv("PREFECT_API_URL", url)  # for the workers: this process read its settings before
    with temporary_settings({PREFECT_API_URL: url}):
        with pytest.raises(Fault, match="there is no work pool 'gpu' yet"):
            work_pool.register_fit("gpu")
        homes = [workspace.with_name(f"machine-{number}") for number in (1, 2)]
        for home in homes:
            home.mkdir()
            folders = {name: str(home.joinpath(*parts)) for name, parts in paths.FOLDERS.items()}
            start_process(
                home / "worker.log",
                "prefect",
                "worker",
                "start",
                "--pool",
                "gpu",
                "--type",
                "process",
                "--limit",
                "1",
                **folders,
                ONCOLOOP_HOME=str(home),
            )
        wait_until(lambda: all("started!" in (home / "worker.log").read_text() for home in homes))
        wait_until(can_register_fit)
        tree = prepare_tree(workspace)

        @flow
        def fit_tasks() -> Any:
            retrain.run_stages(str(tree), list(TASKS), "gpu")

        monkeypatch.setattr(dvc, "STAGES", ("prepare", "fit"))
        fit_tasks()
    outputs = [(tree / "models" / task / "out").read_text() for task in TASKS]
    assert sorted(output.splitlines()[1] for output in outputs) == [str(home) for home in homes], (
        "each worker fitted one task"
    )
    assert not dvc.changed_stages(tree, list(TASKS))


def prepare_tree(workspace: Path) -> Path:
    """A pinned worktree of two tasks whose fits take 20 seconds, so that one worker can't do both."""
    models = "models/${item.task}"
    begin = (
        f">-\n      mkdir -p {models} && sleep 20 && echo '{json.dumps(REPORT)}' > {models}/fit.json &&\n      mkdir"
    )
    text = PIPELINE.replace("[lung-ct]", f"[{', '.join(TASKS)}]").replace(">-\n      mkdir", begin)
    (workspace / "dvc.yaml").write_text(text, encoding="utf-8")
    for task in TASKS:
        Path("data/batches", task, "one").mkdir()
        Path("data/batches", task, "one", "x.txt").write_text(f"{task}\n", encoding="utf-8")
        dvc.add(Path("data/batches", task, "one"))
    tree = dvc.worktree(git.commit(["."], "Admit"))
    code_snapshot.write_code_snapshot(tree)
    warm_start_pins.write_pins(tree)
    return tree
