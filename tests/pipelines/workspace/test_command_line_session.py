"""Decisions on the command line: by a signed-in person, checked again by the flow that carries them out."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from lineage import accounts, decisions, mlflow_registry, paths, sessions
from lineage.errors import Fault
from lineage.record import ledger, outbox
from lineage.record.events import EventKind
from lineage.record.verdict import Outcome, Verdict
from pipelines.flows import deployments, scheduled_flows
from pipelines.models import promote, retrain_requests
from pipelines.servers import supervisor
from pipelines.workspace import command_line_session
from tests.pipelines.conftest import Run


@pytest.fixture(autouse=True)
def judged_versions(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A version that waits for approval, and a failed one; MLflow has neither, so its file check is disabled."""
    monkeypatch.setattr(mlflow_registry, "check_artifacts", lambda *_: None)
    for version, outcome in (("1", Outcome.INCONCLUSIVE), ("2", Outcome.FAIL)):
        ledger.append(EventKind.MODEL_LOGGED, "lung-ct", {"version": version})
        ledger.record_verdict(Verdict("training", f"lung-ct/{version}", outcome, ("few patients",)))


def test_without_accounts_the_system_decides(workspace: Path) -> None:
    accounts.add(accounts.CHECK_ACCOUNT, "engineer")
    assert command_line_session.authorised_person("approve") == "system" == command_line_session.current_person()


def test_with_accounts_a_decision_needs_a_sign_in(workspace: Path) -> None:
    accounts.add("carla", "clinician")
    for action in ("approve", "retrain", "traffic", "withdraw", "acknowledge"):
        with pytest.raises(Fault, match="oncoloop signin"):
            command_line_session.authorised_person(action)
    assert command_line_session.authorised_person("people") == "system", "the first engineer is added without a sign-in"
    accounts.add("erik", "engineer")
    with pytest.raises(Fault, match="oncoloop signin"):
        command_line_session.authorised_person("people")


def test_a_sign_in_is_private_and_ends(engineer: str) -> None:
    assert command_line_session.authorised_person("approve") == engineer
    session_file = paths.home() / f"signed-in-{os.getuid()}" / "session"
    assert (
        stat.S_IMODE(session_file.stat().st_mode) == 0o600 and stat.S_IMODE(session_file.parent.stat().st_mode) == 0o700
    )
    sessions.end_all(engineer, "ada")
    with pytest.raises(Fault, match="oncoloop signin"):
        command_line_session.authorised_person("approve")
    command_line_session.sign_in(f"http://127.0.0.1:7800/enter?token={accounts.invite(engineer)}")
    assert (
        command_line_session.sign_out() == engineer
        and command_line_session.current_person() == "system"
        and command_line_session.sign_out() is None
    )


def test_a_person_without_the_right_cannot_decide(workspace: Path) -> None:
    accounts.add("carla", "clinician")
    command_line_session.sign_in(accounts.invite("carla"))
    with pytest.raises(Fault, match="carla may not"):
        command_line_session.authorised_person("approve")


def test_a_link_signs_in_once_and_a_program_never(engineer: str) -> None:
    link = accounts.invite(engineer)
    command_line_session.sign_in(link)
    with pytest.raises(Fault, match="once"):
        command_line_session.sign_in(link)
    accounts.add(accounts.SHADOW_ACCOUNT, "engineer")
    with pytest.raises(Fault, match="nobody signs in"):
        accounts.invite(accounts.SHADOW_ACCOUNT)


@pytest.fixture
def promotions(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, str]]:
    """The promotions of the flow, recorded instead of MLflow and a Bento."""
    promotions: list[tuple[str, str, str]] = []
    monkeypatch.setattr(
        promote, "promote_version", lambda task, version, actor, _: promotions.append((task, version, actor))
    )
    monkeypatch.setattr(promote, "release_champions", lambda: None)
    return promotions


