"""The chain behind a prediction, and the report of its missing links."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from lineage.audit import trace
from lineage.errors import Fault
from lineage.record import database, journal, ledger
from lineage.record.events import EventKind

Prediction = Callable[..., journal.JournalRow]

TASK = "lung-ct"


def _links(chain: trace.Chain, step: str) -> list[trace.Link]:
    return [link for link in chain.links if link.step == step]


def test_the_chain_goes_from_the_prediction_to_the_people(released: Path) -> None:
    chain = trace.trace("p-1")
    assert chain.missing == ()
    steps = list(dict.fromkeys(link.step for link in chain.links))
    assert steps == [
        "prediction",
        "release",
        "version",
        "run",
        "data",
        "batch",
        "verdict",
        "approval",
        "person",
        "ledger",
    ]
    assert _links(chain, "prediction")[0].facts["answer"] == "malignant"
    assert _links(chain, "run")[0].facts["metrics"] == {"auroc": 0.91}
    assert _links(chain, "data")[0].id == "c0ffee"
    assert _links(chain, "batch")[0].facts["units"] == 40
    assert [link.facts["outcome"] for link in _links(chain, "verdict")] == ["pass", "inconclusive", "pass"]
    approval = _links(chain, "approval")[0]
    assert (approval.who, approval.facts["reason"]) == ("erik", "few patients")
    assert {link.id: link.facts["role"] for link in _links(chain, "person")} == {
        "erik": "engineer",
        "carla": "clinician",
    }
    assert _links(chain, "ledger")[0].facts["outcome"] == "pass"


def test_the_parents_of_a_warm_start_are_in_the_chain(released: Path) -> None:
    facts = {"run_id": "r", "data_version": "c0ffee", "batches": []}
    ledger.append(EventKind.MODEL_LOGGED, TASK, {"version": "7", **facts})
    ledger.append(
        EventKind.MODEL_LOGGED, TASK, {"version": "8", **facts, "parent": f"{TASK}/7", "parent_sha256": "ab" * 32}
    )
    first_log = ledger.events(EventKind.MODEL_LOGGED, TASK)[0].payload
    second_log = first_log | {"parent": f"{TASK}/8", "parent_sha256": "cd" * 32}
    ledger.append(EventKind.MODEL_LOGGED, TASK, second_log)
    parents = _links(trace.trace("p-1"), "parent")
    assert [(link.id, link.facts["weights"][:2]) for link in parents] == [(f"{TASK}/8", "cd"), (f"{TASK}/7", "ab")]
    ledger.append(EventKind.MODEL_LOGGED, TASK, second_log | {"parent": f"{TASK}/99"})
    assert trace.trace("p-1").missing == (f"parent: the ledger does not say how {TASK}/99 was made",)


def test_a_later_label_is_part_of_the_chain(released: Path) -> None:
    row = {"prediction_id": "p-1", "label": "benign", "source": "pathology", "actor": "carla", "at": database.now()}
    database.execute(database.outcomes.insert().values(row))
    link = _links(trace.trace("p-1"), "outcome")[0]
    assert (link.id, link.who, link.facts) == ("benign", "carla", {"source": "pathology"})


def test_without_mlflow_the_other_links_are_still_found(released: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    chain = trace.trace("p-1")
    assert len(chain.missing) == 1 and chain.missing[0].startswith("run: MLflow at http://127.0.0.1:1 does not answer")
    assert _links(chain, "run")[0].facts == {"known from": "the ledger alone"}
    assert _links(chain, "batch") and _links(chain, "approval")


def test_every_missing_link_is_named(home: Path, prediction: Prediction) -> None:
    journal.append(prediction(release="r-9", version="9"))
    chain = trace.trace("p-1")
    assert [text.split(":")[0] for text in chain.missing] == [
        "release",
        "release",
        "version",
        "version",
        "run",
        "data",
        "verdict",
        "verdict",
    ]
    assert "missing" in trace.render(chain)


def test_a_batch_of_another_task_with_the_same_name_is_not_mixed_in(released: Path) -> None:
    ledger.append(EventKind.BATCH_ADMITTED, "b-1", {"task": "brain-mr", "units": 7})
    assert [link.facts["units"] for link in _links(trace.trace("p-1"), "batch")] == [40]


def test_an_unknown_prediction_is_a_fault(home: Path) -> None:
    with pytest.raises(Fault, match="no prediction 'p-9'"):
        trace.trace("p-9")


def test_the_chain_reads_as_text_and_as_json(released: Path) -> None:
    chain = trace.trace("p-1")
    text = trace.render(chain)
    assert text.splitlines()[0].startswith("prediction  p-1")
    assert "reason: few patients" in text and "by erik" in text
    assert max(map(len, text.splitlines())) < 260
    record = json.loads(json.dumps(chain.to_dict()))
    assert record["missing"] == [] and record["links"][0]["id"] == "p-1"


def test_the_subjects_of_a_release_are_its_tasks_versions_and_batches(released: Path) -> None:
    assert trace.subjects("r-1") == ["r-1", TASK, f"{TASK}/1", "b-1"]
    assert trace.subjects("r-9") == ["r-9"]
