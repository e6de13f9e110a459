"""Decisions: signed, by people who may, acted on once and soon; whatever else claims to be one is refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from lineage import accounts, decisions, keys
from lineage.errors import Fault
from lineage.record import ledger
from lineage.record.ledger import Event

FACTS = {"decision": "approve", "reason": "read the errors"}


@pytest.fixture(autouse=True)
def three(home: Path) -> None:
    """One person of each role; decisions are signed from here on."""
    decisions.begin()
    for name, role in (("erik", "engineer"), ("carla", "clinician"), ("ada", "auditor")):
        accounts.add(name, role)


def made(actor: str = "erik") -> Event:
    """An approval."""
    return decisions.record("approval", "lung-ct/3", FACTS, actor)


def test_a_decision_is_good_once() -> None:
    event = made()
    assert decisions.facts(event) == FACTS and decisions.waiting("approval") == [event]
    decisions.check(event)
    decisions.use(event)
    assert decisions.waiting("approval") == []
    with pytest.raises(Fault, match="acted on already"):
        decisions.check(event)


@pytest.mark.parametrize("actor", ["carla", "ada", "system"])
def test_who_may_not_decide_leaves_no_row(actor: str) -> None:
    with pytest.raises(Fault, match="may not decide"):
        made(actor)
    assert not ledger.events("approval")


def test_before_there_are_accounts_the_system_decides(home: Path) -> None:
    for person in accounts.people():
        accounts.disable(person.name)
    accounts.add(accounts.CHECK, "engineer")
    decisions.check(made("system"))


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
def test_a_row_that_somebody_else_wrote_is_refused(change: dict[str, Any]) -> None:
    accounts.add("ines", "engineer")
    event = made()
    facts = vars(event) | change | {"payload": event.payload | change.get("payload", {})}
    forged = Event(**facts)
    assert not decisions.is_signed(forged)
    with pytest.raises(Fault, match="signature"):
        decisions.check(forged)


def test_a_row_without_a_signature_counts_only_from_before() -> None:
    late = ledger.append("release.wanted", "r2", {"reason": "x"}, "erik")
    assert not decisions.is_signed(late)
    early = Event(**vars(late) | {"seq": 0})
    assert decisions.is_signed(early), "state of before stays"
    with pytest.raises(Fault, match="signature"):
        decisions.check(early)


def test_a_decision_of_a_disabled_person_is_not_acted_on() -> None:
    event = made()
    accounts.disable("erik")
    with pytest.raises(Fault, match="may not decide"):
        decisions.check(event)


@pytest.mark.parametrize(("hours", "kind"), [(25, "approval"), (-25, "approval"), (24 * 91, "retrain.asked")])
def test_an_old_decision_is_not_acted_on(hours: float, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Then(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Then:
            moment = datetime.now(UTC) - timedelta(hours=hours)
            return cls.fromtimestamp(moment.timestamp(), tz)

    with monkeypatch.context() as moved:
        moved.setattr(decisions, "datetime", Then)
        event = decisions.record(kind, "lung-ct/3", FACTS, "erik")
    with pytest.raises(Fault, match="hours old"):
        decisions.check(event)


def test_a_decision_signed_with_a_lost_key_is_refused(home: Path) -> None:
    event = made()
    (home / "keys" / "decision").unlink()
    keys.create(("decision",))
    assert not decisions.is_signed(event)


def test_a_refusal_ends_a_decision() -> None:
    event = made()
    decisions.use(event, "the gate said fail")
    assert decisions.waiting("approval") == []
    assert ledger.events("decision.used")[-1].payload["refused"] == "the gate said fail"


def test_only_known_kinds_are_decisions() -> None:
    with pytest.raises(Fault, match="no kind of decision"):
        decisions.record("model.promoted", "lung-ct", {}, "erik")