def test_the_flow_carries_out_only_signed_decisions(engineer: str, promotions: list[tuple[str, str, str]]) -> None:
    ledger.append(EventKind.APPROVAL, "lung-ct/1", {"decision": "approve", "reason": "planted"}, "erik")
    outbox.put("approval", "lung-ct/1", {"task": "lung-ct", "version": "1", "actor": "erik", "decision": "approve"})
    assert scheduled_flows.decide.fn() == [] and promotions == []
    event = promote.approve("lung-ct", "1", engineer, "read the errors")
    [outcome] = scheduled_flows.decide.fn()
    assert (outcome["decision"], outcome["refused"]) == (event.seq, "") and promotions == [("lung-ct", "1", "erik")]
    assert scheduled_flows.decide.fn() == [], "a decision is used once"


def test_the_flow_refuses_the_decision_of_a_disabled_account(
    engineer: str, promotions: list[tuple[str, str, str]]
) -> None:
    promote.approve("lung-ct", "1", engineer, "read the errors")
    accounts.disable(engineer)
    [outcome] = scheduled_flows.decide.fn()
    assert "may not decide" in outcome["refused"] and promotions == [] and scheduled_flows.decide.fn() == []


def test_one_of_two_simultaneous_decisions_is_refused(engineer: str, promotions: list[tuple[str, str, str]]) -> None:
    promote.reject("lung-ct", "1", engineer, "artefacts")
    promote.approve("lung-ct", "1", engineer, "read the errors")
    outcomes = scheduled_flows.decide.fn()
    assert [bool(outcome["refused"]) for outcome in outcomes] == [False, True] and promotions == []
    assert "at the same time" in outcomes[1]["refused"]
    promote.approve("lung-ct", "1", engineer, "thought again")
    assert [outcome["refused"] for outcome in scheduled_flows.decide.fn()] == [""] and promotions, (
        "a later decision is independent"
    )


def test_a_failed_version_cannot_be_approved(engineer: str, promotions: list[tuple[str, str, str]]) -> None:
    with pytest.raises(Fault, match="can't be approved"):
        promote.approve("lung-ct", "2", engineer, "all the same")
    decisions.record(EventKind.APPROVAL, "lung-ct/2", {"decision": "approve", "reason": "round the check"}, engineer)
    [outcome] = scheduled_flows.decide.fn()
    assert "can't be approved" in outcome["refused"] and promotions == []


