"""The loop, turned once for real: Prefect, DVC, MLflow, Great Expectations, a served Bento and the desk."""

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
from tests.pipelines.conftest import Run, clean
from tests.pipelines.running_workspace import Ward, plant, uploads

PATIENTS, SLICES = 24, 4


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory, oncoloop: Run) -> Iterator[Ward]:
    folder = tmp_path_factory.mktemp("loop") / "ward"
    port = next(p for p in range(8600, 9600, 100) if not any(services.taken(p + n) for n in range(4)))
    ward = Ward(folder, oncoloop, port)
    assert oncoloop("init", str(folder), cwd=folder.parent).returncode == 0
    path = folder / params.NAME
    text = path.read_text(encoding="utf-8")
    path.write_text(
        re.sub(r'"[^"]* \* \*[^"]*"', '"0 0 1 1 *"', text).replace("epochs: 30", "epochs: 8"), encoding="utf-8"
    )
    ward.say("user", "add", "ines", "--role", "engineer")
    ward.say("signin", ward.say("login", "ines")["link"])
    ward.say("user", "add", "mara", "--role", "clinician")
    task = params.load(folder).tasks["brain-mr"]
    batch.write_batch(folder / "inbox" / "first", task, PATIENTS, scanner.SCANNERS["alder-mr"], 5, SLICES)
    plant(folder / "inbox" / "first", task, 5)
    samples.try_samples(folder / "try", [task])
    command = [services.program("oncoloop"), "up", "--port", str(port)]
    with (folder / "up.log").open("w") as log:
        house = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, env=clean(), start_new_session=True)
    yield ward
    house.send_signal(signal.SIGINT)
    assert house.wait(60) == 0, (folder / "up.log").read_text()[-3000:]


@pytest.fixture(scope="module")
def admitted(ward: Ward) -> dict[str, Any]:
    return dict(ward.say("ingest")["batches"][0])


@pytest.fixture(scope="module")
def killed(ward: Ward, admitted: dict[str, Any]) -> str:
    """A retraining that is killed while it fits, with everything it had started."""
    log = ward.folder / "var/logs/fit-brain-mr.log"
    command = [services.program("oncoloop"), "retrain", "--reason", "first model"]
    with (ward.folder / "killed.log").open("w") as output:
        process = subprocess.Popen(
            command, cwd=ward.folder, stdout=output, stderr=output, env=clean(), start_new_session=True
        )
    ward.until(lambda: log.is_file() and "epoch" in log.read_text())
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(10)
    return log.read_text()


@pytest.fixture(scope="module")
def trained(ward: Ward, killed: str) -> dict[str, Any]:
    """The same command again."""
    return dict(ward.say("retrain", "--reason", "first model", codes=(0, 3, 4)))


@pytest.fixture(scope="module")
def released(ward: Ward, trained: dict[str, Any]) -> dict[str, Any]:
    model = trained["models"][0]
    assert model["verdict"]["outcome"] in ("pass", "inconclusive"), model["verdict"]["reasons"]
    ward.say("approve", "brain-mr", model["version"], "--reason", "read by two, few patients")
    return dict(ward.until(lambda: ward.say("status")["live"]))


@pytest.fixture(scope="module")
def answered(ward: Ward, released: dict[str, Any]) -> dict[str, Any]:
    response = ward.post(ward.folder / "try" / "brain-mr-clear.nii.gz", "brain-mr")
    assert response.status_code == 200, response.text
    return dict(response.json())


def test_a_good_batch_is_admitted_as_a_version(ward: Ward, admitted: dict[str, Any]) -> None:
    assert admitted["verdict"]["outcome"] == "pass"
    assert Path(admitted["page"]).is_file()
    listed = ward.say("data", "list")
    assert [(row["batch"], row["units"]) for row in listed] == [("first", PATIENTS * SLICES)]
    sides = (ward.folder / "data/cohorts/brain-mr.csv").read_text().splitlines()[1:]
    assert len(sides) == PATIENTS
    assert {line.split(",")[2] for line in sides} == {"training", "validation", "test"}


