"""Withdrawal: afterwards a search of every byte finds neither the scans nor the shards nor the name of the patient."""

from __future__ import annotations

import argparse
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

from data.batch import label_corrections, lesion_grid, manifest, metadata_table, withdrawal
from data.dataset import shards
from data.phantom import batch as phantom_batch
from data.phantom import scanner
from data.quality import suite
from data.record import Task
from data.scan.slice_features import DESCRIPTION
from lineage import json_files, keys, model_files, paths, registry
from lineage.audit import evidence, trace
from lineage.errors import Fault
from lineage.fingerprint import tree
from lineage.record import database, journal, ledger, outbox
from lineage.record import state as record_state
from lineage.record.verdict import Outcome, Verdict
from monitoring import evidently_report, window
from monitoring import reference as references
from pipelines import params, stages
from pipelines.commands import withdrawal as command
from pipelines.flows import ingest, ingest_corrections
from pipelines.recovery import interrupted_runs
from pipelines.withdrawal import erase, locate, verify_erased, withdraw
from pipelines.workspace import code_snapshot, dvc, git
from tests.pipelines.flows.test_atomic_admission import child, made_in, run
from training.evaluation import evaluate, plots, reference_set

TASK = "brain-mr"


@dataclass(frozen=True)
class Ward:
    """A workspace through which a patient has passed, and what of the patient must not be found afterwards."""

    folder: Path
    kept: Path
    identity: str
    patient: str
    scans: frozenset[str]
    pixels: list[bytes]
    numbers: list[bytes]
    units: frozenset[str]

    def restore(self) -> None:
        os.chdir(self.kept)
        for engine in [each for each in gc.get_objects() if isinstance(each, Engine)]:
            engine.dispose()  # ours and MLflow's: their files are replaced
        shutil.rmtree(self.folder)
        shutil.copytree(self.kept, self.folder, symlinks=True)
        os.chdir(self.folder)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ward]:
    """A workspace that is made once, and copied back before each test."""
    with made_in(tmp_path_factory.mktemp("withdrawal") / "ward") as folder:
        yield passed_through(folder)


@pytest.fixture
def ward(made: Ward) -> Ward:
    made.restore()
    return made


def passed_through(folder: Path) -> Ward:
    """Two batches, one that corrects, a refused one, shards, a model, a release, answers, pages of every kind."""
    task = params.load().tasks[TASK]
    for seed, name in ((50, "first"), (51, "second")):
        phantom_batch.write_batch(Path("inbox", name), task, 6, scanner.SCANNERS["alder-mr"], seed, 2, masks=True)
        run(name)
    table = manifest.read_manifest(Path("data/batches", TASK, "first", "manifest.csv"))
    sides = pd.read_csv(Path("data/cohorts", f"{TASK}.csv"), dtype=str).set_index("cluster")["side"]
    held_out = next(name for name in table["patient"] if sides[withdrawal.mark(name)] == "test")
    correct(table, held_out)
    identities = {row["patient_id"] for row in manifest.metadata(Path("inbox/first")).to_dict("records")}
    refuse(table)
    tree = dvc.worktree(git.head())
    code_snapshot.write_code(tree)
    dvc.reproduce(tree, "prepare", TASK)
    version = dvc.keep(tree, folder, "Prepare")
    units = shards.load(tree / "data/processed" / TASK)
    judged_model(units, version)
    numbers = watched(held_out)
    evidence.write("r1", paths.place("releases", "x").parent)
    mine = (units.table["cluster"] == held_out).to_numpy()
    kept = folder.with_name("kept")
    database.engine().dispose()
    shutil.copytree(folder, kept, symlinks=True)
    identity = next(name for name in identities if keys.pseudonym(name) == held_out)
    scans = frozenset(table.loc[table["patient"] == held_out, "stored_sha256"])
    pixels = [row.tobytes() for row in units.pixels[mine]]
    return Ward(folder, kept, identity, held_out, scans, pixels, numbers, frozenset(units.table.loc[mine, "unit_id"]))


