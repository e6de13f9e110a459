"""Accounts, links, tokens and permissions."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from lineage import accounts
from lineage.errors import Fault
from lineage.fingerprint import text_sha256
from lineage.record import database, ledger
from lineage.record.events import EventKind

ENGINEER, CLINICIAN, AUDITOR = "engineer", "clinician", "auditor"
ALLOWED = {  # the roles that may do each action; the system may do all, and there are no other actions
    "predict": {CLINICIAN, ENGINEER},
    "cases": {CLINICIAN},
    "outcome": {CLINICIAN},
    "models": {ENGINEER, AUDITOR},
    "drift": {ENGINEER, AUDITOR},
    "acknowledge": {ENGINEER},
    "ingest": {ENGINEER},
    "retrain": {ENGINEER},
    "approve": {ENGINEER},
    "traffic": {ENGINEER},
    "withdraw": {ENGINEER},
    "people": {ENGINEER},
    "trace": {ENGINEER, AUDITOR},
    "ledger": {ENGINEER, AUDITOR},
    "evidence": {ENGINEER, AUDITOR},
}


def advance_clock(monkeypatch: pytest.MonkeyPatch, **duration: float) -> None:
    """Move the clock of the database forward."""
    moment = datetime.now(UTC) + timedelta(**duration)
    monkeypatch.setattr(database, "now", lambda: moment.strftime("%Y-%m-%dT%H:%M:%SZ"))


@pytest.fixture
def three_people(home: Path) -> None:
    """One person of each role."""
    for name, role in (("erik", "engineer"), ("carla", "clinician"), ("ada", "auditor")):
        accounts.add(name, role)


def test_accounts_are_listed_with_the_person_who_added_them(home: Path) -> None:
    accounts.add("erik", "engineer")
    accounts.add("carla", "clinician", actor="erik")
    assert [(person.name, person.role, person.added_by) for person in accounts.people()] == [
        ("carla", "clinician", "erik"),
        ("erik", "engineer", "system"),
    ]
    assert [(event.subject, event.actor) for event in ledger.events(EventKind.PERSON_ADDED)] == [
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
def test_an_invalid_account_is_refused(three_people: None, name: str, role: str, sentence: str) -> None:
    with pytest.raises(Fault, match=sentence):
        accounts.add(name, role)
    assert len(accounts.people()) == 3


@pytest.mark.parametrize("name", ["a", "0", "a.b_c@d-e", "x" * 64])
def test_a_name_may_be_short_or_an_address(home: Path, name: str) -> None:
    accounts.add(name, "engineer")
    assert accounts.person(name).name == name


@pytest.mark.parametrize("name", ["x" * 65, ".a", "-a", "@a", "_a", "a b", "a/b", "a\n", "é"])
def test_an_ambiguous_name_is_refused(home: Path, name: str) -> None:
    with pytest.raises(Fault, match="can't be a user's name"):
        accounts.add(name, "engineer")
    assert accounts.people() == [] and ledger.events() == []


def test_an_account_has_the_times_of_opening_and_closing(home: Path) -> None:
    before = database.now()
    added = accounts.add("erik", "engineer")
    assert before <= added.added_at <= database.now() and added.disabled_at is None
    assert accounts.person("erik") == added
    accounts.disable("erik")
    disabled_at = accounts.person("erik").disabled_at
    assert disabled_at is not None and before <= disabled_at <= database.now()
    assert [person.disabled_at for person in accounts.people()] == [disabled_at]


def test_the_ledger_records_the_role_of_a_new_account(three_people: None) -> None:
    roles = {event.subject: event.payload for event in ledger.events(EventKind.PERSON_ADDED)}
    assert roles == {"erik": {"role": "engineer"}, "carla": {"role": "clinician"}, "ada": {"role": "auditor"}}


def test_closing_an_account_again_changes_nothing(three_people: None, monkeypatch: pytest.MonkeyPatch) -> None:
    accounts.disable("carla")
    closed = accounts.person("carla")
    advance_clock(monkeypatch, days=1)
    accounts.disable("carla")
    assert accounts.person("carla") == closed
    with pytest.raises(Fault, match="no user 'nobody'"):
        accounts.disable("nobody")


def test_a_link_works_once(three_people: None) -> None:
    token = accounts.invite("carla")
    person = accounts.redeem(token)
    assert person is not None and person.name == "carla"
    assert accounts.redeem(token) is None
    assert accounts.redeem("made up") is None


def test_a_link_expires(three_people: None) -> None:
    assert accounts.redeem(accounts.invite("carla", minutes=0)) is None


@pytest.mark.parametrize(("minutes", "works"), [(9.5, True), (10.5, False)])
def test_a_link_works_for_ten_minutes(
    three_people: None, monkeypatch: pytest.MonkeyPatch, minutes: float, works: bool
) -> None:
    token = accounts.invite("carla")
    advance_clock(monkeypatch, minutes=minutes)
    assert (accounts.redeem(token) is not None) is works


def test_one_link_does_not_use_up_another(three_people: None) -> None:
    first, second = accounts.invite("carla"), accounts.invite("ada")
    assert first != second and min(len(first), len(second)) >= 43, "32 random bytes"
    for token, name in ((second, "ada"), (first, "carla")):
        person = accounts.redeem(token)
        assert person is not None and person.name == name


def test_a_link_sent_before_the_account_was_disabled_stays_invalid(three_people: None) -> None:
    link = accounts.invite("carla")
    accounts.disable("carla")
    assert accounts.redeem(link) is None
    database.execute(database.people.update().values(disabled_at=None))
    assert accounts.redeem(link) is None


def test_an_issued_token_is_recorded_without_its_text(three_people: None) -> None:
    token = accounts.issue("carla", "predict", days=30, actor="erik")
    (event,) = ledger.events(EventKind.TOKEN_ISSUED)
    assert (event.subject, event.actor) == ("carla", "erik")
    assert event.payload == {"scope": "predict", "days": 30, "sha256": text_sha256(token)}
    accounts.issue("erik", "ingest", days=1)
    assert ledger.events(EventKind.TOKEN_ISSUED)[-1].actor == "system"


def test_a_refused_token_is_not_recorded(three_people: None) -> None:
    for name, scope, days in (("carla", "approve", 1), ("carla", "sign-in", 1), ("ada", "trace", 0)):
        with pytest.raises(Fault):
            accounts.issue(name, scope, days=days)
    assert ledger.events(EventKind.TOKEN_ISSUED) == [] and database.fetch(database.tokens.select()) == []


@pytest.mark.parametrize(("days", "works"), [(6.99, True), (7.01, False)])
def test_a_token_works_for_the_days_it_was_issued_for(
    three_people: None, monkeypatch: pytest.MonkeyPatch, days: float, works: bool
) -> None:
    token = accounts.issue("carla", "predict", days=7)
    advance_clock(monkeypatch, days=days)
    assert (accounts.bearer(token, "predict") is not None) is works


def test_a_token_is_invalid_at_its_expiry_time(three_people: None, monkeypatch: pytest.MonkeyPatch) -> None:
    token, link = accounts.issue("carla", "predict", days=1), accounts.invite("carla")
    moment = "2026-01-31T12:00:00Z"
    database.execute(database.tokens.update().values(expires_at=moment))
    monkeypatch.setattr(database, "now", lambda: moment)
    assert accounts.bearer(token, "predict") is None and accounts.redeem(link) is None


def test_a_token_allows_no_more_than_the_role_of_its_holder_does_now(three_people: None) -> None:
    token = accounts.issue("carla", "predict", days=1)
    database.execute(database.people.update().where(database.people.c.name == "carla").values(role="auditor"))
    assert accounts.bearer(token, "predict") is None


def test_a_token_is_for_one_scope(three_people: None) -> None:
    token = accounts.issue("carla", "predict", days=1)
    person = accounts.bearer(token, "predict")
    assert person is not None and person.role == "clinician"
    assert accounts.bearer(token, "cases") is None
    assert accounts.bearer(token[:-1], "predict") is None
    assert accounts.bearer(accounts.bearer.__name__, "predict") is None
    assert accounts.bearer(token, "predict") is not None, "a bearer token is not used up"


def test_links_are_no_bearer_tokens_and_tokens_are_no_links(three_people: None) -> None:
    assert accounts.redeem(accounts.issue("carla", "predict", days=1)) is None
    link = accounts.invite("carla")
    assert accounts.bearer(link, "predict") is None and accounts.bearer(link, accounts.INVITATION) is None
    assert accounts.redeem(link) is not None


def test_a_token_expires(three_people: None) -> None:
    token = accounts.issue("carla", "predict", days=1)
    database.execute(database.tokens.update().values(expires_at="2020-01-01T00:00:00Z"))
    assert accounts.bearer(token, "predict") is None


def test_only_hashes_of_tokens_are_stored(three_people: None, home: Path) -> None:
    secrets = [accounts.issue("carla", "predict", days=1), accounts.invite("ada")]
    stored_bytes = b"".join(path.read_bytes() for path in home.rglob("*") if path.is_file())
    assert b"carla" in stored_bytes
    assert not any(secret.encode() in stored_bytes for secret in secrets)


def test_a_token_cannot_exceed_the_permissions_of_its_person(three_people: None) -> None:
    with pytest.raises(Fault, match="may not approve"):
        accounts.issue("carla", "approve", days=1)
    with pytest.raises(Fault, match="not a scope"):
        accounts.issue("carla", "everything", days=1)
    with pytest.raises(Fault, match="at least one day"):
        accounts.issue("carla", "predict", days=0)
    with pytest.raises(Fault, match="no user 'nobody'"):
        accounts.issue("nobody", "predict", days=1)


def test_a_disabled_account_is_closed_at_once(three_people: None) -> None:
    token, link = accounts.issue("carla", "predict", days=1), accounts.invite("carla")
    accounts.disable("carla", actor="erik")
    accounts.disable("carla", actor="erik")
    assert accounts.bearer(token, "predict") is None and accounts.redeem(link) is None
    assert not accounts.may("carla", "predict")
    with pytest.raises(Fault, match="disabled"):
        accounts.invite("carla")
    with pytest.raises(Fault, match="already"):
        accounts.add("carla", "clinician")
    assert [event.actor for event in ledger.events(EventKind.PERSON_DISABLED, "carla")] == ["erik"]


@pytest.mark.parametrize("role", [ENGINEER, CLINICIAN, AUDITOR])
def test_a_role_may_do_exactly_its_own_work(role: str) -> None:
    person = accounts.Person("pat", role, "2026-01-31T12:00:00Z", "system")
    allowed = {action for action in accounts.ACTIONS if accounts.may(person, action)}
    assert allowed == {action for action, roles in ALLOWED.items() if role in roles}


def test_the_system_may_do_all_and_a_disabled_person_nothing() -> None:
    assert set(accounts.ACTIONS) == set(ALLOWED)
    assert all(accounts.may(accounts.SYSTEM, action) for action in ALLOWED)
    for role in (ENGINEER, CLINICIAN, AUDITOR):
        disabled = accounts.Person("pat", role, "2026-01-31T12:00:00Z", "system", "2026-02-01T12:00:00Z")
        assert not any(accounts.may(disabled, action) for action in ALLOWED)


def test_permissions_can_be_checked_by_name(three_people: None) -> None:
    for name, role in (("erik", ENGINEER), ("carla", CLINICIAN), ("ada", AUDITOR)):
        assert {action for action in ALLOWED if accounts.may(name, action)} == {
            action for action, roles in ALLOWED.items() if role in roles
        }


def test_an_unknown_action_is_a_fault(three_people: None) -> None:
    with pytest.raises(Fault, match="not an action"):
        accounts.may("erik", "aprove")
    with pytest.raises(Fault, match="no user"):
        accounts.may("nobody", "approve")


def test_programs_and_disabled_people_may_not_sign_in(three_people: None) -> None:
    accounts.add(accounts.CHECK_ACCOUNT, "engineer")
    accounts.disable("ada")
    assert [person.name for person in accounts.open_accounts()] == ["carla", "erik"]
    assert accounts.require_open_account("carla").name == "carla"
    for name, sentence in ((accounts.CHECK_ACCOUNT, "nobody signs in"), ("ada", "disabled"), ("eve", "no user")):
        with pytest.raises(Fault, match=sentence):
            accounts.invite(name)


def test_enabling_an_account_does_not_restore_its_tokens(three_people: None) -> None:
    token, link = accounts.issue("carla", "predict", 1), accounts.invite("carla")
    accounts.disable("carla")
    accounts.enable("carla", "erik")
    accounts.enable("carla", "erik")
    assert accounts.person("carla").disabled_at is None
    assert [(event.subject, event.actor) for event in ledger.events(EventKind.PERSON_ENABLED)] == [("carla", "erik")]
    assert accounts.bearer(token, "predict") is None and accounts.redeem(link) is None
    assert accounts.bearer(accounts.issue("carla", "predict", 1), "predict")


def test_tokens_are_listed_and_revoked_one_by_one(three_people: None) -> None:
    first, second = accounts.issue("carla", "predict", 1), accounts.issue("carla", "predict", 2)
    accounts.issue("erik", "predict", 1)
    accounts.invite("carla")
    listed = accounts.tokens("carla")
    assert {row["sha256"] for row in listed} == {text_sha256(first), text_sha256(second)}
    assert all(row["scope"] == "predict" and row["issued_at"] and row["expires_at"] for row in listed)
    for prefix in ("", "zz", text_sha256("another")):
        with pytest.raises(Fault, match="user tokens carla"):
            accounts.revoke("carla", prefix)
    accounts.revoke("carla", text_sha256(first)[:12].upper(), "erik")
    assert accounts.bearer(first, "predict") is None and accounts.bearer(second, "predict")
    assert [row["sha256"] for row in accounts.tokens("carla")] == [text_sha256(second)]
    [event] = ledger.events(EventKind.TOKEN_REVOKED)
    assert (event.subject, event.actor, event.payload) == ("carla", "erik", {"sha256": text_sha256(first)})
