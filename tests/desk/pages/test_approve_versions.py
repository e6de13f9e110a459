"""Decisions on a waiting version: roles, reasons, and the signed row and message for the flow."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest
from starlette.testclient import TestClient

from lineage import decisions
from lineage.record import ledger, outbox
from lineage.record.events import EventKind

Desk = Callable[[str], TestClient]
Token = Callable[..., str]
REASON = "the new site needs it, and the interval is narrow"


def send(client: TestClient, token: str, **changes: str) -> httpx.Response:
    """Decide on the waiting version."""
    form = {"csrf": token, "task": "lung-ct", "version": "5", "decision": "approve", "reason": REASON}
    return client.post("/decisions", data=form | changes)


@pytest.mark.parametrize("decision", ["approve", "reject"])
def test_a_decision_is_in_the_ledger_and_wakes_the_flow(open_desk: Desk, csrf: Token, decision: str) -> None:
    client = open_desk("engineer")
    assert "superiority is not shown" in client.get("/decisions").text
    assert send(client, csrf(client, "/decisions"), decision=decision).status_code == 303
    event = ledger.events(kind=EventKind.APPROVAL, subject="lung-ct/5")[-1]
    assert (event.actor, decisions.facts(event)) == ("enno", {"decision": decision, "reason": REASON})
    assert decisions.pending_decisions(EventKind.APPROVAL) == [event]
    decisions.check(event)
    [message] = outbox.pending()
    assert (message.kind, message.key) == ("approval", f"lung-ct/5/{event.seq}")
    assert message.payload == {"task": "lung-ct", "version": "5"}, "the message contains no decision"
    page = client.get("/decisions").text
    assert "No version waits" in page and REASON in page


def test_an_unsigned_approval_is_not_shown_and_does_not_block(open_desk: Desk, csrf: Token) -> None:
    decisions.start_signing()
    ledger.append(EventKind.APPROVAL, "lung-ct/5", {"decision": "approve", "reason": "planted by hand"}, "enno")
    client = open_desk("engineer")
    page = client.get("/decisions").text
    assert "planted by hand" not in page and "superiority is not shown" in page
    assert send(client, csrf(client, "/decisions")).status_code == 303


def test_a_decision_that_the_flow_refused_can_be_repeated(open_desk: Desk, csrf: Token) -> None:
    client = open_desk("engineer")
    send(client, csrf(client, "/decisions"))
    [decision] = decisions.pending_decisions(EventKind.APPROVAL)
    decisions.mark_used(decision, "it failed in shadow meanwhile")
    assert send(client, csrf(client, "/decisions")).status_code == 303
    assert len(outbox.pending()) == 2


def test_a_version_has_one_decision(open_desk: Desk, csrf: Token) -> None:
    client = open_desk("engineer")
    token = csrf(client, "/decisions")
    assert [send(client, token).status_code, send(client, token, decision="reject").status_code] == [303, 409]
    assert len(ledger.events(kind=EventKind.APPROVAL, subject="lung-ct/5")) == 1


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"reason": "ok"}, 400),
        ({"reason": "          \n         "}, 400),
        ({"reason": "x" * 1001}, 400),
        ({"decision": "perhaps"}, 400),
        ({"version": "4"}, 409),
        ({"version": "77"}, 409),
        ({"task": "no-such"}, 409),
        ({"csrf": ""}, 403),
        ({"csrf": "0" * 64}, 403),
    ],
)
def test_a_refused_decision_writes_nothing(open_desk: Desk, csrf: Token, changes: dict[str, str], status: int) -> None:
    client, before = open_desk("engineer"), len(ledger.events())
    assert send(client, csrf(client, "/decisions"), **changes).status_code == status
    assert len(ledger.events()) == before and outbox.pending() == []


@pytest.mark.parametrize("role", ["clinician", "auditor"])
def test_only_engineers_decide(open_desk: Desk, csrf: Token, role: str) -> None:
    client = open_desk(role)
    assert send(client, csrf(client, "/nowhere")).status_code == 403
    assert outbox.pending() == []