def correct(table: pd.DataFrame, patient: str) -> None:
    """A batch that corrects one label of the patient and one of somebody else."""
    chosen = [table[table["patient"] == patient].iloc[0], table[table["patient"] != patient].iloc[0]]
    task = params.load().tasks[TASK]
    said = [
        f"{metadata_table.HASH}{unit['sha256']},,{TASK},{other(unit['label'], task)},"
        f"dr-b,2026-06-01T09:00:00Z,pathology,"
        f"{int(unit['slice'])}"
        for unit in chosen
    ]
    heading = "file_name,patient_id,task,label,labeller,labelled_at,truth,slice"
    Path("inbox/fix").mkdir()
    Path("inbox/fix/metadata.csv").write_text("\n".join([heading, *said]) + "\n", encoding="utf-8")
    batch = ingest.incoming(Path("inbox/fix"))
    verdict, rows, _ = ingest_corrections.examine("fix", batch.source, task, params.load().ingest)
    assert (verdict.outcome, len(rows)) == (Outcome.PASS, 2), verdict.reasons
    ingest.admit.fn(batch, rows, ingest.received(batch))


def other(label: str, task: Task) -> str:
    return next(name for name in task.classes if name != label)


def watched(patient: str) -> list[bytes]:
    """Answers for the patient and for others, and a window of them on Evidently's pages; the patient's numbers."""
    random, settings = np.random.default_rng(6), params.load()
    told = [dict(zip(DESCRIPTION, random.random(len(DESCRIPTION)).tolist(), strict=True)) for _ in range(4)]
    for number, description in enumerate(told, start=1):
        journal.append(prediction(patient if number == 1 else f"P00000000000{number}", f"p{number}", description))
    known, seen = references.read(registry.download(TASK, "1")), window.window(TASK)
    evidently_report.drift(known, seen, settings.monitoring, paths.place("evidently"), settings.tasks[TASK])
    return [repr(value).encode() for value in told[0].values()]


def refuse(table: pd.DataFrame) -> None:
    """The first batch again under another name, refused; its validation page names failing units."""
    batch = ingest.incoming(Path("inbox/first"))
    batch = ingest.Incoming("third", batch.source, batch.task, batch.digest)
    manifest.index_batch(batch.source, batch.staging, batch.task)
    ingest.quarantine(batch, Verdict("data", "third", Outcome.FAIL, ("refused",)))
    suite.validate(table.assign(label="?"), batch.task, params.load().ingest, paths.place("gx"), "third")


def judged_model(units: shards.Units, version: str) -> None:
    """A version whose artefacts were written by the writers of the evaluation, over random answers, and a release."""
    import mlflow

    task, random = params.load().tasks[TASK], np.random.default_rng(5)
    held = units.where(units.table["side"] != "training")
    logits = random.normal(size=(len(held.table), 2)).astype(np.float32)
    features = random.random((len(held.table), 4, 4, 3)).astype(np.float32)
    judged = evaluate.judge(held.table, logits, 1.0, 0.5, task)
    made = Path("var/tmp-model")
    made.mkdir()
    judged.to_csv(made / "predictions.csv", index=False)
    reference_set.write(made, held, judged, features)
    json_files.write_json(made / "metrics.json", {"task": TASK})
    plots.errors(made / "errors.png", judged, held.pixels, features, random.random((3, 2)).astype(np.float32), task)
    client = mlflow.MlflowClient()
    run_id = client.create_run(client.create_experiment(TASK)).info.run_id
    for name in ("predictions.csv", "reference.csv", "reference.npz", "metrics.json"):
        client.log_artifact(run_id, str(made / name), "model")
    client.log_artifact(run_id, str(made / "errors.png"), "plots")
    number = registry.register(TASK, run_id, "model", {"data_version": version})
    registry.download(TASK, number)
    release = paths.place("releases", "r1", TASK, "reference.npz")
    release.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(made / "reference.npz", release)
    shutil.rmtree(made)
    facts = {"version": number, "run_id": run_id, "batches": ["first", "second"], "data_version": version}
    ledger.append("model.logged", TASK, facts)
    ledger.append("release.built", "r1", {"tasks": {TASK: number}})


