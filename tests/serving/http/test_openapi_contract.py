"""Schemathesis tests a served release against its OpenAPI document."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lineage import keys
from tests.serving import hostile_inputs
from tests.serving.conftest import Endpoint

pytestmark = pytest.mark.usefixtures("served_home")
EXAMPLES = 500 if os.environ.get("ONCOLOOP_SOAK") else 15  # for each operation and each phase
# All checks are on. Bytes that fit the schema may not be a scan, and a text may not be a task; the status is 422 then.
CONFIG = """
headers = { "oncoloop-desk" = "${DESK}" }

[auth.openapi.token]
bearer = "${TOKEN}"

[checks.positive_data_acceptance]
expected-statuses = ["2xx", "401", "422"]
"""


def test_schemathesis_reports_no_failure(endpoint: Endpoint, tmp_path: Path) -> None:
    (tmp_path / "schemathesis.toml").write_text(CONFIG)
    page = f"{endpoint.server.url}/docs.json"
    command = [str(Path(sys.executable).parent / "schemathesis"), "--config-file", "schemathesis.toml", "run", page]
    command += ["--checks", "all", "--mode", "all", "--max-examples", str(EXAMPLES), "--seed", "7", "--no-color"]
    command += ["--request-timeout", "30", "--workers", "2"]
    environment = os.environ | {
        "TOKEN": endpoint.token,
        "DESK": keys.server_secret("release"),
        "HOME": str(tmp_path),
        "COLUMNS": "160",
    }
    process = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    failures = re.search(r"(?s)=+ (FAILURES|ERRORS) =+.*", process.stdout)
    assert process.returncode == 0, (failures.group() if failures else process.stdout + process.stderr)[:8000]
    sys.stdout.write("\n".join(process.stdout.splitlines()[-40:]))
    assert re.search(r"Operations:\s+6 selected / 6 total", process.stdout) and hostile_inputs.still_answers(endpoint)
