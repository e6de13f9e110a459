"""After a withdrawal, a search of every byte finds no scan, no shard and no name of the patient."""

from __future__ import annotations

import argparse
import dataclasses
import gc
import gzip
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sqlalchemy import Engine

from data.batch import label_corrections, lesion_grid, manifest, metadata_table, withdrawn_rows
from data.core_types import Task
from data.dataset import shards
from data.phantom import batch as phantom_batch
from data.phantom import scanner
from data.quality import suite
from data.scan.slice_features import DESCRIPTION
from lineage import current_state as lineage_state
from lineage import json_files, keys, mlflow_registry, model_files, paths
from lineage.audit import evidence, trace
from lineage.errors import Fault
from lineage.fingerprint import hash_folder
from lineage.record import database, journal, ledger, outbox
from lineage.record.events import EventKind
from lineage.record.verdict import Outcome, Verdict
from monitoring import evidently_report, window
from monitoring import reference as references
from pipelines import dvc_stages, params
from pipelines.commands import withdrawal as command
from pipelines.flows import ingest, ingest_corrections
from pipelines.recovery import interrupted_runs
from pipelines.withdrawal import erase, locate, verify_erased, withdraw
from pipelines.workspace import code_snapshot, dvc, git
from tests.pipelines.admissions import new_workspace_in, run_admission, run_in_child
from training.evaluation import evaluate, plots, reference_set

TASK = "brain-mr"


@dataclass(frozen=True)
class PatientWorkspace:
    """A workspace with data of a patient in every place, and the data that must not remain afterwards."""

    folder: Path
    copy: Path
    identity: str
    patient: str
    scans: frozenset[str]
    pixels: list[bytes]
    numbers: list[bytes]
    units: frozenset[str]

    def restore(self) -> None:
        os.chdir(self.copy)
        for engine in [instance for instance in gc.get_objects() if isinstance(instance, Engine)]:
            engine.dispose()  # ours and MLflow's: their files are replaced
        shutil.rmtree(self.folder)
        shutil.copytree(self.copy, self.folder, symlinks=True)
        os.chdir(self.folder)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PatientWorkspace]:
    """A workspace that is created once, and copied back before each test."""
    with new_workspace_in(tmp_path_factory.mktemp("withdrawal") / "ward") as folder:
        yield fill_workspace(folder)


@pytest.fixture
def workspace(prepared: PatientWorkspace) -> PatientWorkspace:
    prepared.restore()
    return prepared


def fill_workspace(folder: Path) -> PatientWorkspace:
    """Two batches, one with corrections, a refused one, shards, a model, a release, predictions, all kinds of pages."""
    task = params.load().tasks[TASK]
    for seed, name in ((50, "first"), (51, "second")):
        phantom_batch.write_batch(Path("inbox", name), task, 6, scanner.SCANNERS["alder-mr"], seed, 2, masks=True)
        run_admission(name)
    table = manifest.read_manifest(Path("data/batches", TASK, "first", "manifest.csv"))
    sides = pd.read_csv(Path("data/cohorts", f"{TASK}.csv"), dtype=str).set_index("cluster")["side"]
    test_patient = next(name for name in table["patient"] if sides[withdrawn_rows.hash_pseudonym(name)] == "test")
    admit_corrections(table, test_patient)
    identities = {row["patient_id"] for row in manifest.read_metadata(Path("inbox/first")).to_dict("records")}
    refuse_batch(table)
    worktree = dvc.worktree(git.head())
    code_snapshot.write_code_snapshot(worktree)
    dvc.reproduce(worktree, "prepare", TASK)
    version = dvc.commit_products(worktree, folder, "Prepare")
    units = shards.load_units(worktree / "data/processed" / TASK)
    register_model(units, version)
    numbers = predict_and_watch(test_patient)
    evidence.write("r1", paths.state_path("releases", "x").parent)
    is_patient = (units.table["cluster"] == test_patient).to_numpy()
    copy = folder.with_name("kept")
    database.engine().dispose()
    shutil.copytree(folder, copy, symlinks=True)
    identity = next(name for name in identities if keys.pseudonym(name) == test_patient)
    scans = frozenset(table.loc[table["patient"] == test_patient, "stored_sha256"])
    pixels = [row.tobytes() for row in units.pixels[is_patient]]
    unit_ids = frozenset(units.table.loc[is_patient, "unit_id"])
    return PatientWorkspace(folder, copy, identity, test_patient, scans, pixels, numbers, unit_ids)