def prediction(cluster: str, name: str, description: dict[str, float]) -> journal.JournalRow:
    return journal.JournalRow(
        name,
        database.now(),
        "mara",
        "r1",
        TASK,
        "1",
        cluster,
        ["0" * 64],
        description,
        [0.0],
        [0.5, 0.5],
        None,
        0.5,
        "pass",
        [],
        [],
        "",
        {},
        1.0,
    )


def everything(folder: Path) -> list[Path]:
    outside = ("inbox", "try")
    return [p for p in folder.rglob("*") if p.is_file() and p.relative_to(folder).parts[0] not in outside]


def found_in(ward: Ward) -> dict[str, list[str]]:
    """The test's own search: stored scans, rows of shards (float32), masks, numbers of an answer outside the journal,
    and the pseudonym and the identity as UTF-8 and as NumPy's UTF-32; all of it in git's objects too."""
    found: dict[str, list[str]] = {"scan": [], "pixels": [], "name": [], "number": [], "mask": []}
    names = [name.encode(code) for name in (ward.patient, ward.identity) for code in ("utf-8", "utf-32-le")]
    for path in everything(ward.folder):
        content, told = path.read_bytes(), str(path.relative_to(ward.folder))
        if sha256(content).hexdigest() in ward.scans:
            found["scan"].append(told)
        if any(row in content for row in ward.pixels):
            found["pixels"].append(told)
        if any(name in content for name in names):
            found["name"].append(told)
        if path.name != "oncoloop.db" and any(number in content for number in ward.numbers):
            found["number"].append(told)
        if content.startswith(b"PK") and b"shares.npy" in content and ward.units & set(np.load(path)["units"]):
            found["mask"].append(told)
    command = ["git", "cat-file", "--batch-all-objects", "--batch"]
    history = subprocess.run(command, cwd=ward.folder, capture_output=True, check=True).stdout
    assert f"{withdrawal.mark(ward.patient)},test".encode() in history, "the search would find what is in old commits"
    found["name"] += [".git"] * any(name in history for name in names)
    return found


def test_every_place_is_shown_then_emptied(ward: Ward) -> None:
    before = found_in(ward)
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
    held = locate.find(ward.identity)
    assert (held.patient, held.batches) == (ward.patient, [(TASK, "first"), (TASK, "fix")])
    assert (held.models, held.releases, held.predictions) == ([f"{TASK}/1"], ["r1"], ["p1"])
    assert (held.answered, held.quarantined, held.inbox) == ([TASK], ["third"], ["inbox/first", "inbox/fix"])
    assert len(held.versions) == 4
    assert locate.find(ward.patient) == held
    scans_of_others = {path.name for path in Path("data/batches", TASK, "second/scans").glob("*")}
    done = withdraw.withdraw(held, "consent withdrawn", ward.identity)
    assert done.payload["left"] == []
    emptied(ward)
    corrected(ward)
    assert {path.name for path in Path("data/batches", TASK, "second/scans").glob("*")} == scans_of_others
    said(ward, held, done)


def emptied(ward: Ward) -> None:
    left = found_in(ward)
    assert left == {"scan": [], "pixels": [], "name": [], "number": [], "mask": []}
    assert len(list(paths.home().glob("evidently/*/snapshots/*.json"))) == 1
    goes_on = manifest.read_manifest(Path("data/batches", TASK, "first-w1", "manifest.csv"))
    assert len(goes_on) == 10 and ward.patient not in set(goes_on["patient"])
    masks = lesion_grid.read_grids(Path("data/batches", TASK, "first-w1", lesion_grid.NAME))
    assert list(masks) == goes_on["unit_id"].tolist()
    table = pd.read_csv(Path("data/cohorts", f"{TASK}.csv"), dtype=str)
    assert len(table) == 12 and withdrawal.stand_in(ward.patient) in set(table["cluster"])
    artefacts = next(paths.home().glob("mlflow/artifacts/**/model"))
    rows, arrays = pd.read_csv(artefacts / "reference.csv"), np.load(artefacts / "reference.npz")
    assert {len(rows)} == {len(arrays[name]) for name in ("embeddings", "scores", "clusters", "distances")}
    assert (artefacts.parent / "plots" / "errors.txt").read_text().startswith("A patient was withdrawn")
    assert not (artefacts.parent / "plots" / "errors.png").exists()
    assert git.run("status", "--porcelain") == ""
    assert ledger.verify().outcome is Outcome.PASS


