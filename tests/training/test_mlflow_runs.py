"""Runs in a real MLflow on SQLite: their content, and the search by lock hash."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from lineage.errors import Fault
from lineage.record.verdict import Outcome, Verdict
from training import mlflow_runs
from training.evaluation import evaluate

TAGS = {"lock_hash": "abc123", "data_version": "d4f5e6a7b8", "reason": "asked by hand"}
PARAMS = {"fit": {"epochs": 3, "augment": {"flip": True}}, "tasks": {"lung-ct": {"classes": ["a", "b"]}}}


@pytest.fixture
def run_id(home: Path, trained: Any) -> str:
    assert home.is_dir()
    return mlflow_runs.log_run("lung-ct", trained.evaluation, trained.models, PARAMS, TAGS)


def test_a_run_has_params_metrics_plots_and_model_files(run_id: str, trained: Any, home: Path, tmp_path: Path) -> None:
    from mlflow import MlflowClient
    from mlflow.artifacts import download_artifacts
    from mlflow.models import ModelSignature

    run = MlflowClient().get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["fit.augment.flip"] == "True"
    assert run.data.tags["lock_hash"] == "abc123"
    assert run.data.metrics["test.auroc"] == pytest.approx(trained.metrics["test"]["auroc"]["value"])
    assert run.data.metrics["test.auroc.low"] <= run.data.metrics["test.auroc"]
    hits = trained.metrics["maps"]["hits"]
    assert run.data.metrics["maps.hits"] == pytest.approx(hits["value"])
    assert run.data.metrics["maps.hits.chance"] == pytest.approx(hits["chance"])
    assert run.data.metrics["baseline.difference"] == trained.metrics["baseline"]["difference"]["value"]
    assert [file.path for file in MlflowClient().list_artifacts(run_id, "baseline")] == ["baseline/baseline.csv"]
    fitted = json.loads((trained.models / "fit.json").read_text())
    assert len(MlflowClient().get_metric_history(run_id, "epoch.val_loss")) == fitted["epochs"]
    data_set = run.inputs.dataset_inputs[0].dataset
    assert data_set.name == "d4f5e6a7b8" and "unit_id" in data_set.schema
    assert str(home) in run.info.artifact_uri
    folder = Path(download_artifacts(f"{run.info.artifact_uri}/model", dst_path=str(tmp_path / "down")))
    assert set(mlflow_runs.MODEL_FILES) | {"signature.json"} == {path.name for path in folder.iterdir()}
    assert json.loads(data_set.profile)["num_rows"] == len(pd.read_csv(folder / "predictions.csv"))
    signature = ModelSignature.from_dict(json.loads((folder / "signature.json").read_text()))
    assert signature.inputs.inputs[0].shape == (-1, 32, 32, 1)
    assert {file.path for file in MlflowClient().list_artifacts(run_id, "plots")} >= {
        "plots/roc.png",
        "plots/errors.png",
    }


def test_the_logged_folder_gives_the_same_predictions(run_id: str, trained: Any, samples: Any, tmp_path: Path) -> None:
    from mlflow.artifacts import download_artifacts

    folder = Path(download_artifacts(run_id=run_id, artifact_path="model", dst_path=str(tmp_path)))
    again = evaluate.predict_held_out(trained.units, folder, samples.TASK)
    assert list(again["score"]) == list(evaluate.read_predictions(trained.evaluation)["score"])


def test_a_run_is_found_by_its_lock_hash(run_id: str) -> None:
    assert mlflow_runs.find_run("lung-ct", "abc123") == run_id
    assert mlflow_runs.find_run("lung-ct", "other") is None
    assert mlflow_runs.find_run("brain-mr", "abc123") is None


def test_an_interrupted_run_is_not_found(home: Path, trained: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    def raise_disk_full(*_: object) -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_artifact", raise_disk_full)
        with pytest.raises(OSError, match="No space left"):
            mlflow_runs.log_run("lung-ct", trained.evaluation, trained.models, PARAMS, TAGS)
    assert mlflow_runs.find_run("lung-ct", "abc123") is None
    again = mlflow_runs.log_run("lung-ct", trained.evaluation, trained.models, PARAMS, TAGS)
    assert mlflow_runs.find_run("lung-ct", "abc123") == again
    assert not (home.parent / "mlruns").exists()


def test_a_verdict_is_logged_to_its_run(run_id: str) -> None:
    from mlflow import MlflowClient
    from mlflow.artifacts import load_dict

    verdict = Verdict("training", "lung-ct/1", Outcome.INCONCLUSIVE, ("too few clusters",), {"clusters": 7})
    mlflow_runs.log_verdict(run_id, verdict)
    run = MlflowClient().get_run(run_id)
    assert run.data.tags["verdict"] == "inconclusive"
    assert load_dict(f"{run.info.artifact_uri}/verdict.json") == verdict.to_dict()


def test_the_comparison_on_earlier_data_is_logged_as_a_table(run_id: str, samples: Any) -> None:
    import io

    import numpy as np
    import pandas as pd
    from mlflow import MlflowClient
    from mlflow.artifacts import load_text

    from training.promotion import comparison

    challenger, rival = samples.pair(60, 3, auroc=0.9, epochs=np.repeat([1, 2], 30))
    comparison_figures = comparison.compare(challenger, rival, samples.PROMOTION, "champion 3")
    mlflow_runs.log_verdict(
        run_id, Verdict("training", "lung-ct/4", Outcome.PASS, ("better",), {"champion": comparison_figures})
    )
    table = pd.read_csv(io.StringIO(load_text(f"{MlflowClient().get_run(run_id).info.artifact_uri}/earlier.csv")))
    rows = {row["on"]: row for row in table.to_dict("records")}
    assert set(table["against"]) == {"champion 3"} and set(rows) == set(comparison_figures["earlier"])
    assert rows["epoch 1"]["difference"] == pytest.approx(comparison_figures["earlier"]["epoch 1"]["difference"])


def test_a_missing_file_is_refused(home: Path, trained: Any, tmp_path: Path) -> None:
    assert home.is_dir()
    with pytest.raises(Fault, match=r"graph\.onnx is in none of"):
        mlflow_runs.log_run("lung-ct", trained.evaluation, tmp_path, PARAMS, TAGS)
    assert mlflow_runs.find_run("lung-ct", "abc123") is None
