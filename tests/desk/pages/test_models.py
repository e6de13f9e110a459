"""The engineer's pages: versions, roles, verdicts, and links to the tools."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from desk.pages import models
from lineage import current_state
from lineage.record import ledger
from lineage.record.events import EventKind
from lineage.record.verdict import Outcome
from tests.desk.conftest import record_judged_version

Desk = Callable[[str], TestClient]


@pytest.mark.usefixtures("workspace")
def test_versions_have_roles_verdicts_and_decisions() -> None:
    newest, failed, champion = current_state.model_versions("lung-ct")
    assert (newest.version, newest.roles, newest.is_waiting) == ("5", ("challenger",), True)
    assert (failed.version, failed.result, failed.is_waiting) == ("4", "rejected", False)
    assert (champion.version, champion.roles, champion.is_waiting) == ("3", ("champion", "anchor"), False)
    assert champion.decision and champion.decision.payload["reason"] == "small but sound test cohort"


@pytest.mark.usefixtures("workspace")
def test_a_failed_version_never_waits_for_a_decision() -> None:
    ledger.append(EventKind.MODEL_LOGGED, "brain-mr", {"version": "1", "run_id": "r1"})
    assert current_state.model_versions("brain-mr")[0].is_waiting is False, "there is no verdict yet"
    ledger.append(EventKind.VERDICT, "brain-mr/1", {"gate": "training", "outcome": "fail", "reasons": ["floor"]})
    assert current_state.model_versions("brain-mr")[0].is_waiting is False


def test_the_page_shows_each_task_with_its_reasons(open_desk: Desk) -> None:
    ledger.append(EventKind.RELEASE_ACTIVATED, "0123456789ab", {"url": "http://127.0.0.1:7811"})
    page = open_desk("engineer").get("/models").text
    for text in (
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
        assert text in page, text


def test_a_verdict_shows_figures_and_thresholds(open_desk: Desk) -> None:
    event = ledger.events(kind=EventKind.VERDICT, subject="lung-ct/5")[0]
    client = open_desk("engineer")
    page = client.get(f"/verdicts/{event.seq}").text
    for text in ("superiority is not shown", "overall · auroc", "0.02 (-0.01 to 0.05)", "margin auroc", "0.05"):
        assert text in page, text
    assert client.get(f"/verdicts/{event.seq - 1}").status_code == 404, "that event is no verdict"
    assert client.get("/verdicts/99999").status_code == 404
    assert client.get(f"/verdicts/{10**30}").status_code == 404
    assert open_desk("auditor").get(f"/verdicts/{event.seq}").status_code == 200


def test_every_page_of_a_task_shows_its_note(open_desk: Desk) -> None:
    note = "phantoms only; size as a stand-in for the T category, not TNM"
    record_judged_version("lung-stage", "1", Outcome.INCONCLUSIVE, "too few patients", {"note": note})
    sentence = "Phantoms only; size as a stand-in for the T category, not TNM."
    client = open_desk("engineer")
    seq = ledger.events(kind=EventKind.VERDICT, subject="lung-stage/1")[0].seq
    for address in ("/models", "/decisions", f"/verdicts/{seq}"):
        assert client.get(address).text.count(sentence) == 1, address


def test_links_lead_to_the_running_tools(open_desk: Desk, workspace: Path) -> None:
    run, client = workspace / "run", open_desk("engineer")
    (run / "prefect.json").write_text(json.dumps({"url": "http://127.0.0.1:7801", "pid": 1}))
    assert models.tools() == [], "not before the proxy runs"
    (run / "tools.json").write_text("{half a fi")
    assert models.tools() == []
    (run / "tools.json").write_text(json.dumps({"url": "javascript:alert(1)"}))
    assert models.tools() == []
    (run / "tools.json").write_text(json.dumps({"url": "http://127.0.0.1:7803"}))
    assert models.tools() == [("Prefect: runs and schedules", "/tools/prefect")]
    page = client.get("/models").text
    assert 'href="/tools/prefect"' in page and "7801" not in page