def test_an_event_decides_nothing(engineer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An event that starts a flow contains only a task, and the deployments take no parameter."""
    events: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(deployments, "emit_task_event", lambda event, payload: events.append((event, payload)))
    monkeypatch.setattr(supervisor, "has_new_labels", lambda _: True)
    outbox.put("approval", "lung-ct/1/1", {"task": "lung-ct", "version": "1", "actor": "eve"})
    retrain_requests.ask_for_retraining("lung-ct", "drift/1", "the watch: the scanner changed")
    supervisor.drain_outbox()
    assert events == [
        (deployments.APPROVAL_EVENT, {"task": "lung-ct"}),
        (deployments.RETRAIN_EVENT, {"task": "lung-ct"}),
    ]
    assert outbox.pending() == []
    for flow, settings in deployments.planned_deployments():
        assert not flow.parameters.properties and "parameters" not in settings
        assert all(not trigger.parameters for trigger in settings.get("triggers", []))


def test_a_changed_deployment_is_detected() -> None:
    fields = dict.fromkeys(deployments.COMPARED_FIELDS)
    recorded = {
        "decide/asked": fields | {"entrypoint": "pipelines.flows.scheduled_flows.decide"},
        "watch/scheduled": fields,
    }
    assert deployments.changed_fields(recorded, recorded) == {}
    assert deployments.changed_fields(recorded, {"decide/asked": recorded["decide/asked"]}) == {
        "watch/scheduled": ["deleted"]
    }
    evil = recorded | {"decide/asked": recorded["decide/asked"] | {"entrypoint": "evil.py:f", "pull_steps": [{"x": 1}]}}
    assert deployments.changed_fields(recorded, evil) == {"decide/asked": ["entrypoint", "pull_steps"]}


def test_an_unfinished_decision_is_started_again(engineer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(deployments, "emit_task_event", lambda event, payload: events.append((event, payload)))
    promote.approve("lung-ct", "1", engineer, "read the errors")
    deployments.emit_unfinished_requests()
    assert events == [(deployments.APPROVAL_EVENT, {"task": "lung-ct"})]


def test_a_planted_request_starts_no_retraining(engineer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    retrainings: list[tuple[str, str]] = []
    monkeypatch.setattr(scheduled_flows, "retrain", lambda task, reason: retrainings.append((task, reason)))
    monkeypatch.setattr(scheduled_flows, "has_new_labels", lambda _: True)
    ledger.append(EventKind.RETRAIN_ASKED, "lung-ct", {"reason": "planted"})
    ledger.append(
        EventKind.RETRAIN_ASKED, "lung-ct", {"reason": "planted", "signature": "0" * 64, "signed_at": "2026-01-01"}
    )
    scheduled_flows.retrain_asked.fn()
    assert retrainings == []
    retrain_requests.ask_for_retraining("lung-ct", "volume/1", "40 newly labelled units")
    retrain_requests.ask_for_retraining("lung-ct", "volume/1", "40 newly labelled units")
    scheduled_flows.retrain_asked.fn()
    scheduled_flows.retrain_asked.fn()
    assert retrainings == [("lung-ct", "40 newly labelled units")]


def test_a_planted_rollback_moves_no_traffic(engineer: str) -> None:
    from lineage import current_state

    for name in ("blue", "green"):
        ledger.append(EventKind.RELEASE_BUILT, name, {"bento": f"oncoloop:{name}", "tasks": {}})
        ledger.record_verdict(Verdict("release", name, Outcome.PASS, ("the same answers",)))
    ledger.append(EventKind.RELEASE_WANTED, "blue", {"instead_of": "green", "reason": "planted"}, engineer)
    wanted_release = current_state.release_to_serve()
    assert wanted_release and wanted_release.subject == "green"
    promote.rollback(engineer, "the new site is wrong")
    wanted_release = current_state.release_to_serve()
    assert wanted_release and wanted_release.subject == "blue"


def test_the_commands_require_a_sign_in_for_decisions(oncoloop: Run, workspace: Path) -> None:
    def run(*arguments: str) -> tuple[int, str]:
        process = oncoloop(*arguments, cwd=workspace)
        return process.returncode, process.stdout + process.stderr

    assert run("user", "add", "ines", "--role", "engineer")[0] == 0
    for command in (
        ("user", "add", "eve", "--role", "engineer"),
        ("user", "disable", "ines"),
        ("rollback", "--reason", "x"),
        ("reject", "lung-ct", "1", "--reason", "x"),
    ):
        code, text = run(*command)
        assert code == 1 and "oncoloop signin" in text and "Traceback" not in text, command
    link = run("login", "ines")[1].strip().splitlines()[-1]
    assert run("signin", link) == (0, "signed in as ines (engineer) for 12 hours\n")
    assert run("user", "add", "otto", "--role", "auditor")[0] == 0
    assert ledger.events(EventKind.PERSON_ADDED)[-1].actor == "ines"
    token = run("login", "ines", "--token")[1].strip().splitlines()[-1]
    assert accounts.bearer(token, "predict")
    tokens = run("user", "tokens", "ines")[1]
    assert run("user", "revoke", "ines", tokens.split()[0])[0] == 0 and accounts.bearer(token, "predict") is None
    assert run("user", "sign-out", "ines")[0] == 0
    assert "oncoloop signin" in run("user", "disable", "otto")[1]