def admit_corrections(table: pd.DataFrame, patient: str) -> None:
    """Admit a batch that corrects one label of the patient and one of another patient."""
    units = [table[table["patient"] == patient].iloc[0], table[table["patient"] != patient].iloc[0]]
    task = params.load().tasks[TASK]
    rows = [
        f"{metadata_table.HASH_PREFIX}{unit['sha256']},,{TASK},{other_label(unit['label'], task)},"
        f"dr-b,2026-06-01T09:00:00Z,pathology,"
        f"{int(unit['slice'])}"
        for unit in units
    ]
    heading = "file_name,patient_id,task,label,labeller,labelled_at,truth,slice"
    Path("inbox/fix").mkdir()
    Path("inbox/fix/metadata.csv").write_text("\n".join([heading, *rows]) + "\n", encoding="utf-8")
    batch = ingest.read_incoming_batch(Path("inbox/fix"))
    verdict, corrections, _ = ingest_corrections.examine_corrections(batch, params.load().ingest)
    assert (verdict.outcome, len(corrections)) == (Outcome.PASS, 2), verdict.reasons
    ingest.admit_batch.fn(batch, corrections, ingest.record_arrival(batch))


def other_label(label: str, task: Task) -> str:
    return next(name for name in task.classes if name != label)


def predict_and_watch(patient: str) -> list[bytes]:
    """Journal predictions for the patient and for others, and put a window of them on Evidently's pages.

    Returns the patient's numbers as they are written there.
    """
    random, settings = np.random.default_rng(6), params.load()
    descriptions = [dict(zip(DESCRIPTION, random.random(len(DESCRIPTION)).tolist(), strict=True)) for _ in range(4)]
    for number, description in enumerate(descriptions, start=1):
        journal.append(prediction(patient if number == 1 else f"P00000000000{number}", f"p{number}", description))
    reference, current = references.read(mlflow_registry.download(TASK, "1")), window.read_window(TASK)
    evidently_report.report_drift(
        reference, current, settings.monitoring, paths.state_path("evidently"), settings.tasks[TASK]
    )
    return [repr(value).encode() for value in descriptions[0].values()]


def refuse_batch(table: pd.DataFrame) -> None:
    """Quarantine the first batch under another name. Its validation page names failing units."""
    batch = dataclasses.replace(ingest.read_incoming_batch(Path("inbox/first")), name="third")
    manifest.index_incoming(batch, ingest.staging_folder("third"))
    ingest.quarantine_batch(batch, Verdict("data", "third", Outcome.FAIL, ("refused",)))
    suite.validate(table.assign(label="?"), batch.task, params.load().ingest, paths.state_path("gx"), "third")


def register_model(units: shards.Units, version: str) -> None:
    """Register a version with artefacts of the real evaluation over random logits, and a release with it."""
    import mlflow

    task, random = params.load().tasks[TASK], np.random.default_rng(5)
    held_out = units.where(units.table["side"] != "training")
    logits = random.normal(size=(len(held_out.table), 2)).astype(np.float32)
    features = random.random((len(held_out.table), 4, 4, 3)).astype(np.float32)
    predictions = evaluate.judge(held_out.table, logits, 1.0, 0.5, task)
    folder = Path("var/tmp-model")
    folder.mkdir()
    predictions.to_csv(folder / "predictions.csv", index=False)
    reference_set.write(folder, held_out, predictions, features)
    json_files.write_json(folder / "metrics.json", {"task": TASK})
    weights = random.random((3, 2)).astype(np.float32)
    plots.plot_errors(folder / "errors.png", predictions, held_out.pixels, features, weights, task)
    client = mlflow.MlflowClient()
    run_id = client.create_run(client.create_experiment(TASK)).info.run_id
    for name in ("predictions.csv", "reference.csv", "reference.npz", "metrics.json"):
        client.log_artifact(run_id, str(folder / name), "model")
    client.log_artifact(run_id, str(folder / "errors.png"), "plots")
    number = mlflow_registry.register(TASK, run_id, "model", {"data_version": version})
    mlflow_registry.download(TASK, number)
    release = paths.state_path("releases", "r1", TASK, "reference.npz")
    release.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(folder / "reference.npz", release)
    shutil.rmtree(folder)
    facts = {"version": number, "run_id": run_id, "batches": ["first", "second"], "data_version": version}
    ledger.append(EventKind.MODEL_LOGGED, TASK, facts)
    ledger.append(EventKind.RELEASE_BUILT, "r1", {"tasks": {TASK: number}})


