"""The demo tells its story whatever a gate says, and its exit code says what the gates said."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from pipelines.commands import demo
from tests.pipelines.conftest import Run

WHOLE = pytest.mark.skipif(not os.environ.get("ONCOLOOP_SOAK"), reason="minutes each; .ci/run tells one quick story")
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
def test_the_exit_code_says_what_the_gates_said(
    gates: dict[str, str], challenger: str, decision: str, sham: bool, code: int
) -> None:
    told = {"subject": "b/2", "challenger": challenger, "decision": decision}
    assert demo.exit_code(gates | {"b/2": challenger}, told, sham) == code


@pytest.mark.parametrize("change", ["epochs=3", "fit.epochs", "fit.epoch=3", "no-such.key=1", "fit.epochs="])
def test_a_value_for_no_key_of_the_params_is_refused(change: str, oncoloop: Run, tmp_path: Path) -> None:
    done = oncoloop("demo", "--at", str(tmp_path / "demo"), "--set", change, cwd=tmp_path)
    assert done.returncode == 1 and "give SECTION.KEY=VALUE" in done.stderr and "Traceback" not in done.stderr


def told(oncoloop: Run, folder: Path, *changes: str) -> tuple[int, dict[str, Any], str]:
    """A quick demo: its exit code, its result, and what it showed. Every step is told, and no traceback."""
    options = [word for change in changes for word in ("--set", change)]
    done = oncoloop("demo", "--quick", "--json", "--at", str(folder), *options, cwd=folder.parent, seconds=1500)
    assert "Traceback" not in done.stderr + (folder / "demo.log").read_text(encoding="utf-8")
    shown = " ".join(done.stderr.split())
    assert [step for step in STEPS if f"{step} " not in shown] == [], done.stderr[-3000:]
    return done.returncode, json.loads(done.stdout), shown


@WHOLE
def test_what_a_gate_left_open_is_approved_by_a_person(oncoloop: Run, tmp_path: Path) -> None:
    code, result, shown = told(oncoloop, tmp_path / "demo", "promotion.min_clusters=500", "monitoring.min_clusters=500")
    first = {result["gates"][f"{name}/1"] for name, *_ in demo.FIRST}
    assert code in (3, 4) and first == {"inconclusive"}
    assert shown.count("is approved by ines (engineer)") >= 3 and shown.count("is turned down") == (code == 3)
    assert "the watch asks for no retraining" in shown and result["prediction"]
    status = json.loads(oncoloop("status", "--json", cwd=tmp_path / "demo").stdout)
    assert [entry["decision"] for entry in status["decisions"]][:3] == ["promoted"] * 3
    assert oncoloop("verify", cwd=tmp_path / "demo").returncode == 0


@WHOLE
def test_where_no_model_may_be_released_the_story_says_so_and_goes_on(oncoloop: Run, tmp_path: Path) -> None:
    code, result, shown = told(oncoloop, tmp_path / "demo", "promotion.floor_auroc=1.01")
    assert code == 3 and set(result["gates"].values()) == {"fail"} and result["prediction"] is None
    assert shown.count("is turned down") == 4 and "brain-mr has no model" in shown and "422" not in shown
