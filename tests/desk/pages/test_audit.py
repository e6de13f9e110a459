"""The auditor's pages: the ledger and its filters, its verification, and the trace of a prediction."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from starlette.testclient import TestClient

from desk.pages import audit
from lineage import accounts
from lineage.record import database, ledger

Desk = Callable[[str], TestClient]


def subjects(page: str) -> list[str]:
    """The subjects of a page's events."""
    return re.findall(r'<td class="number">\d+</td><td><time>[^<]*</time></td><td>[^<]*</td><td>([^<]*)</td>', page)


def test_the_ledger_is_filtered_by_kind_subject_and_person(open_desk: Desk) -> None:
    client = open_desk("auditor")
    assert len(subjects(client.get("/ledger").text)) == len(ledger.events())
    assert subjects(client.get("/ledger?kind=verdict").text) == ["lung-ct/5", "lung-ct/4", "lung-ct/3"]
    assert subjects(client.get("/ledger?kind=verdict&subject=ct/4").text) == ["lung-ct/4"]
    assert set(subjects(client.get("/ledger?actor=enno").text)) == {"lung-ct", "lung-ct/3"}
    for query in ("subject=%25", "subject=_ung", "kind=%27%20OR%201=1--"):
        assert "No event matches" in client.get(f"/ledger?{query}").text


def test_the_ledger_is_shown_in_pages(open_desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "PAGE_SIZE", 4)
    client, event_count, address = open_desk("auditor"), 0, "/ledger"
    while address:
        page = client.get(address).text
        event_count += len(subjects(page))
        older = re.search(r'href="(/ledger\?[^"]*before=\d+)"', page)
        address = older.group(1).replace("&amp;", "&") if older else ""
    assert event_count == len(ledger.events())


def test_an_intact_ledger_passes_and_a_changed_one_fails(open_desk: Desk) -> None:
    client = open_desk("auditor")
    assert 'class="mark pass"' in client.get("/verify").text
    with database.writing() as connection:
        connection.exec_driver_sql("DROP TRIGGER ledger_no_update")
        connection.exec_driver_sql("UPDATE ledger SET actor = 'nobody' WHERE seq = 2")
    page = client.get("/verify").text
    assert 'class="mark fail"' in page and "event 2 was changed" in page and "ledger_no_update" in page


def test_a_prediction_is_traced_to_its_release_and_people(open_desk: Desk, add_case: Callable[..., str]) -> None:
    case_id, client = add_case(), open_desk("auditor")
    page = client.get("/trace", params={"id": case_id}).text
    for fact in (case_id, "0123456789ab", "lung-ct/3", "small but sound test cohort", "enno"):
        assert fact in page, fact


@pytest.mark.parametrize("prediction_id", ["nothing", "<script>", "' OR 1=1 --"])
def test_an_unknown_prediction_is_reported(open_desk: Desk, prediction_id: str) -> None:
    page = open_desk("auditor").get("/trace", params={"id": prediction_id})
    assert page.status_code == 404 and "has no prediction" in page.text and "<script>" not in page.text


@pytest.mark.usefixtures("workspace")
def test_people_with_closed_accounts_are_listed_too(open_desk: Desk) -> None:
    accounts.disable("cleo")
    page = open_desk("auditor").get("/people").text
    assert all(name in page for name in ("cleo", "enno", "auda")) and page.count("closed <time>2") == 1