def prediction(cluster: str, name: str, description: dict[str, float]) -> journal.JournalRow:
    return journal.JournalRow(
        id=name,
        at=database.now(),
        actor="mara",
        release="r1",
        task=TASK,
        version="1",
        cluster=cluster,
        inputs=["0" * 64],
        description=description,
        embedding=[0.0],
        probabilities=[0.5, 0.5],
        answer=None,
        score=0.5,
        outcome="pass",
        reasons=[],
        slices=[],
        map="",
        engine={},
        duration_ms=1.0,
    )


def searched_files(folder: Path) -> list[Path]:
    user_folders = ("inbox", "try")
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [path for path in files if path.relative_to(folder).parts[0] not in user_folders]


def find_remains(workspace: PatientWorkspace) -> dict[str, list[str]]:
    """The test's own search, in git's objects too.

    It looks for stored scans, rows of shards (float32), masks, numbers of a prediction outside the journal, and for
    pseudonym and identity as UTF-8 and as NumPy's UTF-32.
    """
    remains: dict[str, list[str]] = {"scan": [], "pixels": [], "name": [], "number": [], "mask": []}
    names = [name.encode(code) for name in (workspace.patient, workspace.identity) for code in ("utf-8", "utf-32-le")]
    for path in searched_files(workspace.folder):
        content, file_name = path.read_bytes(), str(path.relative_to(workspace.folder))
        if sha256(content).hexdigest() in workspace.scans:
            remains["scan"].append(file_name)
        if any(row in content for row in workspace.pixels):
            remains["pixels"].append(file_name)
        if any(name in content for name in names):
            remains["name"].append(file_name)
        if path.name != "oncoloop.db" and any(number in content for number in workspace.numbers):
            remains["number"].append(file_name)
        if content.startswith(b"PK") and b"shares.npy" in content and workspace.units & set(np.load(path)["units"]):
            remains["mask"].append(file_name)
    command = ["git", "cat-file", "--batch-all-objects", "--batch"]
    history = subprocess.run(command, cwd=workspace.folder, capture_output=True, check=True).stdout
    assert f"{withdrawn_rows.hash_pseudonym(workspace.patient)},test".encode() in history, (
        "the search reads old commits"
    )
    remains["name"] += [".git"] * any(name in history for name in names)
    return remains


def test_every_place_is_located_and_then_erased(workspace: PatientWorkspace) -> None:
    before = find_remains(workspace)
    for kind, place in (
        ("scan", f"data/batches/{TASK}/first"),
        ("scan", "data/quarantine/third"),
        ("scan", "var/cache"),
        ("scan", "var/remote"),
        ("scan", "var/worktree"),
        ("pixels", "var/cache"),
        ("pixels", "var/remote"),
        ("pixels", "var/worktree"),
        ("name", "var/mlflow/artifacts"),
        ("name", "var/mlflow/downloads"),
        ("name", "var/releases"),
        ("name", f"data/batches/{TASK}/fix"),
        ("number", "var/evidently/pages"),
        ("number", "var/evidently/"),
        ("mask", f"data/batches/{TASK}/first"),
        ("mask", "var/cache"),
        ("mask", "var/remote"),
        ("mask", "var/worktree"),
    ):
        assert any(name.startswith(place) for name in before[kind]), (kind, place)
    assert not [name for name in before["name"] if name.startswith(("var/oncoloop.db", "data/cohorts", ".git"))]
    records = locate.locate_patient(workspace.identity)
    assert (records.patient, records.batches) == (workspace.patient, [(TASK, "first"), (TASK, "fix")])
    assert (records.models, records.releases, records.predictions) == ([f"{TASK}/1"], ["r1"], ["p1"])
    assert (records.answered, records.quarantined, records.inbox) == ([TASK], ["third"], ["inbox/first", "inbox/fix"])
    assert len(records.versions) == 4
    assert locate.locate_patient(workspace.patient) == records
    scans_of_others = {path.name for path in Path("data/batches", TASK, "second/scans").glob("*")}
    completed = withdraw.withdraw(records, "consent withdrawn", workspace.identity)
    assert completed.payload["left"] == []
    assert_erased(workspace)
    assert_other_correction_remains(workspace)
    assert {path.name for path in Path("data/batches", TASK, "second/scans").glob("*")} == scans_of_others
    assert_recorded_everywhere(workspace, records, completed)


