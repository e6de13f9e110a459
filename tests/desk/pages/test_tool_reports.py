"""Reports of other tools: read-only, with signed addresses, in a sandbox."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from desk.pages import tool_reports
from desk.visitor import Visitor
from lineage import accounts, sessions
from lineage.fingerprint import text_sha256
from lineage.record import ledger
from lineage.record.verdict import Outcome, Verdict

Desk = Callable[[str], TestClient]


def visitor(name: str, role: str) -> Visitor:
    """A signed-in person."""
    return Visitor(name, role, text_sha256(sessions.begin(name, sessions.DESK)))


@pytest.fixture
def enno(workspace: Path) -> Visitor:
    """The engineer."""
    return visitor("enno", "engineer")


@pytest.fixture
def drift_page(workspace: Path) -> Path:
    """A report in Evidently's folder, with a picture beside it."""
    page = workspace / "evidently" / "pages" / "lung-ct" / "0001.html"
    page.parent.mkdir(parents=True)
    page.write_text("<script>1</script><img src='plot.png'>drift of lung-ct")
    (page.parent / "plot.png").write_bytes(b"\x89PNG")
    return page


def test_a_verdicts_report_opens_from_the_monitoring_page(open_desk: Desk, drift_page: Path) -> None:
    verdict = Verdict("monitoring", "lung-ct", Outcome.FAIL, ("the scanner changed",))
    ledger.record_verdict(verdict, task="lung-ct", page=str(drift_page))
    client = open_desk("engineer")
    page = client.get("/watch").text
    assert "the scanner changed" in page
    addresses = set(re.findall(r'href="(/shelf/[^"]+)"', page))
    assert addresses and all("drift of lung-ct" in client.get(address).text for address in addresses)


def test_a_report_is_sandboxed_and_its_pictures_need_no_cookie(
    open_desk: Desk, drift_page: Path, enno: Visitor
) -> None:
    signed_out, address = open_desk(""), tool_reports.link(enno, str(drift_page))
    page = signed_out.get(address)
    policy = page.headers["content-security-policy"]
    assert policy.startswith("sandbox allow-scripts") and "allow-same-origin" not in policy
    assert "connect-src 'none'" in policy and page.headers["cross-origin-resource-policy"] == "cross-origin"
    assert signed_out.get(address.replace("0001.html", "plot.png")).status_code == 200


def test_only_report_files_are_served(open_desk: Desk, drift_page: Path, enno: Visitor, workspace: Path) -> None:
    client, address = open_desk("engineer"), tool_reports.link(enno, str(drift_page))
    permit = address.split("/")[2]
    (drift_page.parent / "secret.json").write_text("{}")
    (drift_page.parent / "link.html").symlink_to(workspace / "keys" / "signin")
    for path in (
        "evidently/../keys/signin",
        "evidently/..%2fkeys%2fsignin",
        "keys/signin",
        "evidently/%2fetc%2fpasswd",
        "evidently/pages/lung-ct/secret.json",
        "evidently/pages/lung-ct/link.html",
        "evidently/pages",
    ):
        assert client.get(f"/shelf/{permit}/{path}").status_code == 404, path
    assert client.get("/shelf/forged/evidently/pages/lung-ct/0001.html").status_code == 403
    assert tool_reports.link(enno, str(workspace / "keys" / "signin")) == "" == tool_reports.link(enno, "")


def test_a_permit_ends_with_the_account_and_is_not_for_clinicians(
    open_desk: Desk, drift_page: Path, enno: Visitor
) -> None:
    client, address = open_desk(""), tool_reports.link(enno, str(drift_page))
    assert client.get(tool_reports.link(visitor("cleo", "clinician"), str(drift_page))).status_code == 404
    accounts.disable("enno")
    assert client.get(address).status_code == 403


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("evidently/pages/lung-ct/0001.html", "lung-ct / 0001"),
        ("gx/gx/uncommitted/data_docs/local_site/index.html", "All pages"),
        (
            "gx/gx/uncommitted/data_docs/local_site/validations/lung-ct/__none__/20260131T120000.1Z/b1.html",
            "lung-ct / b1",
        ),
    ],
)
def test_a_report_is_named_after_its_subject(workspace: Path, enno: Visitor, path: str, name: str) -> None:
    (workspace / path).parent.mkdir(parents=True, exist_ok=True)
    (workspace / path).write_text("page")
    assert [report.name for report in tool_reports.latest_reports(enno, path.split("/")[0])] == [name]
