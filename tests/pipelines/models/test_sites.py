"""Sites: accepted with a promotion or by a person after the site gate, for a version, with their own calibration."""

from __future__ import annotations

import argparse
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from data.phantom import batch, scanner
from lineage import current_state, site_hash
from lineage.audit import trace
from lineage.errors import Fault
from lineage.record import database, ledger
from lineage.record.events import EventKind
from pipelines import params
from pipelines.commands import predictions
from pipelines.commands import sites as site_command
from pipelines.models import promote, site_sources, sites
from serving.inference import accepted_sites
from serving.inference.predict import Prediction, Upload, predict
from serving.inference.release import load_release
from tests.pipelines import small_workspace
from tests.pipelines.flows.test_atomic_admission import run_admission
from tests.pipelines.small_workspace import TASK

ALDER, BIRCH = "Alder", "Birch"


@pytest.fixture(scope="module")
def released_ward(small_ward: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A workspace with a released model of the site Alder, and an admitted batch of the site Birch."""
    folder, previous_folder = tmp_path_factory.mktemp("sites") / "ward", Path.cwd()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("ONCOLOOP_HOME", "ONCOLOOP_DATABASE_URL"):
            patch.delenv(name, raising=False)
        environment = dict(os.environ)
        small_workspace.enter(small_workspace.move(small_ward, folder))
        promote.carry_out_decision(promote.approve(TASK, "1", "system", "read"))
        assert promote.release_champions()
        task = params.load().tasks[TASK]
        batch.write_batch(Path("inbox/birch"), task, 24, scanner.SCANNERS["birch-mr"], 61, 2)
        run_admission("birch")
        database.engine().dispose()
        shutil.copytree(folder, folder.with_name("copy"), symlinks=True)
        yield folder
        os.chdir(previous_folder)
        os.environ.clear()
        os.environ.update(environment)


@pytest.fixture
def ward(released_ward: Path) -> Path:
    """A fresh copy of the workspace, entered."""
    os.chdir(released_ward.parent)
    database.engine().dispose()
    shutil.rmtree(released_ward)
    small_workspace.enter(small_workspace.move(released_ward.with_name("copy"), released_ward))
    return released_ward


def entries() -> list[dict[str, Any]]:
    """The accepted sites of the newest release."""
    release = ledger.events(EventKind.RELEASE_BUILT)[-1].subject
    manifest = json.loads(Path("var/releases", release, "manifest.json").read_text())
    return list(manifest["tasks"][TASK]["sites"])


def ask(site: str, source: str = "birch") -> Prediction:
    """The answer of the newest release to one scan of a batch, sent with the token of a site."""
    release = load_release(Path("var/releases", ledger.events(EventKind.RELEASE_BUILT)[-1].subject))
    scan = sorted(Path("inbox", source).glob("*.nii.gz"))[0]
    return predict(release, [Upload(scan.name, scan.read_bytes())], TASK, site=site_hash.hash_site(site))


def site_reasons(prediction: Prediction) -> list[str]:
    return [reason for reason in prediction.verdict.reasons if "site" in reason or "scanner" in reason]


def test_the_site_of_all_test_patients_is_accepted_with_the_promotion(ward: Path) -> None:
    assert ward.is_dir()
    [entry] = entries()
    assert entry["site"] == site_hash.hash_site(ALDER) and entry["basis"] == accepted_sites.PROMOTION
    assert entry["scanners"] == [site_hash.hash_scanner("Kestrel Imaging M15")]
    assert entry["clusters"] > 0 and entry["verdict"] == ledger.events(EventKind.VERDICT, f"{TASK}/1")[0].seq
    assert not site_reasons(ask(ALDER, "first"))


def test_an_unknown_site_gets_no_answer_and_the_reason(ward: Path) -> None:
    assert ward.is_dir()
    named, nameless = ask(BIRCH), ask("")
    assert named.answer is None and nameless.answer is None
    assert f"the site of this scan has not been accepted for {TASK}" in " ".join(site_reasons(named))
    assert site_reasons(nameless) == [accepted_sites.NO_SITE]
    assert named.description["site_hash"] == site_hash.hash_site(BIRCH) and named.score > 0


def test_the_desks_own_site_and_the_answer_to_all_sites_are_settings(ward: Path) -> None:
    settings = (ward / params.NAME).read_text()
    (ward / params.NAME).write_text(settings.replace('site: ""', 'site: "alder "'))
    assert promote.is_release_pending() and promote.release_champions()
    assert not promote.is_release_pending() and not site_reasons(ask("", "first"))
    (ward / params.NAME).write_text(settings.replace("unknown_sites: withhold", "unknown_sites: answer"))
    assert promote.release_champions()
    prediction = ask(BIRCH)
    assert all(reason.startswith("warning: ") for reason in site_reasons(prediction)) and site_reasons(prediction)


def test_a_site_is_accepted_by_gate_and_person_and_withdrawn_again(ward: Path) -> None:
    assert ward.is_dir()
    with pytest.raises(Fault, match="the site gate has not judged the champion"):
        sites.confirm(BIRCH, TASK, "read", "system")
    event = sites.judge(BIRCH, TASK, "birch", "second hospital", "system")
    assert event.payload["gate"] == "site" and event.payload["figures"]["clusters"] == 24, "the model is older"
    assert BIRCH not in json.dumps(event.payload) and BIRCH not in event.subject
    assert not promote.is_release_pending() and current_state.site_acceptances(TASK, "1") == []
    listed = site_command.site(argparse.Namespace(action="list")).result[TASK]
    assert [row["name"] for row in listed["waiting"]] == [BIRCH] and [row["name"] for row in listed["accepted"]] == [
        ALDER
    ]
    sites.confirm(BIRCH, TASK, "read by two", "system")
    with pytest.raises(Fault, match="accepted for brain-mr by this verdict already"):
        sites.confirm(BIRCH, TASK, "read by two", "system")
    assert promote.is_release_pending() and promote.release_champions()
    accepted = entries()[0]
    assert (accepted["site"], accepted["basis"]) == (site_hash.hash_site(BIRCH), accepted_sites.ACCEPTANCE)
    prediction = ask(BIRCH)
    assert not site_reasons(prediction) and prediction.threshold == accepted["threshold"]
    assert ask(ALDER, "first").threshold == entries()[1]["threshold"]
    scan = sorted((ward / "inbox/birch").glob("*.nii.gz"))[0]
    answer = predictions.predict(argparse.Namespace(files=[scan], task=TASK, site=BIRCH)).result
    steps = [(link.step, link.id) for link in trace.trace(answer["id"]).links]
    assert ("site", EventKind.SITE_ACCEPTED) in steps and ("verdict", f"site: {event.subject}") in steps
    assert event.subject in trace.subjects(ledger.events(EventKind.RELEASE_BUILT)[-1].subject)
    assert [row["name"] for row in site_command.site(argparse.Namespace(action="list")).result[TASK]["accepted"]] == [
        BIRCH,
        ALDER,
    ]
    sites.withdraw(BIRCH, TASK, "the scanner was replaced", "system")
    sites.withdraw(ALDER, TASK, "a test", "system")
    assert promote.release_champions() and entries() == []
    assert site_reasons(ask(BIRCH)) and site_reasons(ask(ALDER, "first"))


def test_a_fail_of_the_site_gate_cannot_be_confirmed(ward: Path) -> None:
    settings = (ward / params.NAME).read_text()
    (ward / params.NAME).write_text(settings.replace("floor_specificity: 0.50", "floor_specificity: 1.0"))
    strict = settings.replace("    floor_specificity: 0.50", "    floor_specificity: 1.0")
    (ward / params.NAME).write_text(strict.replace("    floor_sensitivity: 0.0", "    floor_sensitivity: 1.0"))
    event = sites.judge(BIRCH, TASK, "birch", "second hospital", "system")
    if event.payload["outcome"] == "fail":
        with pytest.raises(Fault, match="a fail can't be confirmed"):
            sites.confirm(BIRCH, TASK, "read", "system")
    else:
        pytest.fail(f"{event.payload['reasons']}")


def test_a_batch_must_be_admitted_of_this_site_and_unknown_to_the_champion(ward: Path) -> None:
    assert ward.is_dir()
    with pytest.raises(Fault, match="absent is no admitted batch"):
        sites.judge(BIRCH, TASK, "absent", "a test", "system")
    with pytest.raises(Fault, match="first has scans of 1 other sites"):
        sites.judge(BIRCH, TASK, "first", "a test", "system")
    cohorts = Path("data/cohorts", f"{TASK}.csv").read_text().splitlines()
    event = sites.judge(ALDER, TASK, "first", "a test", "system")
    test_side = {line for line in cohorts[1:] if ",test," in line and ",first," in line}
    assert event.payload["figures"]["clusters"] == len(test_side), "no patient who fitted or calibrated it is used"


def test_a_prediction_of_the_command_line_names_a_site_and_is_replayed(ward: Path) -> None:
    scan = sorted((ward / "inbox/first").glob("*.nii.gz"))[0]
    answer = predictions.predict(argparse.Namespace(files=[scan], task=TASK, site=ALDER)).result
    assert not [reason for reason in answer["verdict"]["reasons"] if "site" in reason]
    assert predictions.replay(argparse.Namespace(prediction=answer["id"], files=[scan])).result["same"]


def test_an_institution_belongs_to_the_site_with_most_of_its_units(ward: Path) -> None:
    assert ward.is_dir()
    admitted = site_sources.read_sources(TASK, ["first", "birch"]).assign(institution_hash="")
    is_birch = admitted["site"] == BIRCH
    admitted.loc[is_birch, "institution_hash"] = "ab"
    admitted.loc[admitted.index[~is_birch][:3], "institution_hash"] = "ab"
    assert site_sources.institutions(site_hash.hash_site(BIRCH), admitted) == ["ab"]
    assert site_sources.institutions(site_hash.hash_site(ALDER), admitted) == []