def assert_erased(workspace: PatientWorkspace) -> None:
    assert find_remains(workspace) == {"scan": [], "pixels": [], "name": [], "number": [], "mask": []}
    assert len(list(paths.home().glob("evidently/*/snapshots/*.json"))) == 1
    successor = manifest.read_manifest(Path("data/batches", TASK, "first-w1", "manifest.csv"))
    assert len(successor) == 10 and workspace.patient not in set(successor["patient"])
    masks = lesion_grid.read_grids(Path("data/batches", TASK, "first-w1", lesion_grid.NAME))
    assert list(masks) == successor["unit_id"].tolist()
    table = pd.read_csv(Path("data/cohorts", f"{TASK}.csv"), dtype=str)
    assert len(table) == 12 and withdrawn_rows.stand_in(workspace.patient) in set(table["cluster"])
    artefacts = next(paths.home().glob("mlflow/artifacts/**/model"))
    rows, arrays = pd.read_csv(artefacts / "reference.csv"), np.load(artefacts / "reference.npz")
    assert {len(rows)} == {len(arrays[name]) for name in ("embeddings", "scores", "clusters", "distances")}
    assert (artefacts.parent / "plots" / "errors.txt").read_text().startswith("A patient was withdrawn")
    assert not (artefacts.parent / "plots" / "errors.png").exists()
    assert git.run("status", "--porcelain") == ""
    assert ledger.verify().outcome is Outcome.PASS


def assert_other_correction_remains(workspace: PatientWorkspace) -> None:
    """The patient's correction is erased. The other one stays, with its history, and `prepare` reads it."""
    folder = Path("data/batches", TASK)
    assert sorted(path.name for path in folder.glob("*.dvc")) == ["first-w1.dvc", "fix-w1.dvc", "second.dvc"]
    rows = label_corrections.read_corrections(folder)
    assert len(rows) == 1 and workspace.patient not in set(rows["patient"]) and rows["batch"][0] == "fix-w1"
    record = json_files.read_json(folder / "fix-w1" / "record.json")
    assert (record["units"], record["corrects"], record["clusters"], record["predecessors"]) == (1, 1, 1, ["fix"])
    steps = label_corrections.label_history(folder, rows["unit_id"][0])
    assert [(step["to"], step["batch"]) for step in steps][1:] == [(rows["label"][0], "fix-w1")]
    dvc_stages.prepare(TASK)
    units = shards.read_units_table(Path("data/processed", TASK)).set_index("unit_id")
    assert units.loc[rows["unit_id"][0], "label"] == rows["label"][0] != rows["was"][0]
    shutil.rmtree(Path("data/processed", TASK))


def assert_recorded_everywhere(
    workspace: PatientWorkspace, records: locate.PatientRecords, completed: ledger.Event
) -> None:
    """Tags, trace and the request to retrain name the withdrawal. A second withdrawal changes nothing."""
    date = completed.at[:10]
    assert mlflow_registry.tags(TASK, "1")["not_reproducible_since"] == date
    assert lineage_state.withdrawn_since(f"{TASK}/1") == date == withdraw.incomplete_since(records.versions[0])
    assert withdraw.incomplete_since(completed.payload["data_version"]) is None
    chain = trace.trace("p1")
    withdrawal_facts = [link.facts for link in chain.links if link.step == "withdrawal"]
    assert withdrawal_facts == [{"not reproducible since": date}]
    assert [row.payload["task"] for row in outbox.pending()] == [TASK]
    second_event = withdraw.withdraw(locate.locate_patient(workspace.identity), "asked twice")
    assert second_event.seq == completed.seq
    assert workspace.patient not in "".join(str(event) for event in ledger.events())


def test_a_withdrawal_killed_at_any_step_is_finished_by_the_next_run(workspace: PatientWorkspace) -> None:
    steps: list[tuple[object, str]] = [
        (withdraw, "_make_successor"),
        (dvc, "remove_pointer"),
        (git, "commit"),
        (erase, "_erase_trees"),
        (erase, "_erase_objects"),
        (erase, "_erase_references"),
        (erase, "_erase_pages"),
        (mlflow_registry, "set_tags"),
        (erase, "_erase_windows"),
    ]
    for module, step in steps if os.environ.get("ONCOLOOP_SOAK") else steps[1::2]:
        workspace.restore()
        assert (
            run_in_child(lambda module=module, step=step: withdraw_until(module, step, workspace.identity))
            == -signal.SIGKILL
        ), step
        interrupted_runs.recover_workspace()
        assert_erased(workspace)
        assert len(ledger.events(kind=EventKind.PATIENT_WITHDRAWN)) == 1
        assert withdraw.unfinished_withdrawals() == []


def withdraw_until(module: object, step: str, identity: str) -> None:
    """Withdraw the patient, and kill the process after one step."""
    original: Callable[..., object] = getattr(module, step)

    def run_and_kill(*arguments: object, **options: object) -> None:
        original(*arguments, **options)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(module, step, run_and_kill)
    withdraw.withdraw(locate.locate_patient(identity), "consent withdrawn")