def corrected(ward: Ward) -> None:
    """The patient's correction is gone, the other one stays, is told as it was, and is read by prepare."""
    folder = Path("data/batches", TASK)
    assert sorted(path.name for path in folder.glob("*.dvc")) == ["first-w1.dvc", "fix-w1.dvc", "second.dvc"]
    left = label_corrections.given(folder)
    assert len(left) == 1 and ward.patient not in set(left["patient"]) and left["batch"][0] == "fix-w1"
    record = json_files.read_json(folder / "fix-w1" / "record.json")
    assert (record["units"], record["corrects"], record["clusters"], record["predecessors"]) == (1, 1, 1, ["fix"])
    steps = label_corrections.history(folder, left["unit_id"][0])
    assert [(step["to"], step["batch"]) for step in steps][1:] == [(left["label"][0], "fix-w1")]
    stages.prepare(TASK)
    units = shards.table(Path("data/processed", TASK)).set_index("unit_id")
    assert units.loc[left["unit_id"][0], "label"] == left["label"][0] != left["was"][0]
    shutil.rmtree(Path("data/processed", TASK))


def said(ward: Ward, held: locate.Held, done: ledger.Event) -> None:
    """Everybody is told: tags, trace, the wish for retraining; a second withdrawal changes nothing."""
    assert registry.tags(TASK, "1")["not_reproducible_since"] == done.at[:10]
    assert record_state.withdrawn_since(f"{TASK}/1") == done.at[:10] == withdraw.lost(held.versions[0])
    assert withdraw.lost(done.payload["data_version"]) is None
    chain = trace.trace("p1")
    told = [link.facts for link in chain.links if link.step == "withdrawal"]
    assert told == [{"not reproducible since": done.at[:10]}]
    assert [row.payload["task"] for row in outbox.pending()] == [TASK]
    again = withdraw.withdraw(locate.find(ward.identity), "asked twice")
    assert again.seq == done.seq
    assert ward.patient not in "".join(str(event) for event in ledger.events())


def test_killed_at_each_step_it_finishes_with_the_next_run(ward: Ward) -> None:
    steps: list[tuple[object, str]] = [
        (withdraw, "_succeed"),
        (dvc, "remove"),
        (git, "commit"),
        (erase, "_trees"),
        (erase, "_objects"),
        (erase, "_references"),
        (erase, "_pages"),
        (registry, "mark"),
        (erase, "_windows"),
    ]
    for home, step in steps if os.environ.get("ONCOLOOP_SOAK") else steps[1::2]:
        ward.restore()
        assert child(lambda home=home, step=step: kill(home, step, ward.identity)) == -signal.SIGKILL, step
        interrupted_runs.settle()
        emptied(ward)
        assert len(ledger.events(kind=withdraw.DONE)) == 1
        assert withdraw.unfinished() == []


def kill(home: object, step: str, identity: str) -> None:
    real: Callable[..., object] = getattr(home, step)

    def fatal(*given: object, **named: object) -> None:
        real(*given, **named)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(home, step, fatal)
    withdraw.withdraw(locate.find(identity), "consent withdrawn")


