"""One-time links, session cookies, CSRF tokens and requests from other origins."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from http.cookies import SimpleCookie
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from desk import visitor
from desk.accounts import signin
from desk.pages import tool_reports
from lineage import accounts, sessions
from lineage.record import database, ledger
from lineage.record.events import EventKind

Desk = Callable[[str], TestClient]
Token = Callable[..., str]


def test_a_link_works_once(open_desk: Desk) -> None:
    client, token = open_desk(""), accounts.invite("cleo")
    assert client.post("/enter", data={"token": token}).headers["location"] == "/"
    client.cookies.clear()
    second = client.post("/enter", data={"token": token})
    assert second.status_code == 403 and "no longer works" in second.text and "set-cookie" not in second.headers
    assert client.get("/enter", params={"token": token}).status_code == 403


def test_opening_a_link_does_not_use_it_up(open_desk: Desk) -> None:
    client, token = open_desk(""), accounts.invite("cleo")
    for _ in range(3):
        page = client.get("/enter", params={"token": token})
        assert page.status_code == 200 and token in page.text and "set-cookie" not in page.headers
    assert client.post("/enter", data={"token": token}).status_code == 303


def test_an_unknown_link_is_refused(open_desk: Desk) -> None:
    client = open_desk("")
    for token in ("", "x", "../../etc", "a" * 5000):
        assert client.get("/enter", params={"token": token}).status_code == 403
        assert client.post("/enter", data={"token": token}).status_code == 403


def test_the_cookie_is_strict_and_not_readable_by_scripts(open_desk: Desk) -> None:
    client = open_desk("")
    response = client.post("/enter", data={"token": accounts.invite("cleo")})
    cookie = SimpleCookie(response.headers["set-cookie"])[signin.COOKIE]
    assert cookie["httponly"] and cookie["samesite"] == "strict" and cookie["max-age"] == str(12 * 3600)
    secure = TestClient(client.app, base_url="https://desk.example", follow_redirects=False)
    response = secure.post("/enter", data={"token": accounts.invite("cleo")})
    assert "secure" in response.headers["set-cookie"].lower()


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://testserver:7801"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_requests_from_pages_of_other_origins_are_refused(
    open_desk: Desk, csrf: Token, headers: dict[str, str]
) -> None:
    signed_out, token = open_desk(""), accounts.invite("cleo")
    assert signed_out.post("/enter", data={"token": token}, headers=headers).status_code == 403
    assert accounts.is_invitation(token), "and the link is not used up"
    client = open_desk("engineer")
    form = {"csrf": csrf(client, "/decisions"), "task": "lung-ct", "version": "5", "decision": "approve"}
    assert client.post("/decisions", data=form | {"reason": "a long enough reason"}, headers=headers).status_code == 403
    assert not ledger.events(EventKind.APPROVAL, "lung-ct/5")
    clinician = open_desk("clinician")
    all_headers = {signin.CSRF_HEADER: csrf(clinician, "/"), **headers}
    assert clinician.post("/api/predict", files={"files": b"x"}, headers=all_headers).status_code == 403


@pytest.mark.parametrize("forge", [lambda v: v[:-9] + v[-1:-10:-1], lambda v: "x" + v, lambda _: ""])
def test_a_forged_cookie_is_not_accepted(open_desk: Desk, forge: Callable[[str], str]) -> None:
    client = open_desk("clinician")
    value = client.cookies[signin.COOKIE]
    client.cookies.clear()
    client.cookies.set(signin.COOKIE, forge(value))
    assert client.get("/cases").headers["location"] == "/signin"


def test_a_permit_for_another_purpose_is_not_accepted_as_a_cookie(open_desk: Desk) -> None:
    client, engineer = open_desk(""), open_desk("engineer")
    [session] = sessions.open_sessions("enno")
    permit = tool_reports.permit(visitor.Visitor("enno", "engineer", session.id))
    for value in (
        session.id,
        permit,
        sessions.begin("enno", sessions.TOOLS),
        sessions.begin("enno", sessions.COMMANDS),
    ):
        client.cookies.set(signin.COOKIE, value)
        assert client.get("/models").headers["location"] == "/signin"
    assert engineer.get("/models").status_code == 200


def test_a_session_ends_after_twelve_hours(open_desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    client = open_desk("clinician")
    assert client.get("/cases").status_code == 200
    later = datetime.now(UTC) + timedelta(hours=12, minutes=1)
    monkeypatch.setattr(database, "now", lambda: later.strftime("%Y-%m-%dT%H:%M:%SZ"))
    assert client.get("/cases").headers["location"] == "/signin"


def test_a_copied_cookie_ends_with_the_sign_out(open_desk: Desk, csrf: Token, workspace: Path) -> None:
    page = workspace / "evidently" / "drift.html"
    page.parent.mkdir()
    page.write_text("drift")
    client, thief = open_desk("engineer"), open_desk("")
    thief.cookies.set(signin.COOKIE, client.cookies[signin.COOKIE])
    [session] = sessions.open_sessions("enno")
    report = tool_reports.link(visitor.Visitor("enno", "engineer", session.id), str(page))
    assert thief.get("/models").status_code == 200 == thief.get(report).status_code
    client.post("/leave", data={"csrf": csrf(client, "/models")})
    assert thief.get("/models").headers["location"] == "/signin"
    assert thief.get(report).status_code == 403


def test_all_sessions_of_an_account_can_be_ended(open_desk: Desk) -> None:
    first, second, auditor = open_desk("engineer"), open_desk("engineer"), open_desk("auditor")
    assert sessions.end_all("enno", "auda") == 2
    assert {client.get("/models").headers.get("location") for client in (first, second)} == {"/signin"}
    assert auditor.get("/ledger").status_code == 200
    assert ledger.events(EventKind.PERSON_SIGNED_OUT, "enno")[-1].payload == {"sessions": 2}


def test_an_enabled_account_needs_a_new_link(open_desk: Desk) -> None:
    client, token, link = open_desk("clinician"), accounts.issue("cleo", "predict", 1), accounts.invite("cleo")
    accounts.disable("cleo")
    accounts.enable("cleo")
    assert client.get("/cases").headers["location"] == "/signin"
    assert accounts.bearer(token, "predict") is None and not accounts.is_invitation(link)
    assert client.post("/enter", data={"token": accounts.invite("cleo")}).status_code == 303


def test_a_disabled_person_is_signed_out_at_once(open_desk: Desk) -> None:
    client = open_desk("clinician")
    accounts.disable("cleo")
    assert client.get("/cases").headers["location"] == "/signin"


def test_signing_out_needs_the_csrf_token_and_deletes_the_cookie(open_desk: Desk, csrf: Token) -> None:
    client = open_desk("clinician")
    assert client.post("/leave").status_code == 403
    assert client.get("/cases").status_code == 200
    assert client.post("/leave", data={"csrf": csrf(client, "/cases")}).status_code == 200
    assert client.get("/cases").headers["location"] == "/signin"


def test_a_csrf_token_of_another_session_is_refused(open_desk: Desk, csrf: Token) -> None:
    first, second = open_desk("clinician"), open_desk("clinician")
    assert first.post("/leave", data={"csrf": csrf(second, "/cases")}).status_code == 403


def test_a_form_of_a_megabyte_is_refused(open_desk: Desk, csrf: Token) -> None:
    client = open_desk("engineer")
    form = {"csrf": csrf(client, "/decisions"), "reason": "x" * 1_000_000}
    assert client.post("/decisions", data=form).status_code == 413