def test_the_search_reads_compressed_files_and_old_commits(workspace: PatientWorkspace) -> None:
    """It finds a name in a gzip file, in an array, in an old commit and in the database, and the identity too."""
    targets = erase.ErasureTargets(
        frozenset({withdrawn_rows.hash_pseudonym(workspace.patient)}), *[frozenset[str]()] * 4
    )
    files_before = set(verify_erased.search(targets))
    paths.state_path("logs", "old.gz").write_bytes(gzip.compress(workspace.patient.encode()))
    np.savez(paths.state_path("logs", "names.npz"), names=np.array([workspace.patient]))
    paths.state_path("ledger.head").with_name("ledger.head.old").write_text(workspace.patient)
    paths.state_path("releases", "evidence-r1", "note.txt").write_text(f"asked by {workspace.identity.lower()}")
    Path("note.txt").write_text(workspace.patient)
    git.commit(["note.txt"], "A note")
    Path("note.txt").unlink()
    new_files = set(verify_erased.search(targets, workspace.identity)) - files_before
    names = {str(Path(path).relative_to(workspace.folder)) for path in new_files}
    state = ("logs/old.gz", "logs/names.npz", "ledger.head.old", "releases/evidence-r1/note.txt")
    assert names >= {".git", *(f"var/{name}" for name in state)}


def test_a_patient_with_only_a_prediction_is_withdrawn_too(workspace: PatientWorkspace) -> None:
    records = locate.locate_patient("P000000000002")
    assert (records.batches, records.predictions, records.answered) == ([], ["p2"], [TASK])
    number = repr(journal.get("p2").description[DESCRIPTION[0]])
    runs = list(paths.home().glob("evidently/*/snapshots/*.json"))
    assert [number in path.read_text() for path in runs] == [True]
    assert withdraw.withdraw(records, "consent withdrawn").payload["left"] == []
    assert [number in path.read_text() for path in runs] == [False]
    assert outbox.pending() == [] and withdraw.unfinished_withdrawals() == []


def test_a_withdrawn_patient_is_not_admitted_again(workspace: PatientWorkspace) -> None:
    withdraw.withdraw(locate.locate_patient(workspace.identity), "consent withdrawn")
    batch, staging = ingest.read_incoming_batch(Path("inbox/first")), ingest.staging_folder("again")
    indexed = ingest.drop_withdrawn_patients(manifest.index_incoming(batch, staging), staging)
    assert workspace.patient not in set(indexed.manifest["patient"])
    assert [refusal.reason for refusal in indexed.refused] == [
        "the patient was withdrawn; take the file out of the batch"
    ]
    assert not [path for path in staging.rglob("*.gz") if sha256(path.read_bytes()).hexdigest() in workspace.scans]


def test_an_unknown_patient_is_refused(workspace: PatientWorkspace) -> None:
    with pytest.raises(Fault, match="no batch and no prediction holds this patient"):
        locate.locate_patient("MRN000000000")


def test_a_reason_that_names_the_patient_is_refused() -> None:
    args = argparse.Namespace(patient="Quillfeather 7741", reason="asked by Ms. QUILLFEATHER", yes=False)
    with pytest.raises(Fault, match="leave it out"):
        command.withdraw(args)


@pytest.mark.parametrize("is_replaced", [False, True])
def test_the_ledger_records_only_the_model_files_that_an_erasure_changes(
    workspace: PatientWorkspace, is_replaced: bool
) -> None:
    """The tables without the patient become the judged ones. A file that was replaced before stays refused."""
    folder = next(paths.home().glob("mlflow/artifacts/**/model"))
    before = hash_folder(folder)
    model_files.record_hashes(TASK, "1", before, "a test")
    if is_replaced:
        table = folder / "predictions.csv"
        table.write_text(table.read_text().replace("0.", "1.", 1))
    withdraw.withdraw(locate.locate_patient(workspace.identity), "consent withdrawn", workspace.identity)
    after = model_files.recorded_hashes(TASK, "1") or {}
    changed = {name for name in before if after[name] != before[name]}
    assert changed == set(erase.MODEL_TABLES) - ({"predictions.csv"} if is_replaced else set())
    if is_replaced:
        with pytest.raises(Fault, match=f"{TASK}/1: predictions.csv in MLflow is not the file"):
            mlflow_registry.download(TASK, "1")
    else:
        assert hash_folder(mlflow_registry.download(TASK, "1")) == after == hash_folder(folder)
    assert ledger.events(EventKind.MODEL_FILES)[-1].payload["reason"].startswith("a patient was withdrawn")
