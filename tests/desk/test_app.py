"""The front as a whole: who may open what, headers, errors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from desk import app, templates

PAGES = {
    "clinician": ["/", "/cases"],
    "engineer": ["/models", "/watch", "/decisions"],
    "auditor": ["/ledger", "/verify", "/trace", "/people"],
}
Desk = Callable[[str], TestClient]


@pytest.mark.parametrize("role", PAGES)
def test_each_role_opens_its_own_pages_and_no_others(open_desk: Desk, role: str) -> None:
    client = open_desk(role)
    for owner, addresses in PAGES.items():
        for address in addresses:
            if address == "/":
                continue
            assert client.get(address).status_code == (200 if owner == role else 403), address


@pytest.mark.parametrize("role", PAGES)
def test_the_first_page_is_the_one_of_the_role(open_desk: Desk, role: str) -> None:
    client = open_desk(role)
    first = client.get("/", follow_redirects=True)
    assert first.status_code == 200 and first.url.path == PAGES[role][0]


def test_a_stranger_is_sent_to_the_sign_in_page(open_desk: Desk) -> None:
    client = open_desk("")
    for address in (address for addresses in PAGES.values() for address in addresses):
        came = client.get(address)
        assert (came.status_code, came.headers["location"]) == (303, "/signin"), address


@pytest.mark.parametrize("role", PAGES)
def test_every_page_carries_the_warning_the_name_and_strict_headers(open_desk: Desk, role: str) -> None:
    client = open_desk(role)
    for address in [*PAGES[role], "/nowhere"]:
        page = client.get(address)
        assert templates.WARNING in page.text, address
        assert role in page.text and page.headers["content-security-policy"] == app.POLICY
        for name, value in app.HEADERS.items():
            assert page.headers[name] == value
        assert "<script>" not in page.text and " style=" not in page.text and " onclick" not in page.text
        assert "http://" not in page.text.replace("http://www.w3.org", "") or role == "engineer", (
            "nothing from elsewhere"
        )


def test_static_files_are_there_and_nothing_beside_them(open_desk: Desk) -> None:
    client = open_desk("")
    for name in ("desk.css", "scan.js", "picture.js", "dicom.js", "nifti.js", "report.js", "icon.svg"):
        assert client.get(f"/static/{name}").status_code == 200, name
    assert client.get("/static/..%2fapp.py").status_code == 404


def test_health_needs_no_sign_in(open_desk: Desk) -> None:
    assert open_desk("").get("/healthz").text == "ok"


def test_a_missing_page_says_so_to_people_and_to_programs(open_desk: Desk) -> None:
    client = open_desk("clinician")
    assert "There is no such page." in client.get("/nowhere").text
    missing = client.get("/api/nowhere")
    assert missing.status_code == 404 and missing.headers["content-type"] == "application/problem+json"


def test_a_broken_workspace_is_one_sentence_not_a_traceback(open_desk: Desk, workspace: Path) -> None:
    client = open_desk("engineer")
    (workspace / "keys" / "signin").unlink()
    page = client.get("/models")
    assert page.status_code == 503 and "oncoloop init" in page.text and "Traceback" not in page.text


def test_an_unforeseen_error_shows_no_details_and_keeps_the_headers(
    open_desk: Desk, workspace: Path, caplog: pytest.LogCaptureFixture
) -> None:
    client = open_desk("clinician")
    folder = workspace / "releases" / "0123456789ab" / "manifest.json"
    folder.write_text('{"release": "0123456789ab", "tasks": 5, "serving": {"max_upload_mb": 1}}')
    from desk.traffic import traffic

    traffic.move("0123456789ab", "http://127.0.0.1:1", "system")
    page = client.get("/")
    assert page.status_code == 500 and "TypeError" not in page.text and "log of the desk" in page.text
    assert page.headers["content-security-policy"] == app.POLICY
    assert any("/ failed" in record.message for record in caplog.records)