def test_no_identity_of_a_patient_is_kept(ward: Ward, admitted: dict[str, Any]) -> None:
    metadata = (ward.folder / "inbox/first/metadata.csv").read_text().splitlines()
    identity = metadata[1].split(",")[1]
    assert identity.startswith("MRN")
    kept = [path for path in (ward.folder / "data").rglob("*") if path.is_file()]
    assert not [path for path in kept if identity.encode() in path.read_bytes()]


def test_the_same_batch_again_is_admitted_once(ward: Ward, admitted: dict[str, Any]) -> None:
    assert ward.say("ingest")["batches"] == []
    shutil.copytree(ward.folder / "inbox/first", ward.folder / "inbox/first-again")
    try:
        assert ward.say("ingest")["batches"] == []
    finally:
        shutil.rmtree(ward.folder / "inbox/first-again")


def test_a_killed_retraining_is_finished_by_the_same_command(ward: Ward, killed: str, trained: dict[str, Any]) -> None:
    assert "epoch" in killed
    assert [model["version"] for model in trained["models"]] == ["1"]
    assert ward.run("retrain", cwd=ward.folder).returncode == 0


def test_every_server_answers(ward: Ward) -> None:
    asked = {0: "healthz", 1: "api/health", 3: "healthz"}
    for offset, path in asked.items():
        url = f"http://127.0.0.1:{ward.port + offset}/{path}"
        assert ward.until(lambda url=url: services.answers(url)), url
    assert ward.until(lambda: services.answers_at(ward.folder / "var/run/mlflow/http.sock", "/mlflow/health"))


def test_the_first_model_is_judged_with_figures(trained: dict[str, Any]) -> None:
    model = trained["models"][0]
    assert (model["task"], model["version"]) == ("brain-mr", "1")
    assert model["decision"] == "waiting for approval"
    assert 0.5 < model["verdict"]["figures"]["auroc"]["value"] <= 1


def test_an_unchanged_retraining_changes_nothing_and_says_so(ward: Ward, released: dict[str, Any]) -> None:
    before = ward.say("status")
    done = ward.run("retrain", cwd=ward.folder)
    assert (done.returncode, done.stdout.startswith("nothing new")) == (0, True)
    after = ward.say("status")
    assert [after[name] for name in ("version", "tasks", "release")] == [
        before[name] for name in ("version", "tasks", "release")
    ]


