"""Decisions must be signed, permitted, recent and unused; all others are refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from lineage import accounts, decisions, keys
from lineage.errors import Fault
from lineage.record import ledger
from lineage.record.events import EventKind
from lineage.record.ledger import Event

FACTS = {"decision": "approve", "reason": "read the errors"}


@pytest.fixture(autouse=True)
def three_people(home: Path) -> None:
    """One person of each role; decisions are signed from now on."""
    decisions.start_signing()
    for name, role in (("erik", "engineer"), ("carla", "clinician"), ("ada", "auditor")):
        accounts.add(name, role)


def approve(actor: str = "erik") -> Event:
    """Record an approval."""
    return decisions.record(EventKind.APPROVAL, "lung-ct/3", FACTS, actor)


def test_a_decision_can_be_used_once() -> None:
    event = approve()
    assert decisions.facts(event) == FACTS and decisions.pending_decisions(EventKind.APPROVAL) == [event]
    decisions.check(event)
    decisions.mark_used(event)
    assert decisions.pending_decisions(EventKind.APPROVAL) == []
    with pytest.raises(Fault, match="acted on already"):
        decisions.check(event)


@pytest.mark.parametrize("actor", ["carla", "ada", "system"])
def test_a_decision_without_permission_is_not_recorded(actor: str) -> None:
    with pytest.raises(Fault, match="may not decide"):
        approve(actor)
    assert not ledger.events(EventKind.APPROVAL)


def test_the_system_may_decide_while_no_account_is_open(home: Path) -> None:
    for person in accounts.people():
        accounts.disable(person.name)
    accounts.add(accounts.CHECK_ACCOUNT, "engineer")
    decisions.check(approve("system"))


@pytest.mark.parametrize(
    "change",
    [
        {"actor": "ines"},
        {"subject": "lung-ct/4"},
        {"kind": "release.wanted"},
        {"payload": {"decision": "reject"}},
        {"payload": {"reason": "another"}},
        {"payload": {"signed_at": "2099-01-01T00:00:00+00:00"}},
        {"payload": {"signature": "0" * 64}},
        {"payload": {"signature": "ü"}},
        {"payload": {"signature": ""}},
    ],
)
def test_a_forged_decision_is_refused(change: dict[str, Any]) -> None:
    accounts.add("ines", "engineer")
    event = approve()
    facts = vars(event) | change | {"payload": event.payload | change.get("payload", {})}
    forged = Event(**facts)
    assert not decisions.is_signed(forged)
    with pytest.raises(Fault, match="signature"):
        decisions.check(forged)


def test_an_unsigned_decision_is_valid_only_before_signing_began() -> None:
    late = ledger.append(EventKind.RELEASE_WANTED, "r2", {"reason": "x"}, "erik")
    assert not decisions.is_signed(late)
    early = Event(**vars(late) | {"seq": 0})
    assert decisions.is_signed(early), "decisions before the start of signing stay valid"
    with pytest.raises(Fault, match="signature"):
        decisions.check(early)


def test_a_decision_of_a_disabled_person_is_refused() -> None:
    event = approve()
    accounts.disable("erik")
    with pytest.raises(Fault, match="may not decide"):
        decisions.check(event)


@pytest.mark.parametrize(("hours", "kind"), [(25, "approval"), (-25, "approval"), (24 * 91, "retrain.asked")])
def test_an_old_decision_is_refused(hours: float, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class ShiftedDatetime(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> ShiftedDatetime:
            moment = datetime.now(UTC) - timedelta(hours=hours)
            return cls.fromtimestamp(moment.timestamp(), tz)

    with monkeypatch.context() as patch:
        patch.setattr(decisions, "datetime", ShiftedDatetime)
        event = decisions.record(kind, "lung-ct/3", FACTS, "erik")
    with pytest.raises(Fault, match="hours old"):
        decisions.check(event)


def test_a_decision_signed_with_a_lost_key_is_refused(home: Path) -> None:
    event = approve()
    (home / "keys" / "decision").unlink()
    keys.create(("decision",))
    assert not decisions.is_signed(event)


def test_a_refusal_ends_a_decision() -> None:
    event = approve()
    decisions.mark_used(event, "the gate said fail")
    assert decisions.pending_decisions(EventKind.APPROVAL) == []
    assert ledger.events(EventKind.DECISION_USED)[-1].payload["refused"] == "the gate said fail"


def test_only_known_kinds_are_decisions() -> None:
    with pytest.raises(Fault, match="no kind of decision"):
        decisions.record(EventKind.MODEL_PROMOTED, "lung-ct", {}, "erik")
