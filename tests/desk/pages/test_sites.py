"""The page of sites: what the live release answers for, and the signed acceptance of a judged site."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from starlette.testclient import TestClient

from lineage import current_state, decisions, site_hash
from lineage.record import ledger, outbox
from lineage.record.events import EventKind
from lineage.record.ledger import Event
from lineage.record.verdict import Outcome, Verdict
from tests.desk.conftest import RELEASE

Desk = Callable[[str], TestClient]
Token = Callable[..., str]
REASON = "thirty patients, read by two"


def judge(outcome: Outcome = Outcome.INCONCLUSIVE, version: str = "3", site: str = "Birch") -> Event:
    """Record a verdict of the site gate on the champion at a site."""
    site_key = site_hash.hash_site(site)
    subject = current_state.site_subject("lung-ct", site_key)
    verdict = Verdict("site", subject, outcome, ("12 positive patients",), {"clusters": 24}, {})
    return ledger.record_verdict(verdict, task="lung-ct", version=version, site=site_key)


def send(client: TestClient, token: str, event: Event, reason: str = REASON) -> httpx.Response:
    return client.post("/sites", data={"csrf": token, "verdict": str(event.seq), "reason": reason})


def test_an_engineer_accepts_a_judged_site(open_desk: Desk, csrf: Token, workspace: Path) -> None:
    (workspace / "site-names.json").write_text(json.dumps({site_hash.hash_site("Birch"): "Birch"}))
    event, client = judge(), open_desk("engineer")
    page = client.get("/sites").text
    assert "lung-ct at Birch" in page and "12 positive patients" in page
    assert send(client, csrf(client, "/sites"), event).status_code == 303
    [acceptance] = current_state.site_acceptances("lung-ct", "3")
    assert acceptance.decision and acceptance.decision.actor == "enno"
    assert decisions.facts(acceptance.decision)["reason"] == REASON
    [message] = outbox.pending()
    assert message.kind == "approval" and message.payload == {"task": "lung-ct", "version": "3"}
    assert "No site waits" in client.get("/sites").text
    assert send(client, csrf(client, "/sites"), event).status_code == 409


@pytest.mark.parametrize(("outcome", "version"), [(Outcome.FAIL, "3"), (Outcome.PASS, "5")])
def test_a_fail_or_the_verdict_on_another_version_cannot_be_accepted(
    open_desk: Desk, csrf: Token, outcome: Outcome, version: str
) -> None:
    event, client = judge(outcome, version), open_desk("engineer")
    assert "No site waits" in client.get("/sites").text
    assert send(client, csrf(client, "/sites"), event).status_code == 409
    assert not ledger.events(EventKind.SITE_ACCEPTED)


def test_only_the_newest_verdict_counts_and_a_reason_is_needed(open_desk: Desk, csrf: Token) -> None:
    older, newer, client = judge(), judge(), open_desk("engineer")
    assert send(client, csrf(client, "/sites"), older).status_code == 409
    assert send(client, csrf(client, "/sites"), newer, "short").status_code == 400


@pytest.mark.parametrize("role", ["clinician", "auditor"])
def test_the_page_is_for_engineers(open_desk: Desk, role: str) -> None:
    assert open_desk(role).get("/sites").status_code == 403


def test_the_page_lists_the_accepted_sites_of_the_live_release(open_desk: Desk, workspace: Path) -> None:
    ledger.append(EventKind.RELEASE_ACTIVATED, RELEASE, {"url": "http://127.0.0.1:1"})
    path = workspace / "releases" / RELEASE / "manifest.json"
    manifest = json.loads(path.read_text())
    interval = {"value": 0.9, "low": 0.8, "high": 0.95}
    entry = {"site": site_hash.hash_site("Alder"), "basis": "promotion", "verdict": 1, "clusters": 41, "scanners": []}
    manifest["tasks"]["lung-ct"]["sites"] = [
        entry | {"at": "2026-01-31T12:00:00Z", "sensitivity": interval, "specificity": None}
    ]
    path.write_text(json.dumps(manifest))
    page = open_desk("engineer").get("/sites").text
    assert f"site {entry['site'][:8]}" in page and "0.9 (0.8 to 0.95)" in page and "promotion" in page
    assert "Sites are not checked in the live release" in page, "the task pancreas-ct"


def test_a_withdrawn_site_is_not_accepted_any_more(workspace: Path) -> None:
    assert workspace.is_dir()
    event = judge()
    site = str(event.payload["site"])
    decisions.record(
        EventKind.SITE_ACCEPTED,
        event.subject,
        {"task": "lung-ct", "version": "3", "site": site, "verdict": event.seq, "reason": REASON},
        "enno",
    )
    assert len(current_state.site_acceptances("lung-ct", "3")) == 1 and current_state.site_decisions({"lung-ct": "3"})
    decisions.record(
        EventKind.SITE_WITHDRAWN, event.subject, {"task": "lung-ct", "site": site, "reason": REASON}, "enno"
    )
    assert current_state.site_acceptances("lung-ct", "3") == []
    assert current_state.withdrawn_sites("lung-ct").keys() == {site}


def test_an_unsigned_acceptance_does_not_count(workspace: Path) -> None:
    assert workspace.is_dir()
    decisions.start_signing()
    event = judge()
    facts = {"task": "lung-ct", "version": "3", "site": event.payload["site"], "verdict": event.seq, "reason": REASON}
    ledger.append(EventKind.SITE_ACCEPTED, event.subject, facts, "enno")
    assert current_state.site_acceptances("lung-ct", "3") == []
