"""Warm fits through the loop: the champion is pinned by itself, its weights are brought, and the record names it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from data.phantom import batch, scanner
from lineage import registry
from lineage.fingerprint import file_sha256
from lineage.record import ledger
from pipelines import params, warm_start_pins
from pipelines.flows import retrain, retrain_plan
from pipelines.models import promote, reproduce
from pipelines.workspace import dvc, git
from tests.pipelines.flows.test_atomic_admission import made_in, run

TASK = "brain-mr"
QUICK = (("epochs: 30", "epochs: 1"), ("bootstrap: 2000", "bootstrap: 200"), ("size: 128", "size: 32"))


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A workspace with quick settings, a champion that was fitted in full, and with new data a version fitted warm."""
    with made_in(tmp_path_factory.mktemp("warm") / "ward") as folder:
        write(*QUICK)
        admit("first", 60)
        assert fitted() == "1"
        promote.promote(TASK, "1", "system", "the first model")
        write(("strategy: full", "strategy: warm"), ("learning_rate: 0.0005", "learning_rate: 0.0001"))
        admit("second", 61)
        assert f"fit@{TASK}" in retrain_plan.due(TASK) and fitted() == "2"
        yield folder


def write(*changes: tuple[str, str]) -> None:
    """Change the workspace's params.yaml, as an engineer does."""
    path = Path(params.NAME)
    text = path.read_text(encoding="utf-8")
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path.write_text(text, encoding="utf-8")


def admit(name: str, seed: int) -> None:
    task = params.load().tasks[TASK]
    batch.write_batch(Path("inbox", name), task, 24, scanner.SCANNERS["alder-mr"], seed, 2)
    run(name)


def fitted() -> str:
    """What a retraining does up to the gate; the version it made."""
    tree = retrain_plan.pin()
    for stage in dvc.STAGES:
        dvc.reproduce(tree, stage, TASK)
    version = dvc.keep(tree, Path.cwd(), "Retrain")
    made, _ = retrain.challenger(tree, TASK, version, "a test")
    ledger.append(
        "verdict",
        f"{TASK}/{made}",
        {"gate": "training", "outcome": "inconclusive", "reasons": ["a test"], "figures": {}, "thresholds": {}},
    )
    return made


def pin_of(version: str) -> dict[str, str]:
    return {"version": version, "sha256": file_sha256(registry.download(TASK, version) / "weights.weights.h5")}


def test_the_record_names_the_parent_that_the_loop_pinned(ward: Path) -> None:
    first, second = (event.payload for event in ledger.events("model.logged", TASK))
    parent = pin_of("1")
    assert "parent" not in first, "a first model has none"
    assert (second["version"], second["parent"], second["parent_sha256"]) == ("2", f"{TASK}/1", parent["sha256"])
    assert registry.tags(TASK, "2")["parent"] == f"{TASK}/1"
    told = [json.loads((registry.download(TASK, version) / "fit.json").read_text()) for version in "12"]
    assert [each["strategy"] for each in told] == ["full", "warm"]
    assert [each["parent_sha256"] for each in told] == [None, parent["sha256"]]
    kept = json.loads(git.committed(warm_start_pins.PINS))
    assert kept == dict.fromkeys(params.load().tasks) | {TASK: parent}
    assert dvc.lock(ward)[f"fit@{TASK}"]["params"][warm_start_pins.PINS] == {TASK: parent}, "an input of the stage"


@pytest.mark.skipif(not os.environ.get("ONCOLOOP_SOAK"), reason="a minute: all three stages once more")
def test_a_warm_version_is_reproduced_from_its_parent(ward: Path) -> None:
    assert ward.is_dir()
    found = reproduce.reproduce(TASK, "2")
    assert found["same"] and (Path(found["folder"]) / "parents" / TASK / "fit.json").is_file()


def test_the_pin_moves_with_new_data_and_not_with_a_promotion(ward: Path) -> None:
    assert ward.is_dir()
    promote.promote(TASK, "2", "system", "better")
    assert not [what for what in retrain_plan.due(TASK) if what != "release"], (
        "a promotion alone asks for no further fit"
    )
    assert warm_start_pins.of(retrain_plan.pin(), TASK) == pin_of("1")
    admit("third", 62)
    retrain_plan.pin()
    tree = retrain_plan.pin()
    assert warm_start_pins.of(tree, TASK) == pin_of("2"), "with new data, to the champion of the day"
    assert file_sha256(tree / "parents" / TASK / "weights.weights.h5") == pin_of("2")["sha256"]
    ledger.append("patient.withdrawn", "ab" * 32, {"models": [f"{TASK}/2"], "begun": 0, "tasks": [], "ancestors": []})
    assert warm_start_pins.of(retrain_plan.pin(), TASK) is None, "nobody goes on from what a withdrawn patient taught"
    write(("strategy: warm", "strategy: full"))
    assert warm_start_pins.of(retrain_plan.pin(), TASK) is None
    assert dvc.recover(ward) == []
