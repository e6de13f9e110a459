"""Decisions on the command line: by somebody who is signed in, checked again by the flow that acts."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from lineage import accounts, decisions, paths, registry, sessions
from lineage.errors import Fault
from lineage.record import ledger, outbox
from lineage.record.verdict import Outcome, Verdict
from pipelines.flows import deployments, scheduled_flows
from pipelines.models import promote, retrain_requests
from pipelines.servers import supervisor
from pipelines.workspace import command_line_session
from tests.pipelines.conftest import Run


@pytest.fixture(autouse=True)
def judged(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A version that waits for a person, and one that failed; MLflow, which knows neither, is not asked for files."""
    monkeypatch.setattr(registry, "check_artifacts", lambda *_: None)
    for version, outcome in (("1", Outcome.INCONCLUSIVE), ("2", Outcome.FAIL)):
        ledger.append("model.logged", "lung-ct", {"version": version})
        ledger.record(Verdict("training", f"lung-ct/{version}", outcome, ("few patients",)))


def test_without_accounts_the_system_decides(workspace: Path) -> None:
    accounts.add(accounts.CHECK, "engineer")
    assert command_line_session.authorised_person("approve") == "system" == command_line_session.current_person()


def test_with_accounts_nobody_decides_unnamed(workspace: Path) -> None:
    accounts.add("carla", "clinician")
    for action in ("approve", "retrain", "traffic", "withdraw", "acknowledge"):
        with pytest.raises(Fault, match="oncoloop signin"):
            command_line_session.authorised_person(action)
    assert command_line_session.authorised_person("people") == "system", "somebody must add the first engineer"
    accounts.add("erik", "engineer")
    with pytest.raises(Fault, match="oncoloop signin"):
        command_line_session.authorised_person("people")


def test_a_sign_in_is_kept_for_its_owner_alone_and_ends(engineer: str) -> None:
    assert command_line_session.authorised_person("approve") == engineer
    kept = paths.home() / f"signed-in-{os.getuid()}" / "session"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600 and stat.S_IMODE(kept.parent.stat().st_mode) == 0o700
    sessions.end_all(engineer, "ada")
    with pytest.raises(Fault, match="oncoloop signin"):
        command_line_session.authorised_person("approve")
    command_line_session.sign_in(f"http://127.0.0.1:7800/enter?token={accounts.invite(engineer)}")
    assert (
        command_line_session.sign_out() == engineer
        and command_line_session.current_person() == "system"
        and command_line_session.sign_out() is None
    )


def test_who_may_not_decide_is_told(workspace: Path) -> None:
    accounts.add("carla", "clinician")
    command_line_session.sign_in(accounts.invite("carla"))
    with pytest.raises(Fault, match="carla may not"):
        command_line_session.authorised_person("approve")


def test_a_link_signs_in_once_and_programs_never(engineer: str) -> None:
    link = accounts.invite(engineer)
    command_line_session.sign_in(link)
    with pytest.raises(Fault, match="once"):
        command_line_session.sign_in(link)
    accounts.add(accounts.SHADOW, "engineer")
    with pytest.raises(Fault, match="nobody signs in"):
        accounts.invite(accounts.SHADOW)


@pytest.fixture
def acted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, str]]:
    """What the flow does, in place of MLflow and a Bento."""
    done: list[tuple[str, str, str]] = []
    monkeypatch.setattr(promote, "promote", lambda task, version, actor, _: done.append((task, version, actor)))
    monkeypatch.setattr(promote, "release_champions", lambda: None)
    return done


def test_the_flow_acts_on_signed_rows_alone(engineer: str, acted: list[tuple[str, str, str]]) -> None:
    ledger.append("approval", "lung-ct/1", {"decision": "approve", "reason": "planted"}, "erik")
    outbox.put("approval", "lung-ct/1", {"task": "lung-ct", "version": "1", "actor": "erik", "decision": "approve"})
    assert scheduled_flows.decide.fn() == [] and acted == []
    event = promote.approve("lung-ct", "1", engineer, "read the errors")
    [told] = scheduled_flows.decide.fn()
    assert (told["decision"], told["refused"]) == (event.seq, "") and acted == [("lung-ct", "1", "erik")]
    assert scheduled_flows.decide.fn() == [], "a decision is used once"


def test_the_flow_refuses_who_lost_the_right_meanwhile(engineer: str, acted: list[tuple[str, str, str]]) -> None:
    promote.approve("lung-ct", "1", engineer, "read the errors")
    accounts.disable(engineer)
    [told] = scheduled_flows.decide.fn()
    assert "may not decide" in told["refused"] and acted == [] and scheduled_flows.decide.fn() == []


def test_of_two_who_decide_at_once_one_is_told(engineer: str, acted: list[tuple[str, str, str]]) -> None:
    promote.reject("lung-ct", "1", engineer, "artefacts")
    promote.approve("lung-ct", "1", engineer, "read the errors")
    told = scheduled_flows.decide.fn()
    assert [bool(one["refused"]) for one in told] == [False, True] and acted == []
    assert "at the same time" in told[1]["refused"]
    promote.approve("lung-ct", "1", engineer, "thought again")
    assert [one["refused"] for one in scheduled_flows.decide.fn()] == [""] and acted, (
        "a later decision is one of its own"
    )