def test_the_search_reads_what_is_packed_and_what_git_keeps(ward: Ward) -> None:
    """It finds a name in a gzip file, in an array, in an old commit and in the database, and the identity too."""
    gone = erase.Gone(frozenset({withdrawal.mark(ward.patient)}), *[frozenset[str]()] * 4)
    elsewhere = set(verify_erased.search(gone))
    paths.place("logs", "old.gz").write_bytes(gzip.compress(ward.patient.encode()))
    np.savez(paths.place("logs", "names.npz"), names=np.array([ward.patient]))
    paths.place("ledger.head").with_name("ledger.head.old").write_text(ward.patient)
    paths.place("releases", "evidence-r1", "note.txt").write_text(f"asked by {ward.identity.lower()}")
    Path("note.txt").write_text(ward.patient)
    git.commit(["note.txt"], "A note")
    Path("note.txt").unlink()
    found = {
        str(Path(path).relative_to(ward.folder)) for path in set(verify_erased.search(gone, ward.identity)) - elsewhere
    }
    state = ("logs/old.gz", "logs/names.npz", "ledger.head.old", "releases/evidence-r1/note.txt")
    assert found >= {".git", *(f"var/{name}" for name in state)}


def test_somebody_who_was_only_answered_for_is_withdrawn_too(ward: Ward) -> None:
    held = locate.find("P000000000002")
    assert (held.batches, held.predictions, held.answered) == ([], ["p2"], [TASK])
    number = repr(journal.get("p2")["description"][DESCRIPTION[0]])
    runs = list(paths.home().glob("evidently/*/snapshots/*.json"))
    assert [number in path.read_text() for path in runs] == [True]
    assert withdraw.withdraw(held, "consent withdrawn").payload["left"] == []
    assert [number in path.read_text() for path in runs] == [False]
    assert outbox.pending() == [] and withdraw.unfinished() == []


def test_a_withdrawn_patient_does_not_come_in_again(ward: Ward) -> None:
    withdraw.withdraw(locate.find(ward.identity), "consent withdrawn")
    batch = ingest.Incoming("again", Path("inbox/first"), params.load().tasks[TASK], "0" * 64)
    found = ingest.turn_away(manifest.index_batch(batch.source, batch.staging, batch.task), batch.staging)
    assert ward.patient not in set(found.manifest["patient"])
    assert [one.reason for one in found.refused] == ["the patient was withdrawn; take the file out of the batch"]
    assert not [path for path in batch.staging.rglob("*.gz") if sha256(path.read_bytes()).hexdigest() in ward.scans]


def test_nobody_by_that_name(ward: Ward) -> None:
    with pytest.raises(Fault, match="no batch and no prediction holds this patient"):
        locate.find("MRN000000000")


def test_the_reason_may_not_say_who_it_is() -> None:
    args = argparse.Namespace(patient="Quillfeather 7741", reason="asked by Ms. QUILLFEATHER", yes=False)
    with pytest.raises(Fault, match="leave it out"):
        command.withdraw(args)


@pytest.mark.parametrize("exchanged", [False, True])
def test_the_ledger_follows_what_an_erasure_changes_of_a_model_and_nothing_else(ward: Ward, exchanged: bool) -> None:
    """The tables without the patient are those that count; a file that was exchanged before stays refused."""
    folder = next(paths.home().glob("mlflow/artifacts/**/model"))
    before = tree(folder)
    model_files.record(TASK, "1", before, "a test")
    if exchanged:
        table = folder / "predictions.csv"
        table.write_text(table.read_text().replace("0.", "1.", 1))
    withdraw.withdraw(locate.find(ward.identity), "consent withdrawn", ward.identity)
    now = model_files.recorded(TASK, "1") or {}
    changed = {name for name in before if now[name] != before[name]}
    assert changed == set(erase.TABLES) - ({"predictions.csv"} if exchanged else set())
    if exchanged:
        with pytest.raises(Fault, match=f"{TASK}/1: predictions.csv in MLflow is not the file"):
            registry.download(TASK, "1")
    else:
        assert tree(registry.download(TASK, "1")) == now == tree(folder)
    assert ledger.events(model_files.KIND)[-1].payload["reason"].startswith("a patient was withdrawn")
