"""Fixtures: a workspace for a test, a signed-in engineer, the installed command."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.servers import services

Run = Callable[..., "subprocess.CompletedProcess[str]"]
HIDDEN = ("ONCOLOOP_", "MLFLOW_", "PREFECT_", "BENTOML_HOME", "DVC_", "XDG_", "KERAS_HOME", "MPLCONFIGDIR")
# Commands run behind a proxy that does not answer: a loopback request through it hangs or fails.
PROXIES = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), "http://127.0.0.1:9")


def clean_environment() -> dict[str, str]:
    """The environment of a user, without the state of this process."""
    without = (*HIDDEN, "NO_PROXY", "no_proxy")
    return {name: value for name, value in os.environ.items() if not name.startswith(without)} | PROXIES


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A new workspace, which is the current folder of this process."""
    from lineage import paths
    from pipelines.workspace import workspace as making

    folder = tmp_path / "ward"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("ONCOLOOP_HOME", str(folder / "var"))
    monkeypatch.setenv("PYTHONSAFEPATH", "1")
    monkeypatch.delenv("ONCOLOOP_DATABASE_URL", raising=False)
    for name, value in paths.environment().items():
        monkeypatch.setenv(name, value)
    making.create(folder)
    return folder


@pytest.fixture
def engineer(workspace: Path) -> str:
    """The name of an engineer who is signed in on the command line of the workspace."""
    from lineage import accounts
    from pipelines.workspace import command_line_session

    assert workspace.is_dir()
    accounts.add("erik", "engineer")
    command_line_session.sign_in(accounts.invite("erik"))
    return "erik"


@pytest.fixture(scope="session")
def small_ward(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace whose first model waits for approval, made once per session; tests copy it."""
    from tests.pipelines import small_workspace

    return small_workspace.make(tmp_path_factory.mktemp("small") / "ward")


@pytest.fixture(scope="session")
def oncoloop() -> Run:
    """Run the installed command like a user, in a folder, without the settings of this process."""

    def run(*arguments: str, cwd: Path, stdin: str = "", seconds: float = 300) -> subprocess.CompletedProcess[str]:
        command = [services.program("oncoloop"), *arguments]
        return subprocess.run(
            command,
            cwd=cwd,
            env=clean_environment(),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )

    return run