def test_mlflow_holds_the_version_and_its_alias(ward: Ward, released: dict[str, Any]) -> None:
    code = (
        "from mlflow import MlflowClient\n"
        "found = MlflowClient().get_model_version_by_alias('brain-mr', 'champion')\n"
        "print(found.version, sorted(found.tags))"
    )
    from pipelines.servers.services import program

    environment = clean() | {"MLFLOW_TRACKING_URI": f"sqlite:///{ward.folder}/var/mlflow/mlflow.db"}
    done = subprocess.run([program("python"), "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.startswith("1 ")
    assert "lock_hash" in done.stdout


def test_prefect_shows_a_task_for_each_stage(ward: Ward, trained: dict[str, Any]) -> None:
    body = {"limit": 200}
    runs = ward.prefect("task_runs/filter", body)
    names = {run["name"].rsplit("-", 1)[0] for run in runs}
    assert {"prepare@brain-mr", "fit@brain-mr", "evaluate@brain-mr"} <= names
    kept = ward.prefect("artifacts/filter", body)
    assert {"data-first", "training-brain-mr"} <= {artifact["key"] for artifact in kept}


def test_the_deployments_are_registered(ward: Ward, admitted: dict[str, Any]) -> None:
    def names() -> set[str]:
        return {deployment["name"] for deployment in ward.prefect("deployments/filter", {})}

    assert ward.until(lambda: names() >= {"inbox", "scheduled", "asked"})


def test_prefect_plans_the_runs_of_every_cron_line(ward: Ward, admitted: dict[str, Any]) -> None:
    """Its scheduler died silently with a newer SQLAlchemy: deployments stood there, and nothing was ever due."""

    def planned() -> set[str]:
        due = {"flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}}
        runs = ward.prefect("flow_runs/filter", due)
        flows = {flow["id"]: flow["name"] for flow in ward.prefect("flows/filter", {})}
        return {flows[run["flow_id"]] for run in runs if run["auto_scheduled"]}

    assert ward.until(lambda: planned() >= {"scheduled ingest", "scheduled retrain", "scheduled watch"})


def test_the_endpoint_answers_with_a_heat_map(answered: dict[str, Any], released: dict[str, Any]) -> None:
    assert answered["task"] == "brain-mr"
    assert answered["release"] == released["release"]
    assert answered["verdict"]["outcome"] in ("pass", "inconclusive")
    assert abs(sum(answered["probabilities"].values()) - 1) < 1e-5
    assert len(answered["map"]) > 100


def test_garbage_is_refused_with_a_reason(ward: Ward, released: dict[str, Any]) -> None:
    bad = ward.folder / "bad.dcm"
    bad.write_bytes(b"not a scan at all")
    response = ward.post(bad)
    assert 400 <= response.status_code < 500
    assert "bad.dcm" in response.json()["detail"]


def test_the_command_line_gives_the_same_answer(ward: Ward, answered: dict[str, Any]) -> None:
    sample = str(ward.folder / "try" / "brain-mr-clear.nii.gz")
    told = ward.say("predict", sample, "--task", "brain-mr", codes=(0, 4))
    assert told["probabilities"] == answered["probabilities"]
    again = ward.say("replay", answered["id"], sample)
    assert again["same"]
    other = str(ward.folder / "try" / "brain-mr-equivocal.nii.gz")
    assert "are not the files" in ward.run("replay", answered["id"], other, cwd=ward.folder).stderr


@pytest.fixture(scope="module")
def named(ward: Ward, released: dict[str, Any]) -> list[str]:
    """Predictions for scans that are full of identities, by the desk and by the command line; and a refused one."""
    sent = uploads(ward.folder.parent / "sent", params.load(ward.folder).tasks["brain-mr"])
    made = [ward.post(path, "brain-mr") for path in sent]
    assert [response.status_code // 100 for response in made] == [2, 2, 4], [response.text for response in made]
    typed = [ward.say("predict", str(path), "--task", "brain-mr", codes=(0, 3, 4)) for path in sent[:2]]
    assert ward.run("predict", str(sent[2]), "--task", "brain-mr", cwd=ward.folder).returncode == 1
    return [str(answer["id"]) for answer in [*(response.json() for response in made[:2]), *typed]]


def test_an_uploaded_zip_is_answered_alike_by_desk_and_command(ward: Ward, named: list[str]) -> None:
    shown = ward.say("withdraw", planted_identities.MRN, "--reason", "which answers are of this patient")
    assert shown["predictions"] == [named[0], named[2]] and shown["batches"] == [["brain-mr", "first"]]
    assert len(set(named)) == 4


def test_a_late_label_is_kept_and_checked(ward: Ward, answered: dict[str, Any]) -> None:
    ward.say("label", answered["id"], "tumour", "--source", "pathology")
    assert "is no class of brain-mr" in ward.run("label", answered["id"], "cancer", cwd=ward.folder).stderr


def test_the_watch_says_what_is_missing(ward: Ward, answered: dict[str, Any]) -> None:
    result = ward.say("watch", codes=(4,))[0]
    assert result["verdict"]["outcome"] == "inconclusive"
    assert result["asked"] is False


def test_the_chain_behind_a_prediction_is_whole(ward: Ward, answered: dict[str, Any]) -> None:
    chain = ward.say("trace", answered["id"])
    steps = [link["step"] for link in chain["links"]]
    assert steps[0] == "prediction"
    assert {"release", "version", "run", "data"} <= {step.split()[-1] for step in steps}, steps
    assert chain["missing"] == []
    assert ward.say("verify")["outcome"] == "pass"


def test_a_backup_comes_back_whole(ward: Ward, answered: dict[str, Any], tmp_path: Path) -> None:
    ward.say("backup", str(tmp_path / "ward.tar"))
    done = ward.run("restore", str(tmp_path / "ward.tar"), str(tmp_path / "again"), "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["outcome"] == "pass", done.stderr
    status = ward.run("status", "--json", cwd=tmp_path / "again")
    assert json.loads(status.stdout)["tasks"]["brain-mr"]["champion"] == "1"
    refused = ward.run("restore", str(tmp_path / "ward.tar"), str(tmp_path / "again"), cwd=tmp_path)
    assert "is not empty" in refused.stderr


def test_changed_code_of_a_stage_makes_it_due(ward: Ward, released: dict[str, Any]) -> None:
    from pipelines.workspace import dvc

    tree = ward.folder / "var" / "worktree"
    record = json.loads((tree / "code.json").read_text())
    record["training/fitting"]["training/fitting/fit.py"] = "another hash"
    (tree / "code.json").write_text(json.dumps(record))
    assert dvc.changed(tree, ["brain-mr"]) == ["fit@brain-mr"]


def manifest_text(ward: Ward) -> str:
    return (ward.folder / "data/batches/brain-mr/first/manifest.csv").read_text()


def test_no_planted_identity_is_written_anywhere_in_the_loop(ward: Ward, named: list[str]) -> None:
    """Databases, logs, MLflow, Prefect, Evidently, pages, Bentos, git: every byte but the inbox, after all the rest."""
    secrets = tuple(
        secret for secret in planted_identities.SECRETS if secret != planted_identities.BORN
    )  # eight digits stand by chance
    inbox = ward.folder / "inbox"
    assert {s for s, _ in planted_identities.search(planted_identities.inflated_of(inbox), secrets)} >= set(secrets) - {
        "1963-07-17"
    }
    pages = list((ward.folder / "var/evidently/pages").rglob("*.html"))
    assert pages and ward.say("trace", named[0])["missing"] == []
    assert planted_identities.search(planted_identities.written(ward.folder, inbox), secrets) == set()


def test_a_withdrawn_patient_is_gone_from_data_and_cache(ward: Ward, answered: dict[str, Any]) -> None:
    manifest = manifest_text(ward).splitlines()
    columns = manifest[0].split(",")
    row = dict(zip(columns, manifest[1].split(","), strict=False))
    stored = (ward.folder / "data/batches/brain-mr/first" / row["file"]).read_bytes()
    shown = ward.say("withdraw", row["patient"], "--reason", "consent withdrawn")
    identities = {
        line.split(",")[1] for line in (ward.folder / "inbox/first/metadata.csv").read_text().splitlines()[1:]
    }
    found = [ward.say("withdraw", name, "--reason", "which one is it") for name in sorted(identities)[:2]]
    assert all(each["patient"] in manifest_text(ward) and each["patient"] not in identities for each in found)
    assert shown["batches"] == [["brain-mr", "first"]] and shown["models"] == ["brain-mr/1"]
    assert (ward.folder / "data/batches/brain-mr/first").exists()
    assert shown["releases"] and shown["inbox"] == ["inbox/first"]
    done = ward.say("withdraw", row["patient"], "--reason", "consent withdrawn", "--yes")
    assert done["left"] == []
    kept = [path for place in ("data", "var/cache", "var/remote") for path in (ward.folder / place).rglob("*")]
    assert not [path for path in kept if path.is_file() and path.read_bytes() == stored]
    assert ward.say("data", "list")[-1]["units"] == PATIENTS * SLICES - SLICES
    assert ward.say("data", "list")[0]["lost"] and not ward.say("data", "list")[-1]["lost"]
    steps = {link["step"] for link in ward.say("trace", answered["id"])["links"]}
    assert "withdrawal" in steps
    refused = ward.run("reproduce", "brain-mr", "1", cwd=ward.folder)
    assert "brain-mr/1 is not reproducible since" in refused.stderr
