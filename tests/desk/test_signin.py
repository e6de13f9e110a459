"""Links that work once, cookies that can't be forged, forms that come from our own pages."""

from __future__ import annotations

from collections.abc import Callable
from http.cookies import SimpleCookie

import pytest
from starlette.testclient import TestClient

from desk import signin
from lineage import people

Desk = Callable[[str], TestClient]
Token = Callable[..., str]


def test_a_link_works_once(open_desk: Desk) -> None:
    client, token = open_desk(""), people.invite("cleo")
    assert client.get("/enter", params={"token": token}).headers["location"] == "/"
    client.cookies.clear()
    again = client.get("/enter", params={"token": token})
    assert again.status_code == 403 and "no longer works" in again.text and "set-cookie" not in again.headers


def test_a_made_up_link_opens_nothing(open_desk: Desk) -> None:
    client = open_desk("")
    for token in ("", "x", "../../etc", "a" * 5000):
        assert client.get("/enter", params={"token": token}).status_code == 403


def test_the_cookie_is_strict_and_out_of_reach_of_scripts(open_desk: Desk) -> None:
    client = open_desk("")
    came = client.get("/enter", params={"token": people.invite("cleo")})
    cookie = SimpleCookie(came.headers["set-cookie"])[signin.COOKIE]
    assert cookie["httponly"] and cookie["samesite"] == "strict" and cookie["max-age"] == str(12 * 3600)
    secure = TestClient(client.app, base_url="https://desk.example", follow_redirects=False)
    came = secure.get("/enter", params={"token": people.invite("cleo")})
    assert "secure" in came.headers["set-cookie"].lower()


@pytest.mark.parametrize("spoil", [lambda v: v[:-9] + v[-1:-10:-1], lambda v: "x" + v, lambda _: ""])
def test_a_forged_cookie_is_no_sign_in(open_desk: Desk, spoil: Callable[[str], str]) -> None:
    client = open_desk("clinician")
    value = client.cookies[signin.COOKIE]
    client.cookies.clear()
    client.cookies.set(signin.COOKIE, spoil(value))
    assert client.get("/cases").headers["location"] == "/signin"


def test_a_permit_for_another_purpose_is_no_cookie(open_desk: Desk) -> None:
    client = open_desk("")
    client.cookies.set(signin.COOKIE, signin.serializer("shelf").dumps(["enno", "session"]))
    assert client.get("/models").headers["location"] == "/signin"


def test_a_session_ends_after_twelve_hours(open_desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    client = open_desk("clinician")
    assert client.get("/cases").status_code == 200
    monkeypatch.setattr(signin, "HOURS", -1)
    assert client.get("/cases").headers["location"] == "/signin"


def test_a_disabled_person_is_out_at_once(open_desk: Desk) -> None:
    client = open_desk("clinician")
    people.disable("cleo")
    assert client.get("/cases").headers["location"] == "/signin"


def test_signing_out_needs_the_token_and_forgets_the_cookie(open_desk: Desk, csrf: Token) -> None:
    client = open_desk("clinician")
    assert client.post("/leave").status_code == 403
    assert client.get("/cases").status_code == 200
    assert client.post("/leave", data={"csrf": csrf(client, "/cases")}).status_code == 200
    assert client.get("/cases").headers["location"] == "/signin"


def test_a_token_of_another_session_is_refused(open_desk: Desk, csrf: Token) -> None:
    one, other = open_desk("clinician"), open_desk("clinician")
    assert one.post("/leave", data={"csrf": csrf(other, "/cases")}).status_code == 403


def test_a_form_of_a_megabyte_is_refused(open_desk: Desk, csrf: Token) -> None:
    client = open_desk("engineer")
    form = {"csrf": csrf(client, "/decisions"), "reason": "x" * 1_000_000}
    assert client.post("/decisions", data=form).status_code == 413
