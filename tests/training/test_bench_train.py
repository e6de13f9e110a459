"""bench/training/cpu_throughput.py: every row takes its turn, and a row that can't be measured says why."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.usefixtures("home")
BENCH = Path(__file__).resolve().parents[2] / "bench" / "training" / "cpu_throughput.py"


def test_keras_rows_are_measured_and_pytorch_needs_an_option() -> None:
    command = [sys.executable, str(BENCH), "--batch", "4", "--steps", "2", "--rounds", "2", "--json"]
    rows = {row["row"]: row for row in json.loads(subprocess.check_output(command, text=True))}
    assert list(rows) == ["fit", "memory", "pytorch float32", "pytorch bfloat16"]
    assert rows["fit"]["images_per_second"] > 1 and rows["memory"]["images_per_second"] > 1
    assert 0 < rows["fit"]["of memory"] < 10
    assert "--torch-python" in rows["pytorch float32"]["note"]
