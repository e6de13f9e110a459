"""Versions in a real MLflow, and their roles, which the ledger decides."""

from __future__ import annotations

from pathlib import Path

import pytest

from lineage import current_state, mlflow_registry
from lineage.errors import Fault
from lineage.record import ledger
from lineage.record.events import EventKind

TASK = "lung-ct"


def test_a_run_is_registered_once_and_its_files_are_downloaded(run_id: str, home: Path) -> None:
    version = mlflow_registry.register(TASK, run_id, "model", {"lock_hash": "abc"})
    assert mlflow_registry.register(TASK, run_id, "model", {"lock_hash": "abc"}) == version == "1"
    assert mlflow_registry.versions(TASK) == ["1"] and mlflow_registry.versions("brain-mr") == []
    assert mlflow_registry.tags(TASK, version) == {"lock_hash": "abc", "run_id": run_id}
    graph = next(mlflow_registry.download(TASK, version).rglob("graph.onnx"))
    assert graph.read_bytes() == b"graph of " + run_id.encode() and graph.is_relative_to(home)
    assert mlflow_registry.run_facts(run_id)["metrics"] == {"auroc": 0.91}
    assert {path.name for path in home.parent.iterdir()} == {"var"}, "MLflow wrote outside the state folder"


def test_what_mlflow_does_not_have_is_a_fault(mlflow_home: Path) -> None:
    with pytest.raises(Fault, match="no run 'nope'"):
        mlflow_registry.register(TASK, "nope", "model", {})
    with pytest.raises(Fault, match="no version '7'"):
        mlflow_registry.download(TASK, "7")
    with pytest.raises(Fault, match="no version '7'"):
        mlflow_registry.tags("brain-mr", "7")
    with pytest.raises(Fault, match="no run 'nope'"):
        mlflow_registry.run_facts("nope")


def test_a_server_that_is_down_is_reported_at_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    with pytest.raises(Fault, match="does not answer"):
        mlflow_registry.versions(TASK)


def test_aliases_are_set_to_the_roles_in_the_ledger(run_id: str) -> None:
    mlflow_registry.register(TASK, run_id, "model", {})
    client = mlflow_registry._client()
    client.create_model_version(TASK, client.get_model_version(TASK, "1").source)
    assert mlflow_registry.mismatches(TASK) == [], "no version has a role yet"
    mlflow_registry.promote(TASK, "1", {"reason": "first"}, actor="erik")
    mlflow_registry.promote(TASK, "2", {"reason": "better"})
    assert current_state.roles(TASK) == {"champion": "2", "previous": "1", "anchor": "1"}
    assert str(client.get_model_version_by_alias(TASK, "champion").version) == "2"
    client.set_registered_model_alias(TASK, "champion", "1")
    assert mlflow_registry.mismatches(TASK) == [f"champion of {TASK} is version 2 in the ledger but 1 in MLflow"]
    mlflow_registry.update_aliases(TASK)
    assert mlflow_registry.mismatches(TASK) == []


def test_roles_are_derived_from_the_events(home: Path) -> None:
    def roles_after(kind: str, version: str | int) -> tuple[str | None, ...]:
        ledger.append(kind, TASK, {"version": version})
        return tuple(current_state.roles(TASK)[alias] for alias in ("champion", "previous", "anchor"))

    assert current_state.roles(TASK) == {"champion": None, "previous": None, "anchor": None}
    assert roles_after("model.logged", 1) == (None, None, None)
    assert roles_after("model.promoted", 1) == ("1", None, "1")
    assert roles_after("model.rejected", 2) == ("1", None, "1")
    assert roles_after("model.promoted", "3") == ("3", "1", "1")
    assert roles_after("model.rolled-back", "1") == ("1", "3", "1")
    assert roles_after("model.rolled-back", "1") == ("1", "3", "1"), "a repeated roll-back changes nothing"
    assert roles_after("anchor.set", "3") == ("1", "3", "3")
    assert current_state.roles("brain-mr")["champion"] is None


def test_a_promotion_and_the_first_anchor_are_recorded(run_id: str) -> None:
    mlflow_registry.register(TASK, run_id, "model", {})
    mlflow_registry.promote(TASK, "1", {"run_id": run_id}, actor="erik")
    assert [(event.kind, event.actor) for event in ledger.events(subject=TASK)] == [
        ("model.promoted", "erik"),
        ("anchor.set", "erik"),
    ]
    assert ledger.events(EventKind.MODEL_PROMOTED)[0].payload == {"run_id": run_id, "version": "1"}
