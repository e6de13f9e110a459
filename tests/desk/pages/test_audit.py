"""What an auditor reads: the ledger and its filters, whether it is whole, and why a prediction was made."""

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
    for nothing in ("subject=%25", "subject=_ung", "kind=%27%20OR%201=1--"):
        assert "No event matches" in client.get(f"/ledger?{nothing}").text


def test_the_ledger_comes_in_pages(open_desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "PAGE", 4)
    client, seen, address = open_desk("auditor"), 0, "/ledger"
    while address:
        page = client.get(address).text
        seen += len(subjects(page))
        older = re.search(r'href="(/ledger\?[^"]*before=\d+)"', page)
        address = older.group(1).replace("&amp;", "&") if older else ""
    assert seen == len(ledger.events())


def test_a_whole_record_passes_and_a_changed_one_does_not(open_desk: Desk) -> None:
    client = open_desk("auditor")
    assert 'class="mark pass"' in client.get("/verify").text
    with database.writing() as connection:
        connection.exec_driver_sql("DROP TRIGGER ledger_no_update")
        connection.exec_driver_sql("UPDATE ledger SET actor = 'nobody' WHERE seq = 2")
    page = client.get("/verify").text
    assert 'class="mark fail"' in page and "event 2 was changed" in page and "ledger_no_update" in page


def test_a_prediction_is_traced_to_its_release_and_people(open_desk: Desk, answered: Callable[..., str]) -> None:
    made, client = answered(), open_desk("auditor")
    page = client.get("/trace", params={"id": made}).text
    for said in (made, "0123456789ab", "lung-ct/3", "small but sound test cohort", "enno"):
        assert said in page, said


@pytest.mark.parametrize("wanted", ["nothing", "<script>", "' OR 1=1 --"])
def test_an_unknown_prediction_is_said_plainly(open_desk: Desk, wanted: str) -> None:
    page = open_desk("auditor").get("/trace", params={"id": wanted})
    assert page.status_code == 404 and "has no prediction" in page.text and "<script>" not in page.text


@pytest.mark.usefixtures("workspace")
def test_people_are_listed_with_those_who_left(open_desk: Desk) -> None:
    accounts.disable("cleo")
    page = open_desk("auditor").get("/people").text
    assert all(name in page for name in ("cleo", "enno", "auda")) and page.count("closed <time>2") == 1
