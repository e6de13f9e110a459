"""What an engineer reads: versions, roles, verdicts, and where the tools' own pages are."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from desk.pages import models
from desk.traffic import traffic
from lineage.record import ledger
from lineage.record.verdict import Outcome
from tests.desk.conftest import judged

Desk = Callable[[str], TestClient]


@pytest.mark.usefixtures("workspace")
def test_versions_carry_roles_verdicts_and_decisions() -> None:
    newest, failed, champion = models.versions("lung-ct")
    assert (newest.version, newest.roles, newest.waits) == ("5", ("challenger",), True)
    assert (failed.version, failed.settled, failed.waits) == ("4", "rejected", False)
    assert (champion.version, champion.roles, champion.waits) == ("3", ("champion", "anchor"), False)
    assert champion.decision and champion.decision.payload["reason"] == "small but sound test cohort"


@pytest.mark.usefixtures("workspace")
def test_a_version_that_failed_never_waits_for_a_person() -> None:
    ledger.append("model.logged", "brain-mr", {"version": "1", "run_id": "r1"})
    assert models.versions("brain-mr")[0].waits is False, "the gate has not spoken"
    ledger.append("verdict", "brain-mr/1", {"gate": "training", "outcome": "fail", "reasons": ["floor"]})
    assert models.versions("brain-mr")[0].waits is False


def test_the_page_shows_each_task_with_its_reasons(open_desk: Desk) -> None:
    traffic.move("0123456789ab", "http://127.0.0.1:7811", "system")
    page = open_desk("engineer").get("/models").text
    for said in (
        "lung-ct",
        "champion",
        "challenger",
        "anchor",
        "worse than the champion by 0.12",
        "waits for a person",
        "approve by enno",
        "0123456789ab",
        "http://127.0.0.1:7811",
    ):
        assert said in page, said


def test_a_verdict_shows_figures_and_thresholds(open_desk: Desk) -> None:
    event = ledger.events(kind="verdict", subject="lung-ct/5")[0]
    client = open_desk("engineer")
    page = client.get(f"/verdicts/{event.seq}").text
    for said in ("superiority is not shown", "overall · auroc", "0.02 (-0.01 to 0.05)", "margin auroc", "0.05"):
        assert said in page, said
    assert client.get(f"/verdicts/{event.seq - 1}").status_code == 404, "that event is no verdict"
    assert client.get("/verdicts/99999").status_code == 404
    assert client.get(f"/verdicts/{10**30}").status_code == 404
    assert open_desk("auditor").get(f"/verdicts/{event.seq}").status_code == 200


def test_a_note_stands_wherever_the_task_does(open_desk: Desk) -> None:
    note = "phantoms only; size as a stand-in for the T category, not TNM"
    judged("lung-stage", "1", Outcome.INCONCLUSIVE, "too few patients", {"note": note})
    said = "Phantoms only; size as a stand-in for the T category, not TNM."
    client = open_desk("engineer")
    seq = ledger.events(kind="verdict", subject="lung-stage/1")[0].seq
    for address in ("/models", "/decisions", f"/verdicts/{seq}"):
        assert client.get(address).text.count(said) == 1, address


def test_links_lead_to_the_tools_that_run(open_desk: Desk, workspace: Path) -> None:
    run, client = workspace / "run", open_desk("engineer")
    (run / "prefect.json").write_text(json.dumps({"url": "http://127.0.0.1:7801", "pid": 1}))
    assert models.tools() == [], "not before their origin is open"
    (run / "tools.json").write_text("{half a fi")
    assert models.tools() == []
    (run / "tools.json").write_text(json.dumps({"url": "javascript:alert(1)"}))
    assert models.tools() == []
    (run / "tools.json").write_text(json.dumps({"url": "http://127.0.0.1:7803"}))
    assert models.tools() == [("Prefect: runs and schedules", "/tools/prefect")]
    page = client.get("/models").text
    assert 'href="/tools/prefect"' in page and "7801" not in page
