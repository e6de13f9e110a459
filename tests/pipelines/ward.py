"""A workspace with its running servers, for tests that use it as people do."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.pipelines.conftest import Run


@dataclass
class Ward:
    """A workspace with its running servers, and how to talk to it."""

    folder: Path
    run: Run
    port: int

    def say(self, *arguments: str, codes: tuple[int, ...] = (0,)) -> Any:
        """The JSON result of a command."""
        done = self.run(*arguments, "--json", cwd=self.folder)
        assert done.returncode in codes, f"{arguments}: {done.returncode}\n{done.stderr[-3000:]}"
        return json.loads(done.stdout)

    def until(self, found: Any, seconds: float = 180) -> Any:
        """Ask until there is an answer."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if answer := found():
                return answer
            time.sleep(1)
        raise AssertionError(f"nothing after {seconds} s")

    def post(self, path: Path, task: str = "") -> httpx.Response:
        """One case through the web front, as a program."""
        token = self.say("login", "mara", "--token", "--days", "1")["token"]
        files = [("files", (path.name, path.read_bytes()))]
        headers = {"Authorization": f"Bearer {token}"}
        url = f"http://127.0.0.1:{self.port}/api/predict"
        return httpx.post(url, files=files, data={"task": task}, headers=headers, timeout=60)


def clean() -> dict[str, str]:
    """The environment without another test's state."""
    hidden = ("ONCOLOOP_", "MLFLOW_", "PREFECT_", "BENTOML_HOME", "DVC_", "XDG_", "KERAS_HOME", "MPLCONFIGDIR")
    return {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
