"""Who people are, how they come in, and what they may do."""

from __future__ import annotations

from pathlib import Path

import pytest

from lineage import ledger, people, store
from lineage.fault import Fault


@pytest.fixture
def three(home: Path) -> None:
    """One person of each role."""
    for name, role in (("erik", "engineer"), ("carla", "clinician"), ("ada", "auditor")):
        people.add(name, role)


def test_people_are_listed_with_who_added_them(home: Path) -> None:
    people.add("erik", "engineer")
    people.add("carla", "clinician", actor="erik")
    assert [(person.name, person.role, person.added_by) for person in people.people()] == [
        ("carla", "clinician", "erik"),
        ("erik", "engineer", "system"),
    ]
    assert [(event.subject, event.actor) for event in ledger.events("person.added")] == [
        ("erik", "system"),
        ("carla", "erik"),
    ]


@pytest.mark.parametrize(
    ("name", "role", "sentence"),
    [
        ("erik", "doctor", "engineer, clinician, auditor"),
        ("system", "engineer", "can't be a user's name"),
        ("Erik <b>", "engineer", "lower-case"),
        ("", "engineer", "lower-case"),
        ("carla", "engineer", "already"),
    ],
)
def test_a_bad_account_is_refused(three: None, name: str, role: str, sentence: str) -> None:
    with pytest.raises(Fault, match=sentence):
        people.add(name, role)
    assert len(people.people()) == 3


def test_a_link_works_once(three: None) -> None:
    token = people.invite("carla")
    found = people.redeem(token)
    assert found is not None and found.name == "carla"
    assert people.redeem(token) is None
    assert people.redeem("made up") is None


def test_a_link_expires(three: None) -> None:
    assert people.redeem(people.invite("carla", minutes=0)) is None


def test_a_token_is_for_one_scope(three: None) -> None:
    token = people.issue("carla", "predict", days=1)
    found = people.bearer(token, "predict")
    assert found is not None and found.role == "clinician"
    assert people.bearer(token, "cases") is None
    assert people.bearer(token[:-1], "predict") is None
    assert people.bearer(people.bearer.__name__, "predict") is None
    assert people.bearer(token, "predict") is not None, "a bearer token is not used up"


def test_links_and_tokens_are_not_each_other(three: None) -> None:
    assert people.redeem(people.issue("carla", "predict", days=1)) is None
    link = people.invite("carla")
    assert people.bearer(link, "predict") is None and people.bearer(link, people.INVITATION) is None
    assert people.redeem(link) is not None


def test_a_token_expires(three: None) -> None:
    token = people.issue("carla", "predict", days=1)
    store.execute(store.tokens.update().values(expires_at="2020-01-01T00:00:00Z"))
    assert people.bearer(token, "predict") is None


def test_only_hashes_of_tokens_are_kept(three: None, home: Path) -> None:
    secrets = [people.issue("carla", "predict", days=1), people.invite("ada")]
    kept = b"".join(path.read_bytes() for path in home.rglob("*") if path.is_file())
    assert b"carla" in kept
    assert not any(secret.encode() in kept for secret in secrets)


def test_nobody_hands_out_more_than_the_person_may(three: None) -> None:
    with pytest.raises(Fault, match="may not approve"):
        people.issue("carla", "approve", days=1)
    with pytest.raises(Fault, match="not a scope"):
        people.issue("carla", "everything", days=1)
    with pytest.raises(Fault, match="at least one day"):
        people.issue("carla", "predict", days=0)
    with pytest.raises(Fault, match="no user 'nobody'"):
        people.issue("nobody", "predict", days=1)


def test_a_disabled_account_is_shut_at_once(three: None) -> None:
    token, link = people.issue("carla", "predict", days=1), people.invite("carla")
    people.disable("carla", actor="erik")
    people.disable("carla", actor="erik")
    assert people.bearer(token, "predict") is None and people.redeem(link) is None
    assert not people.may("carla", "predict")
    with pytest.raises(Fault, match="disabled"):
        people.invite("carla")
    with pytest.raises(Fault, match="already"):
        people.add("carla", "clinician")
    assert [event.actor for event in ledger.events("person.disabled", "carla")] == ["erik"]


def test_each_role_does_its_own_work(three: None) -> None:
    may = {name: {action for action in people.ACTIONS if people.may(name, action)} for name in ("erik", "carla", "ada")}
    assert may["carla"] == {"predict", "cases", "outcome"}
    assert {"approve", "retrain", "traffic"} <= may["erik"] and "cases" not in may["erik"]
    assert {"trace", "ledger", "evidence"} <= may["ada"]
    assert not may["ada"] & {"approve", "predict", "traffic", "people", "cases"}
    assert all(people.may(people.SYSTEM, action) for action in people.ACTIONS)


def test_an_action_nobody_thought_of_is_a_fault(three: None) -> None:
    with pytest.raises(Fault, match="not an action"):
        people.may("erik", "aprove")
    with pytest.raises(Fault, match="no user"):
        people.may("nobody", "approve")
