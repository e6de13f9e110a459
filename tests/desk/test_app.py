"""The front: pages by role, headers, errors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from desk import app, templates
from lineage.record import ledger
from lineage.record.events import EventKind

PAGES = {
    "clinician": ["/", "/cases"],
    "engineer": ["/models", "/watch", "/decisions"],
    "auditor": ["/ledger", "/verify", "/trace", "/people"],
}
Desk = Callable[[str], TestClient]


@pytest.mark.parametrize("role", PAGES)
def test_each_role_can_open_only_its_own_pages(open_desk: Desk, role: str) -> None:
    client = open_desk(role)
    for owner, addresses in PAGES.items():
        for address in addresses:
            if address == "/":
                continue
            assert client.get(address).status_code == (200 if owner == role else 403), address


@pytest.mark.parametrize("role", PAGES)
def test_each_role_has_its_own_first_page(open_desk: Desk, role: str) -> None:
    client = open_desk(role)
    first = client.get("/", follow_redirects=True)
    assert first.status_code == 200 and first.url.path == PAGES[role][0]


def test_a_request_without_sign_in_is_redirected_to_the_sign_in_page(open_desk: Desk) -> None:
    client = open_desk("")
    for address in (address for addresses in PAGES.values() for address in addresses):
        response = client.get(address)
        assert (response.status_code, response.headers["location"]) == (303, "/signin"), address


@pytest.mark.parametrize("role", PAGES)
def test_every_page_has_the_warning_the_role_and_strict_headers(open_desk: Desk, role: str) -> None:
    client = open_desk(role)
    for address in [*PAGES[role], "/nowhere"]:
        page = client.get(address)
        assert templates.WARNING in page.text, address
        assert role in page.text and page.headers["content-security-policy"] == app.POLICY
        for name, value in app.HEADERS.items():
            assert page.headers[name] == value
        assert "<script>" not in page.text and " style=" not in page.text and " onclick" not in page.text
        assert "http://" not in page.text.replace("http://www.w3.org", "") or role == "engineer", (
            "no address of another server"
        )


def test_only_static_files_are_served_below_static(open_desk: Desk) -> None:
    client = open_desk("")
    scripts = ("scan.js", "picture.js", "dicom.js", "nifti.js", "display_range.js", "report.js")
    for name in ("desk.css", "icon.svg", *scripts):
        assert client.get(f"/static/{name}").status_code == 200, name
    assert client.get("/static/..%2fapp.py").status_code == 404


def test_health_needs_no_sign_in(open_desk: Desk) -> None:
    assert open_desk("").get("/healthz").text == "ok"


def test_a_missing_page_is_reported_to_people_and_to_programs(open_desk: Desk) -> None:
    client = open_desk("clinician")
    assert "There is no such page." in client.get("/nowhere").text
    missing = client.get("/api/nowhere")
    assert missing.status_code == 404 and missing.headers["content-type"] == "application/problem+json"


def test_a_broken_workspace_is_reported_without_a_traceback(open_desk: Desk, workspace: Path) -> None:
    client = open_desk("engineer")
    (workspace / "keys" / "signin").unlink()
    page = client.get("/models")
    assert page.status_code == 503 and "oncoloop init" in page.text and "Traceback" not in page.text


def test_an_unexpected_error_shows_no_details_and_has_the_headers(
    open_desk: Desk, workspace: Path, caplog: pytest.LogCaptureFixture
) -> None:
    client = open_desk("clinician")
    manifest_file = workspace / "releases" / "0123456789ab" / "manifest.json"
    manifest_file.write_text('{"release": "0123456789ab", "tasks": 5, "serving": {"max_upload_mb": 1}}')

    ledger.append(EventKind.RELEASE_ACTIVATED, "0123456789ab", {"url": "http://127.0.0.1:1"})
    page = client.get("/")
    assert page.status_code == 500 and "TypeError" not in page.text and "log of the desk" in page.text
    assert page.headers["content-security-policy"] == app.POLICY
    assert any("/ failed" in record.message for record in caplog.records)
