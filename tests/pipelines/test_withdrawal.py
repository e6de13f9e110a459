"""Withdrawal: afterwards a search of every byte finds neither the scans nor the shards nor the name of the patient."""

from __future__ import annotations

import gc
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sqlalchemy import Engine

from data import batches, index, phantom, suite, withdrawn
from lineage import journal, keys, ledger, outbox, places, registry, store, trace
from lineage.fault import Fault
from lineage.verdict import Outcome, Verdict
from pipelines import erasure, ingest, page, params, repro, settle, stages, withdrawal
from tests.pipelines.test_admission import child, made_in, run
from training import evaluate, plots, reference

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
    """Two batches and a refused one, packed shards, a registered model, a release, a prediction, validation pages."""
    task = params.load().tasks[TASK]
    for seed, name in ((50, "first"), (51, "second")):
        phantom.write_batch(Path("inbox", name), task, 6, phantom.SCANNERS["alder-mr"], seed, 2)
        run(name)
    table = index.read_manifest(Path("data/batches", TASK, "first", "manifest.csv"))
    sides = pd.read_csv(Path("data/cohorts", f"{TASK}.csv"), dtype=str).set_index("cluster")["side"]
    held_out = next(name for name in table["patient"] if sides[name] == "test")
    identities = {row["patient_id"] for row in index.metadata(Path("inbox/first")).to_dict("records")}
    refuse(table)
    tree = repro.worktree(repro.head())
    stages.write_code(tree)
    repro.reproduce(tree, "prepare", TASK)
    version = repro.keep(tree, folder, "Prepare")
    units = batches.load(tree / "data/processed" / TASK)
    judged_model(units, version)
    journal.append(prediction(held_out))
    mine = (units.table["cluster"] == held_out).to_numpy()
    kept = folder.with_name("kept")
    store.engine().dispose()
    shutil.copytree(folder, kept, symlinks=True)
    identity = next(name for name in identities if keys.pseudonym(name) == held_out)
    scans = frozenset(table.loc[table["patient"] == held_out, "stored_sha256"])
    return Ward(folder, kept, identity, held_out, scans, [row.tobytes() for row in units.pixels[mine]])


def refuse(table: pd.DataFrame) -> None:
    """The first batch again under another name, refused; its validation page names failing units."""
    batch = ingest.incoming(Path("inbox/first"))
    batch = ingest.Incoming("third", batch.source, batch.task, batch.digest)
    index.index_batch(batch.source, batch.staging, batch.task)
    ingest.quarantine(batch, Verdict("data", "third", Outcome.FAIL, ("refused",)))
    suite.validate(table.assign(label="?"), batch.task, params.load().ingest, places.place("gx"), "third")


def judged_model(units: batches.Units, version: str) -> None:
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
    reference.write(made, held, judged, features)
    page.write_json(made / "metrics.json", {"task": TASK})
    plots.errors(made / "errors.png", judged, held.pixels, features, random.random((3, 2)).astype(np.float32), task)
    client = mlflow.MlflowClient()
    run_id = client.create_run(client.create_experiment(TASK)).info.run_id
    for name in ("predictions.csv", "reference.csv", "reference.npz", "metrics.json"):
        client.log_artifact(run_id, str(made / name), "model")
    client.log_artifact(run_id, str(made / "errors.png"), "plots")
    number = registry.register(TASK, run_id, "model", {"data_version": version})
    registry.download(TASK, number)
    release = places.place("releases", "r1", TASK, "reference.npz")
    release.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(made / "reference.npz", release)
    shutil.rmtree(made)
    facts = {"version": number, "run_id": run_id, "batches": ["first", "second"], "data_version": version}
    ledger.append("model.logged", TASK, facts)
    ledger.append("release.built", "r1", {"tasks": {TASK: number}})


def prediction(cluster: str) -> journal.JournalRow:
    return journal.JournalRow(
        "p1", store.now(), "mara", "r1", TASK, "1", cluster, ["0" * 64], {}, [0.0], [0.5, 0.5], None, 0.5, "pass", [],
        [], "", {}, 1.0,
    )  # fmt: skip


def everything(folder: Path) -> list[Path]:
    outside = ("inbox", ".git", "try")
    return [p for p in folder.rglob("*") if p.is_file() and p.relative_to(folder).parts[0] not in outside]


def found_in(ward: Ward) -> dict[str, list[str]]:
    """The test's own search: stored scans, rows of shards (float32), the pseudonym as UTF-8 and as NumPy's UTF-32."""
    found: dict[str, list[str]] = {"scan": [], "pixels": [], "name": []}
    names = (ward.patient.encode(), ward.patient.encode("utf-32-le"))
    for path in everything(ward.folder):
        content, told = path.read_bytes(), str(path.relative_to(ward.folder))
        if sha256(content).hexdigest() in ward.scans:
            found["scan"].append(told)
        if any(row in content for row in ward.pixels):
            found["pixels"].append(told)
        if any(name in content for name in names):
            found["name"].append(told)
    return found