def test_a_fail_can_not_be_signed_and_is_not_acted_on(engineer: str, acted: list[tuple[str, str, str]]) -> None:
    with pytest.raises(Fault, match="can't be approved"):
        promote.approve("lung-ct", "2", engineer, "all the same")
    decisions.record("approval", "lung-ct/2", {"decision": "approve", "reason": "round the check"}, engineer)
    [told] = scheduled_flows.decide.fn()
    assert "can't be approved" in told["refused"] and acted == []


def test_an_event_claims_nothing(engineer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What wakes the flows carries a task at most, and the deployments take no parameter."""
    said: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(deployments, "emit", lambda event, payload: said.append((event, payload)))
    monkeypatch.setattr(supervisor, "has_new_labels", lambda _: True)
    outbox.put("approval", "lung-ct/1/1", {"task": "lung-ct", "version": "1", "actor": "eve"})
    retrain_requests.ask_for_retraining("lung-ct", "drift/1", "the watch: the scanner changed")
    supervisor.drain_outbox()
    assert said == [(deployments.APPROVED, {"task": "lung-ct"}), (deployments.ASKED, {"task": "lung-ct"})]
    assert outbox.pending() == []
    for flow, own in deployments.planned():
        assert not flow.parameters.properties and "parameters" not in own
        assert all(not trigger.parameters for trigger in own.get("triggers", []))


def test_a_changed_deployment_is_seen() -> None:
    field = dict.fromkeys(deployments.FIELDS)
    known = {"decide/asked": field | {"entrypoint": "pipelines.flows.scheduled_flows.decide"}, "watch/scheduled": field}
    assert deployments.compare(known, known) == {}
    assert deployments.compare(known, {"decide/asked": known["decide/asked"]}) == {"watch/scheduled": ["deleted"]}
    evil = known | {"decide/asked": known["decide/asked"] | {"entrypoint": "evil.py:f", "pull_steps": [{"x": 1}]}}
    assert deployments.compare(known, evil) == {"decide/asked": ["entrypoint", "pull_steps"]}


def test_what_was_not_finished_is_woken_again(engineer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(deployments, "emit", lambda event, payload: said.append((event, payload)))
    promote.approve("lung-ct", "1", engineer, "read the errors")
    deployments.wake()
    assert said == [(deployments.APPROVED, {"task": "lung-ct"})]


def test_a_planted_request_starts_no_retraining(engineer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []
    monkeypatch.setattr(scheduled_flows, "retrain", lambda task, reason: asked.append((task, reason)))
    monkeypatch.setattr(scheduled_flows, "has_new_labels", lambda _: True)
    ledger.append("retrain.asked", "lung-ct", {"reason": "planted"})
    ledger.append("retrain.asked", "lung-ct", {"reason": "planted", "signature": "0" * 64, "signed_at": "2026-01-01"})
    scheduled_flows.retrain_asked.fn()
    assert asked == []
    retrain_requests.ask_for_retraining("lung-ct", "volume/1", "40 newly labelled units")
    retrain_requests.ask_for_retraining("lung-ct", "volume/1", "40 newly labelled units")
    scheduled_flows.retrain_asked.fn()
    scheduled_flows.retrain_asked.fn()
    assert asked == [("lung-ct", "40 newly labelled units")]


def test_a_planted_rollback_moves_no_traffic(engineer: str) -> None:
    from pipelines.models import release

    for name in ("blue", "green"):
        ledger.append("release.built", name, {"bento": f"oncoloop:{name}", "tasks": {}})
        ledger.record(Verdict("release", name, Outcome.PASS, ("the same answers",)))
    ledger.append("release.wanted", "blue", {"instead_of": "green", "reason": "planted"}, engineer)
    wanted = release.wanted()
    assert wanted and wanted.subject == "green"
    promote.rollback(engineer, "the new site is wrong")
    wanted = release.wanted()
    assert wanted and wanted.subject == "blue"


def test_the_commands_ask_who_decides(oncoloop: Run, workspace: Path) -> None:
    def said(*arguments: str) -> tuple[int, str]:
        done = oncoloop(*arguments, cwd=workspace)
        return done.returncode, done.stdout + done.stderr

    assert said("user", "add", "ines", "--role", "engineer")[0] == 0
    for command in (
        ("user", "add", "eve", "--role", "engineer"),
        ("user", "disable", "ines"),
        ("rollback", "--reason", "x"),
        ("reject", "lung-ct", "1", "--reason", "x"),
    ):
        code, text = said(*command)
        assert code == 1 and "oncoloop signin" in text and "Traceback" not in text, command
    link = said("login", "ines")[1].strip().splitlines()[-1]
    assert said("signin", link) == (0, "signed in as ines (engineer) for 12 hours\n")
    assert said("user", "add", "otto", "--role", "auditor")[0] == 0
    assert ledger.events("person.added")[-1].actor == "ines"
    token = said("login", "ines", "--token")[1].strip().splitlines()[-1]
    assert accounts.bearer(token, "predict")
    listed = said("user", "tokens", "ines")[1]
    assert said("user", "revoke", "ines", listed.split()[0])[0] == 0 and accounts.bearer(token, "predict") is None
    assert said("user", "sign-out", "ines")[0] == 0
    assert "oncoloop signin" in said("user", "disable", "otto")[1]
