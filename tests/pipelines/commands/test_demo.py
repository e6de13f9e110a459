"""The demo runs to its end whatever the gates' outcomes are, and its exit code reports these outcomes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from pipelines.commands import demo
from tests.pipelines.conftest import Run

slow = pytest.mark.skipif(not os.environ.get("ONCOLOOP_SOAK"), reason="minutes each; .ci/run runs one quick demo")
STEPS = [str(number) for number in range(1, 10)]


@pytest.mark.parametrize(
    ("gates", "challenger", "decision", "sham", "code"),
    [
        ({"a/1": "pass"}, "pass", "promoted", False, 0),
        ({"a/1": "inconclusive"}, "pass", "promoted", False, 4),
        ({"a/1": "fail", "b/1": "inconclusive"}, "pass", "promoted", False, 3),
        ({"a/1": "pass"}, "inconclusive", "approved by a person", False, 4),
        ({"a/1": "pass"}, "fail", "rejected", False, 3),
        ({"a/1": "pass"}, "inconclusive", "waiting for approval", True, 0),
        ({"a/1": "pass"}, "fail", "rejected", True, 0),
        ({"a/1": "pass"}, "pass", "promoted", True, 3),
        ({"a/1": "inconclusive"}, "fail", "rejected", True, 4),
    ],
)
def test_the_exit_code_reports_the_outcomes_of_the_gates(
    gates: dict[str, str], challenger: str, decision: str, sham: bool, code: int
) -> None:
    challenger_result = {"subject": "b/2", "challenger": challenger, "decision": decision}
    assert demo.exit_code(gates | {"b/2": challenger}, challenger_result, sham) == code


@pytest.mark.parametrize("change", ["epochs=3", "fit.epochs", "fit.epoch=3", "no-such.key=1", "fit.epochs="])
def test_a_changed_value_of_an_unknown_key_is_refused(change: str, oncoloop: Run, tmp_path: Path) -> None:
    process = oncoloop("demo", "--at", str(tmp_path / "demo"), "--set", change, cwd=tmp_path)
    assert process.returncode == 1 and "give SECTION.KEY=VALUE" in process.stderr and "Traceback" not in process.stderr


def run_quick_demo(oncoloop: Run, folder: Path, *changes: str) -> tuple[int, dict[str, Any], str]:
    """Run a quick demo; return exit code, result and output. Every step is in the output, and no traceback."""
    options = [word for change in changes for word in ("--set", change)]
    process = oncoloop("demo", "--quick", "--json", "--at", str(folder), *options, cwd=folder.parent, seconds=1500)
    assert "Traceback" not in process.stderr + (folder / "demo.log").read_text(encoding="utf-8")
    output = " ".join(process.stderr.split())
    assert [step for step in STEPS if f"{step} " not in output] == [], process.stderr[-3000:]
    return process.returncode, json.loads(process.stdout), output


@slow
def test_an_inconclusive_model_is_approved_by_a_person(oncoloop: Run, tmp_path: Path) -> None:
    code, result, output = run_quick_demo(
        oncoloop, tmp_path / "demo", "promotion.min_clusters=500", "monitoring.min_clusters=500"
    )
    first_outcomes = {result["gates"][f"{name}/1"] for name, *_ in demo.FIRST_BATCHES}
    assert code in (3, 4) and first_outcomes == {"inconclusive"}
    assert output.count("is approved by ines (engineer)") >= 3 and output.count("is rejected") == (code == 3)
    assert "the watch requests no retraining" in output and result["prediction"]
    status = json.loads(oncoloop("status", "--json", cwd=tmp_path / "demo").stdout)
    assert [entry["decision"] for entry in status["decisions"]][:3] == ["promoted"] * 3
    assert oncoloop("verify", cwd=tmp_path / "demo").returncode == 0


@slow
def test_the_demo_goes_on_if_no_model_may_be_released(oncoloop: Run, tmp_path: Path) -> None:
    code, result, output = run_quick_demo(oncoloop, tmp_path / "demo", "promotion.floor_auroc=1.01")
    assert code == 3 and set(result["gates"].values()) == {"fail"} and result["prediction"] is None
    assert output.count("is rejected") == 4 and "brain-mr has no model" in output and "422" not in output