def test_every_place_is_shown_then_emptied(ward: Ward) -> None:
    before = found_in(ward)
    for kind, place in (
        ("scan", f"data/batches/{TASK}/first"), ("scan", "data/quarantine/third"), ("scan", "var/cache"),
        ("scan", "var/remote"), ("scan", "var/worktree"), ("pixels", "var/cache"), ("pixels", "var/remote"),
        ("pixels", "var/worktree"), ("name", "var/mlflow/artifacts"), ("name", "var/mlflow/downloads"),
        ("name", "var/releases"), ("name", "data/cohorts"),
    ):  # fmt: skip
        assert any(name.startswith(place) for name in before[kind]), (kind, place)
    held = withdrawal.find(ward.identity)
    assert (held.patient, held.batches, held.models) == (ward.patient, [(TASK, "first")], [f"{TASK}/1"])
    assert (held.releases, held.predictions, held.quarantined) == (["r1"], ["p1"], ["third"])
    assert held.inbox == ["inbox/first"] and len(held.versions) == 3
    assert withdrawal.find(ward.patient) == held
    scans_of_others = {path.name for path in Path("data/batches", TASK, "second/scans").glob("*")}
    done = withdrawal.withdraw(held, "consent withdrawn")
    assert done.payload["left"] == []
    emptied(ward)
    assert {path.name for path in Path("data/batches", TASK, "second/scans").glob("*")} == scans_of_others
    said(ward, held, done)


def emptied(ward: Ward) -> None:
    left = found_in(ward)
    assert left["scan"] == [] and left["pixels"] == []
    assert {name for name in left["name"] if not name.startswith("var/oncoloop.db")} == set()
    goes_on = index.read_manifest(Path("data/batches", TASK, "first-w1", "manifest.csv"))
    assert len(goes_on) == 10 and ward.patient not in set(goes_on["patient"])
    table = pd.read_csv(Path("data/cohorts", f"{TASK}.csv"), dtype=str)
    assert len(table) == 12 and withdrawn.stand_in(ward.patient) in set(table["cluster"])
    artefacts = next(places.home().glob("mlflow/artifacts/**/model"))
    rows, arrays = pd.read_csv(artefacts / "reference.csv"), np.load(artefacts / "reference.npz")
    assert {len(rows)} == {len(arrays[name]) for name in ("embeddings", "scores", "clusters", "distances")}
    assert (artefacts.parent / "plots" / "errors.txt").read_text().startswith("A patient was withdrawn")
    assert not (artefacts.parent / "plots" / "errors.png").exists()
    assert repro.git("status", "--porcelain") == ""
    assert ledger.verify().outcome is Outcome.PASS


def said(ward: Ward, held: withdrawal.Held, done: ledger.Event) -> None:
    """Everybody is told: tags, trace, the wish for retraining; a second withdrawal changes nothing."""
    assert registry.tags(TASK, "1")["not_reproducible_since"] == done.at[:10]
    assert withdrawal.since(f"{TASK}/1") == done.at[:10] == withdrawal.lost(held.versions[0])
    assert withdrawal.lost(done.payload["data_version"]) is None
    chain = trace.trace("p1")
    told = [link.facts for link in chain.links if link.step == "withdrawal"]
    assert told == [{"not reproducible since": done.at[:10]}]
    assert [row.payload["task"] for row in outbox.pending()] == [TASK]
    again = withdrawal.withdraw(withdrawal.find(ward.identity), "asked twice")
    assert again.seq == done.seq
    assert ward.patient not in "".join(str(event) for event in ledger.events())


def test_killed_at_each_step_it_finishes_with_the_next_run(ward: Ward) -> None:
    steps: list[tuple[object, str]] = [
        (withdrawal, "_succeed"), (repro, "remove"), (repro, "commit"), (erasure, "_trees"), (erasure, "_objects"),
        (erasure, "_references"), (erasure, "_pages"), (registry, "mark"),
    ]  # fmt: skip
    for home, step in steps if os.environ.get("ONCOLOOP_SOAK") else steps[1::2]:
        ward.restore()
        assert child(lambda home=home, step=step: kill(home, step, ward.identity)) == -signal.SIGKILL, step
        settle.settle()
        emptied(ward)
        assert len(ledger.events(kind=withdrawal.DONE)) == 1
        assert withdrawal.unfinished() == []


def kill(home: object, step: str, identity: str) -> None:
    real: Callable[..., object] = getattr(home, step)

    def fatal(*given: object, **named: object) -> None:
        real(*given, **named)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(home, step, fatal)
    withdrawal.withdraw(withdrawal.find(identity), "consent withdrawn")


def test_a_withdrawn_patient_does_not_come_in_again(ward: Ward) -> None:
    withdrawal.withdraw(withdrawal.find(ward.identity), "consent withdrawn")
    batch = ingest.Incoming("again", Path("inbox/first"), params.load().tasks[TASK], "0" * 64)
    found = ingest.turn_away(index.index_batch(batch.source, batch.staging, batch.task), batch.staging)
    assert ward.patient not in set(found.manifest["patient"])
    assert [one.reason for one in found.refused] == ["the patient was withdrawn; take the file out of the batch"]
    assert not [path for path in batch.staging.rglob("*.gz") if sha256(path.read_bytes()).hexdigest() in ward.scans]


def test_nobody_by_that_name(ward: Ward) -> None:
    with pytest.raises(Fault, match="no batch and no prediction holds this patient"):
        withdrawal.find("MRN000000000")
