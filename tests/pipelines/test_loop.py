"""One run of the whole loop with Prefect, DVC, MLflow, Great Expectations, a served Bento and the desk."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from data.phantom import batch, samples, scanner
from pipelines import params
from pipelines.servers import services
from tests.pipelines import planted_identities
from tests.pipelines.conftest import Run, clean_environment
from tests.pipelines.running_workspace import RunningWorkspace, plant, uploads

PATIENTS, SLICES = 24, 4


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, oncoloop: Run) -> Iterator[RunningWorkspace]:
    folder = tmp_path_factory.mktemp("loop") / "ward"
    port = next(p for p in range(8600, 9600, 100) if not any(services.is_port_in_use(p + n) for n in range(4)))
    running = RunningWorkspace(folder, oncoloop, port)
    assert oncoloop("init", str(folder), cwd=folder.parent).returncode == 0
    path = folder / params.NAME
    text = path.read_text(encoding="utf-8")
    path.write_text(
        re.sub(r'"[^"]* \* \*[^"]*"', '"0 0 1 1 *"', text).replace("epochs: 30", "epochs: 8"), encoding="utf-8"
    )
    running.run_json("user", "add", "ines", "--role", "engineer")
    running.run_json("signin", running.run_json("login", "ines")["link"])
    running.run_json("user", "add", "mara", "--role", "clinician")
    task = params.load(folder).tasks["brain-mr"]
    batch.write_batch(folder / "inbox" / "first", task, PATIENTS, scanner.SCANNERS["alder-mr"], 5, SLICES)
    plant(folder / "inbox" / "first", task, 5)
    samples.try_samples(folder / "try", [task])
    command = [services.program("oncoloop"), "up", "--port", str(port)]
    with (folder / "up.log").open("w") as log:
        up_process = subprocess.Popen(
            command, cwd=folder, stdout=log, stderr=log, env=clean_environment(), start_new_session=True
        )
    yield running
    up_process.send_signal(signal.SIGINT)
    assert up_process.wait(60) == 0, (folder / "up.log").read_text()[-3000:]


@pytest.fixture(scope="module")
def admitted(running: RunningWorkspace) -> dict[str, Any]:
    return dict(running.run_json("ingest")["batches"][0])


@pytest.fixture(scope="module")
def killed_fit_log(running: RunningWorkspace, admitted: dict[str, Any]) -> str:
    """The log of a retraining that is killed during its fit, with all its processes."""
    log = running.folder / "var/logs/fit-brain-mr.log"
    command = [services.program("oncoloop"), "retrain", "--reason", "first model"]
    with (running.folder / "killed.log").open("w") as output:
        process = subprocess.Popen(
            command, cwd=running.folder, stdout=output, stderr=output, env=clean_environment(), start_new_session=True
        )
    running.wait_for(lambda: log.is_file() and "epoch" in log.read_text())
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(10)
    return log.read_text()


@pytest.fixture(scope="module")
def trained(running: RunningWorkspace, killed_fit_log: str) -> dict[str, Any]:
    """The result of the same command, run again."""
    return dict(running.run_json("retrain", "--reason", "first model", codes=(0, 3, 4)))


@pytest.fixture(scope="module")
def released(running: RunningWorkspace, trained: dict[str, Any]) -> dict[str, Any]:
    model = trained["models"][0]
    assert model["verdict"]["outcome"] in ("pass", "inconclusive"), model["verdict"]["reasons"]
    running.run_json("approve", "brain-mr", model["version"], "--reason", "read by two, few patients")
    return dict(running.wait_for(lambda: running.run_json("status")["live"]))


@pytest.fixture(scope="module")
def answer(running: RunningWorkspace, released: dict[str, Any]) -> dict[str, Any]:
    response = running.post(running.folder / "try" / "brain-mr-clear.nii.gz", "brain-mr")
    assert response.status_code == 200, response.text
    return dict(response.json())


def test_a_good_batch_is_admitted_as_a_version(running: RunningWorkspace, admitted: dict[str, Any]) -> None:
    assert admitted["verdict"]["outcome"] == "pass"
    assert Path(admitted["page"]).is_file()
    versions = running.run_json("data", "list")
    assert [(row["batch"], row["units"]) for row in versions] == [("first", PATIENTS * SLICES)]
    cohort_rows = (running.folder / "data/cohorts/brain-mr.csv").read_text().splitlines()[1:]
    assert len(cohort_rows) == PATIENTS
    assert {line.split(",")[2] for line in cohort_rows} == {"training", "validation", "test"}


def test_no_identity_of_a_patient_is_stored(running: RunningWorkspace, admitted: dict[str, Any]) -> None:
    metadata = (running.folder / "inbox/first/metadata.csv").read_text().splitlines()
    identity = metadata[1].split(",")[1]
    assert identity.startswith("MRN")
    files = [path for path in (running.folder / "data").rglob("*") if path.is_file()]
    assert not [path for path in files if identity.encode() in path.read_bytes()]


def test_the_same_batch_again_is_admitted_once(running: RunningWorkspace, admitted: dict[str, Any]) -> None:
    assert running.run_json("ingest")["batches"] == []
    shutil.copytree(running.folder / "inbox/first", running.folder / "inbox/first-again")
    try:
        assert running.run_json("ingest")["batches"] == []
    finally:
        shutil.rmtree(running.folder / "inbox/first-again")


def test_a_killed_retraining_is_finished_by_the_same_command(
    running: RunningWorkspace, killed_fit_log: str, trained: dict[str, Any]
) -> None:
    assert "epoch" in killed_fit_log
    assert [model["version"] for model in trained["models"]] == ["1"]
    assert running.run("retrain", cwd=running.folder).returncode == 0


def test_every_server_answers(running: RunningWorkspace) -> None:
    health_paths = {0: "healthz", 1: "api/health", 3: "healthz"}
    for offset, path in health_paths.items():
        url = f"http://127.0.0.1:{running.port + offset}/{path}"
        assert running.wait_for(lambda url=url: services.answers(url)), url
    assert running.wait_for(lambda: services.answers_at(running.folder / "var/run/mlflow/http.sock", "/mlflow/health"))


def test_the_first_model_is_judged_with_figures(trained: dict[str, Any]) -> None:
    model = trained["models"][0]
    assert (model["task"], model["version"]) == ("brain-mr", "1")
    assert model["decision"] == "waiting for approval"
    assert 0.5 < model["verdict"]["figures"]["auroc"]["value"] <= 1


def test_a_retraining_without_new_inputs_changes_nothing(running: RunningWorkspace, released: dict[str, Any]) -> None:
    status_before = running.run_json("status")
    process = running.run("retrain", cwd=running.folder)
    assert (process.returncode, process.stdout.startswith("nothing new")) == (0, True)
    status_after = running.run_json("status")
    assert [status_after[name] for name in ("version", "tasks", "release")] == [
        status_before[name] for name in ("version", "tasks", "release")
    ]


def test_mlflow_has_the_version_and_its_alias(running: RunningWorkspace, released: dict[str, Any]) -> None:
    code = (
        "from mlflow import MlflowClient\n"
        "version = MlflowClient().get_model_version_by_alias('brain-mr', 'champion')\n"
        "print(version.version, sorted(version.tags))"
    )
    from pipelines.servers.services import program

    environment = clean_environment() | {"MLFLOW_TRACKING_URI": f"sqlite:///{running.folder}/var/mlflow/mlflow.db"}
    process = subprocess.run(
        [program("python"), "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert process.stdout.startswith("1 ")
    assert "lock_hash" in process.stdout


def test_prefect_shows_a_task_for_each_stage(running: RunningWorkspace, trained: dict[str, Any]) -> None:
    body = {"limit": 200}
    runs = running.prefect("task_runs/filter", body)
    names = {run["name"].rsplit("-", 1)[0] for run in runs}
    assert {"prepare@brain-mr", "fit@brain-mr", "evaluate@brain-mr"} <= names
    artifacts = running.prefect("artifacts/filter", body)
    assert {"data-first", "training-brain-mr"} <= {artifact["key"] for artifact in artifacts}


def test_the_deployments_are_registered(running: RunningWorkspace, admitted: dict[str, Any]) -> None:
    def names() -> set[str]:
        return {deployment["name"] for deployment in running.prefect("deployments/filter", {})}

    assert running.wait_for(lambda: names() >= {"inbox", "scheduled", "asked"})


def test_prefect_schedules_the_runs_of_every_cron_line(running: RunningWorkspace, admitted: dict[str, Any]) -> None:
    """With a newer SQLAlchemy, the scheduler failed silently: deployments existed, but no run was ever due."""

    def planned() -> set[str]:
        due = {"flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}}
        runs = running.prefect("flow_runs/filter", due)
        flows = {flow["id"]: flow["name"] for flow in running.prefect("flows/filter", {})}
        return {flows[run["flow_id"]] for run in runs if run["auto_scheduled"]}

    assert running.wait_for(lambda: planned() >= {"scheduled ingest", "scheduled retrain", "scheduled watch"})


def test_the_endpoint_answers_with_a_heat_map(answer: dict[str, Any], released: dict[str, Any]) -> None:
    assert answer["task"] == "brain-mr"
    assert answer["release"] == released["release"]
    assert answer["verdict"]["outcome"] in ("pass", "inconclusive")
    assert abs(sum(answer["probabilities"].values()) - 1) < 1e-5
    assert len(answer["map"]) > 100


def test_an_upload_that_is_no_scan_is_refused_with_a_reason(
    running: RunningWorkspace, released: dict[str, Any]
) -> None:
    bad = running.folder / "bad.dcm"
    bad.write_bytes(b"not a scan at all")
    response = running.post(bad)
    assert 400 <= response.status_code < 500
    assert "bad.dcm" in response.json()["detail"]


def test_the_command_line_gives_the_same_answer(running: RunningWorkspace, answer: dict[str, Any]) -> None:
    sample = str(running.folder / "try" / "brain-mr-clear.nii.gz")
    prediction = running.run_json("predict", sample, "--task", "brain-mr", codes=(0, 4))
    assert prediction["probabilities"] == answer["probabilities"]
    repeated = running.run_json("replay", answer["id"], sample)
    assert repeated["same"]
    other_sample = str(running.folder / "try" / "brain-mr-equivocal.nii.gz")
    assert "are not the files" in running.run("replay", answer["id"], other_sample, cwd=running.folder).stderr


@pytest.fixture(scope="module")
def identity_predictions(running: RunningWorkspace, released: dict[str, Any]) -> list[str]:
    """Ids of predictions for scans full of identities, by desk and command line; a third upload is refused."""
    scans = uploads(running.folder.parent / "sent", params.load(running.folder).tasks["brain-mr"])
    responses = [running.post(path, "brain-mr") for path in scans]
    assert [response.status_code // 100 for response in responses] == [2, 2, 4], [
        response.text for response in responses
    ]
    predictions = [running.run_json("predict", str(path), "--task", "brain-mr", codes=(0, 3, 4)) for path in scans[:2]]
    assert running.run("predict", str(scans[2]), "--task", "brain-mr", cwd=running.folder).returncode == 1
    return [str(answer["id"]) for answer in [*(response.json() for response in responses[:2]), *predictions]]


def test_desk_and_command_record_the_same_patient_for_a_zip(
    running: RunningWorkspace, identity_predictions: list[str]
) -> None:
    location = running.run_json("withdraw", planted_identities.MRN, "--reason", "which predictions are of this patient")
    assert location["predictions"] == [identity_predictions[0], identity_predictions[2]] and location["batches"] == [
        ["brain-mr", "first"]
    ]
    assert len(set(identity_predictions)) == 4


def test_a_late_label_is_stored_and_checked(running: RunningWorkspace, answer: dict[str, Any]) -> None:
    running.run_json("label", answer["id"], "tumour", "--source", "pathology")
    assert "is no class of brain-mr" in running.run("label", answer["id"], "cancer", cwd=running.folder).stderr


def test_the_watch_is_inconclusive_with_few_patients(running: RunningWorkspace, answer: dict[str, Any]) -> None:
    result = running.run_json("watch", codes=(4,))[0]
    assert result["verdict"]["outcome"] == "inconclusive"
    assert result["asked"] is False


def test_the_trace_of_a_prediction_is_complete(running: RunningWorkspace, answer: dict[str, Any]) -> None:
    chain = running.run_json("trace", answer["id"])
    steps = [link["step"] for link in chain["links"]]
    assert steps[0] == "prediction"
    assert {"release", "version", "run", "data"} <= {step.split()[-1] for step in steps}, steps
    assert chain["missing"] == []
    assert running.run_json("verify")["outcome"] == "pass"


def test_a_backup_is_restored_completely(running: RunningWorkspace, answer: dict[str, Any], tmp_path: Path) -> None:
    running.run_json("backup", str(tmp_path / "ward.tar"))
    process = running.run("restore", str(tmp_path / "ward.tar"), str(tmp_path / "again"), "--json", cwd=tmp_path)
    assert json.loads(process.stdout)["outcome"] == "pass", process.stderr
    status = running.run("status", "--json", cwd=tmp_path / "again")
    assert json.loads(status.stdout)["tasks"]["brain-mr"]["champion"] == "1"
    refused = running.run("restore", str(tmp_path / "ward.tar"), str(tmp_path / "again"), cwd=tmp_path)
    assert "is not empty" in refused.stderr


def test_changed_code_of_a_stage_makes_it_due(running: RunningWorkspace, released: dict[str, Any]) -> None:
    from pipelines.workspace import dvc

    tree = running.folder / "var" / "worktree"
    record = json.loads((tree / "code.json").read_text())
    record["training/fitting"]["training/fitting/fit.py"] = "another hash"
    (tree / "code.json").write_text(json.dumps(record))
    assert dvc.changed_stages(tree, ["brain-mr"]) == ["fit@brain-mr"]


def manifest_text(running: RunningWorkspace) -> str:
    return (running.folder / "data/batches/brain-mr/first/manifest.csv").read_text()


def test_no_planted_identity_is_written_anywhere_in_the_loop(
    running: RunningWorkspace, identity_predictions: list[str]
) -> None:
    """Searches every byte except the inbox: databases, logs, MLflow, Prefect, Evidently, pages, Bentos, git."""
    secrets = tuple(
        secret for secret in planted_identities.SECRETS if secret != planted_identities.BORN
    )  # eight digits may occur by chance
    inbox = running.folder / "inbox"
    assert {s for s, _ in planted_identities.search(planted_identities.unpacked_files_below(inbox), secrets)} >= set(
        secrets
    ) - {"1963-07-17"}
    pages = list((running.folder / "var/evidently/pages").rglob("*.html"))
    assert pages and running.run_json("trace", identity_predictions[0])["missing"] == []
    assert planted_identities.search(planted_identities.files_below(running.folder, inbox), secrets) == set()


def test_a_withdrawn_patient_is_removed_from_data_and_cache(running: RunningWorkspace, answer: dict[str, Any]) -> None:
    manifest = manifest_text(running).splitlines()
    columns = manifest[0].split(",")
    row = dict(zip(columns, manifest[1].split(","), strict=False))
    content = (running.folder / "data/batches/brain-mr/first" / row["file"]).read_bytes()
    location = running.run_json("withdraw", row["patient"], "--reason", "consent withdrawn")
    identities = {
        line.split(",")[1] for line in (running.folder / "inbox/first/metadata.csv").read_text().splitlines()[1:]
    }
    locations = [running.run_json("withdraw", name, "--reason", "which one is it") for name in sorted(identities)[:2]]
    assert all(entry["patient"] in manifest_text(running) and entry["patient"] not in identities for entry in locations)
    assert location["batches"] == [["brain-mr", "first"]] and location["models"] == ["brain-mr/1"]
    assert (running.folder / "data/batches/brain-mr/first").exists()
    assert location["releases"] and location["inbox"] == ["inbox/first"]
    withdrawal = running.run_json("withdraw", row["patient"], "--reason", "consent withdrawn", "--yes")
    assert withdrawal["left"] == []
    files = [path for place in ("data", "var/cache", "var/remote") for path in (running.folder / place).rglob("*")]
    assert not [path for path in files if path.is_file() and path.read_bytes() == content]
    assert running.run_json("data", "list")[-1]["units"] == PATIENTS * SLICES - SLICES
    assert running.run_json("data", "list")[0]["lost"] and not running.run_json("data", "list")[-1]["lost"]
    steps = {link["step"] for link in running.run_json("trace", answer["id"])["links"]}
    assert "withdrawal" in steps
    refused = running.run("reproduce", "brain-mr", "1", cwd=running.folder)
    assert "brain-mr/1 is not reproducible since" in refused.stderr
