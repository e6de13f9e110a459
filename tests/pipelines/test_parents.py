"""Warm fits through the loop: the champion is pinned by itself, its weights are brought, and the record names it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from data import phantom
from lineage import ledger, registry
from lineage.fingerprint import file_sha256
from pipelines import again, news, params, parents, promote, repro, retrain
from tests.pipelines.test_admission import made_in, run

TASK = "brain-mr"
QUICK = (("epochs: 30", "epochs: 1"), ("bootstrap: 2000", "bootstrap: 200"), ("size: 128", "size: 32"))


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A workspace with quick settings, one admitted batch, and its model, fitted in full, as the champion."""
    with made_in(tmp_path_factory.mktemp("warm") / "ward") as folder:
        write(*QUICK)
        admit("first", 60)
        assert fitted() == "1"
        promote.promote(TASK, "1", "system", "the first model")
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
    phantom.write_batch(Path("inbox", name), task, 24, phantom.SCANNERS["alder-mr"], seed, 2)
    run(name)


def fitted() -> str:
    """What a retraining does up to the gate; the version it made."""
    tree = news.pin()
    for stage in repro.STAGES:
        repro.reproduce(tree, stage, TASK)
    version = repro.keep(tree, Path.cwd(), "Retrain")
    made, _ = retrain.challenger(tree, TASK, version, "a test")
    ledger.append("verdict", f"{TASK}/{made}", {"gate": "training", "outcome": "inconclusive", "reasons": ["a test"],
                                                "figures": {}, "thresholds": {}})  # fmt: skip
    return made


def test_an_engineer_sets_the_strategy_and_the_loop_does_the_rest(ward: Path) -> None:
    assert json.loads(Path(parents.PINS).read_text()) == dict.fromkeys(params.load().tasks)
    assert "parent" not in ledger.events("model.logged", TASK)[-1].payload, "a first model has none"
    write(("strategy: full", "strategy: warm"), ("learning_rate: 0.0005", "learning_rate: 0.0001"))
    admit("second", 61)
    assert f"fit@{TASK}" in news.due(TASK) and fitted() == "2"

    weights = file_sha256(registry.download(TASK, "1") / "weights.weights.h5")
    kept = json.loads(repro.committed(parents.PINS))
    assert kept[TASK] == {"version": "1", "sha256": weights} and kept["lung-ct"] is None
    told = json.loads((registry.download(TASK, "2") / "fit.json").read_text())
    assert (told["strategy"], told["parent_sha256"]) == ("warm", weights)
    logged = ledger.events("model.logged", TASK)[-1].payload
    assert (logged["version"], logged["parent"], logged["parent_sha256"]) == ("2", f"{TASK}/1", weights)
    assert registry.tags(TASK, "2")["parent"] == f"{TASK}/1"
    locked = repro.lock(ward)[f"fit@{TASK}"]["params"]
    assert locked[parents.PINS] == {TASK: kept[TASK]}, "the pinned weights are an input of the stage"

    promote.promote(TASK, "2", "system", "better")
    assert not [what for what in news.due(TASK) if what != "release"], "a promotion alone asks for no further fit"
    again_ = again.reproduce(TASK, "2")
    assert again_["same"] and (Path(again_["folder"]) / "parents" / TASK / "fit.json").is_file()

    admit("third", 62)
    news.pin()
    tree = news.pin()
    assert parents.of(tree, TASK) == {
        "version": "2", "sha256": file_sha256(registry.download(TASK, "2") / "weights.weights.h5")
    }, "with new data the pin moves to the champion of the day"  # fmt: skip

    ledger.append("patient.withdrawn", "ab" * 32, {"models": [f"{TASK}/2"], "begun": 0, "tasks": [], "ancestors": []})
    assert parents.of(news.pin(), TASK) is None, "nobody goes on from what a withdrawn patient taught"
    write(("strategy: warm", "strategy: full"))
    assert parents.of(news.pin(), TASK) is None
