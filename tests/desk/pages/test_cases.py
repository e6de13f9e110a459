"""The clinician's pages: answer, confidence, threshold, heat map and report."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from desk.pages import cases, report
from tests.desk.conftest import RELEASE

Desk = Callable[[str], TestClient]
AddCase = Callable[..., str]


def plain_text(page: str) -> str:
    """A page's text without markup, with single spaces."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split())


def test_a_case_shows_verdict_confidence_threshold_and_map(open_desk: Desk, add_case: AddCase) -> None:
    page = open_desk("clinician").get(f"/cases/{add_case()}")
    text = plain_text(page.text)
    assert "Malignant" in text and "Confidence for malignant is 82 %: at or over the threshold of 41 %" in text
    assert "Normal 10 %" in text and "Benign 8 %" in text
    assert 'class="answer positive"' in page.text and "data:image/png;base64,iVBOR" in page.text
    assert "the scan itself is not part of the record" in text


def test_a_negative_answer_is_under_the_threshold(open_desk: Desk, add_case: AddCase) -> None:
    case_id = add_case(answer="normal", score=0.12, probabilities=[0.8, 0.08, 0.12])
    page = open_desk("clinician").get(f"/cases/{case_id}")
    assert 'class="answer negative"' in page.text and "is 12 %: under the threshold of 41 %" in plain_text(page.text)


def test_an_abstention_is_shown_on_every_page_with_its_own_colour(open_desk: Desk, add_case: AddCase) -> None:
    reason = "the scan shows ABDOMEN, the task is for CHEST or LUNG"
    case_id = add_case(answer=None, outcome="inconclusive", reasons=[reason])
    client = open_desk("clinician")
    for address in (f"/cases/{case_id}", f"/cases/{case_id}/card", f"/cases/{case_id}/report"):
        page = client.get(address)
        assert 'class="answer withheld"' in page.text and reason in page.text
        assert "No answer given" in page.text and 'class="chosen"' not in page.text
    assert 'class="mark withheld"' in client.get("/cases").text


def test_warnings_are_shown_with_an_answer_and_with_an_abstention(open_desk: Desk, add_case: AddCase) -> None:
    warning, reason = "the series has missing slices", "the picture is blank"
    client = open_desk("clinician")
    for case_id in (
        add_case(reasons=[f"warning: {warning}"]),
        add_case(answer=None, outcome="inconclusive", reasons=[reason, f"warning: {warning}"]),
    ):
        for address in (f"/cases/{case_id}", f"/cases/{case_id}/card", f"/cases/{case_id}/report"):
            page = client.get(address).text
            assert f"About this scan: {warning}" in plain_text(page) and "warning:" not in page
    assert "<li>the picture is blank</li>" in page


def test_the_slice_of_the_map_is_named_and_marked(open_desk: Desk, add_case: AddCase) -> None:
    slices = [{"index": number, "score": 0.9 if number == 4 else 0.1} for number in range(7)]
    page = open_desk("clinician").get(f"/cases/{add_case(slices=slices)}").text
    assert (
        "The heat map of slice 5" in plain_text(page)
        and page.count("<rect") == 7
        and page.count('class="map-slice"') == 1
    )


def test_slices_that_were_not_pooled_are_marked(open_desk: Desk, add_case: AddCase) -> None:
    slices = [{"index": number, "score": 0.9 if number == 4 else 0.1, "counted": number != 4} for number in range(7)]
    slices[2]["score"] = 0.3
    page = plain_text(open_desk("clinician").get(f"/cases/{add_case(slices=slices)}").text)
    assert "The answer uses 6 of 7 slices; the others are unlike the slices that the model was tested on." in page
    assert "The heat map of slice 3" in page and "Slice 5: 90 %, not used" in page


def test_phantoms_only_is_on_every_page_of_the_task(open_desk: Desk, add_case: AddCase) -> None:
    case_id, client = add_case(task="pancreas-ct"), open_desk("clinician")
    for address in (f"/cases/{case_id}", f"/cases/{case_id}/report", "/cases"):
        assert "phantoms only" in client.get(address).text.lower(), address


def test_the_report_has_a_measure_of_ordered_agreement() -> None:
    figures = {"quadratic_kappa": {"value": 0.617, "low": 0.51, "high": 0.704}}
    measure = "Agreement over the ordered classes (quadratic weighted kappa)"
    assert report.metrics(figures) == [(measure, "0.617", "0.51 to 0.704")]


def test_the_report_contains_the_facts_of_the_answer(open_desk: Desk, add_case: AddCase) -> None:
    page = open_desk("clinician").get(f"/cases/{add_case()}/report")
    text = plain_text(page.text)
    for fact in (
        "0123456789ab",
        "lung-ct / 3",
        "c0ffee1234567890",
        "0.913",
        "0.854 to 0.957",
        "small but sound test cohort",
        "only 8 positive clusters",
        "openvino 2026.4.1, float32",
        "inconclusive",
    ):
        assert fact in text, fact
    assert text.count("Research use only. Not for clinical decisions.") == 2


def test_the_report_shows_what_simple_facts_reach(open_desk: Desk, add_case: AddCase) -> None:
    text = plain_text(open_desk("clinician").get(f"/cases/{add_case()}/report").text)
    assert "Slice position 0.771 (0.7 to 0.83) 0.028 (-0.05 to 0.1)" in text
    assert "On the test patients this model was not shown to be better than slice position alone." in text


def test_a_report_saved_as_a_file_needs_no_other_file(open_desk: Desk, add_case: AddCase) -> None:
    saved_report = open_desk("clinician").get(f"/cases/{add_case()}/report?file=1")
    assert saved_report.headers["content-disposition"].startswith("attachment")
    assert "<style>" in saved_report.text and "csrf" not in saved_report.text
    assert not re.findall(r'(?:src|href)="(?!data:)[^"]*"', saved_report.text)
    assert plain_text(saved_report.text).count("Research use only. Not for clinical decisions.") == 2


def test_a_case_is_readable_after_its_release_was_removed(open_desk: Desk, add_case: AddCase, workspace: Path) -> None:
    case_id, client = add_case(), open_desk("clinician")
    (workspace / "releases" / "0123456789ab" / "manifest.json").unlink()
    for address in (f"/cases/{case_id}", f"/cases/{case_id}/report", "/cases"):
        assert client.get(address).status_code == 200, address
    assert cases.RELEASE_REMOVED in plain_text(client.get(f"/cases/{case_id}/report").text)


def test_a_clinician_sees_only_their_own_cases(open_desk: Desk, add_case: AddCase) -> None:
    own, foreign, client = add_case(), add_case(actor="dora"), open_desk("clinician")
    listed = client.get("/cases").text
    assert own in listed and foreign not in listed
    for address in (f"/cases/{foreign}", f"/cases/{foreign}/card", f"/cases/{foreign}/report", "/cases/nothing"):
        assert client.get(address).status_code == 404, address


def test_many_cases_are_shown_in_pages(open_desk: Desk, add_case: AddCase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cases, "PAGE_SIZE", 2)
    case_ids, client = [add_case() for _ in range(5)], open_desk("clinician")
    listed_ids, address = [], "/cases"
    while address:
        page = client.get(address).text
        listed_ids += re.findall(r'<a href="/cases/([0-9a-f]{32})">', page)
        older = re.search(r'href="(/cases\?before=\d+)"', page)
        address = older.group(1) if older else ""
    assert listed_ids == case_ids[::-1]
    assert client.get("/cases?before=nonsense").status_code == 200


def test_a_reason_is_never_rendered_as_markup(open_desk: Desk, add_case: AddCase) -> None:
    case_id = add_case(outcome="inconclusive", answer=None, reasons=["<script>alert(1)</script>"])
    page = open_desk("clinician").get(f"/cases/{case_id}").text
    assert "<script>alert" not in page and "&lt;script&gt;alert" in page


@pytest.mark.usefixtures("release")
def test_the_scan_page_lists_the_live_releases_tasks(open_desk: Desk) -> None:
    page = open_desk("clinician").get("/").text
    assert "Lung tumour on a chest CT slice" in page and "(phantoms only)" in page and "At most 1 MB" in page


def test_measures_have_readable_names() -> None:
    figures = {
        "auroc": {"value": 0.9, "low": 0.8, "high": 0.95},
        "ece": {"value": 0.1, "low": None, "high": None},
        "specificity": {"value": None, "low": None, "high": None},
        "confusion": [[1, 0], [0, 1]],
        "clusters": 12,
    }
    assert report.metrics(figures) == [
        ("Patients or groups tested", "12", ""),
        ("Area under the ROC curve", "0.9", "0.8 to 0.95"),
        ("Specificity at the threshold", "–", "too few patients"),
        ("Calibration error (0 is best)", "0.1", "too few patients"),
    ]


def test_a_case_shows_the_operating_point_of_its_site(open_desk: Desk, add_case: AddCase) -> None:
    case = add_case(description={"mean": 0.4, "site_threshold": 0.6})
    text = plain_text(open_desk("clinician").get(f"/cases/{case}").text)
    assert "is 82 %: at or over the threshold of 60 %" in text


def test_an_answer_of_a_release_that_checks_no_sites_says_so(
    open_desk: Desk, add_case: AddCase, workspace: Path
) -> None:
    client, case = open_desk("clinician"), add_case()
    assert "sites are not checked in this release" in client.get(f"/cases/{case}").text
    path = workspace / "releases" / RELEASE / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["tasks"]["lung-ct"]["sites"] = []
    path.write_text(json.dumps(manifest))
    assert "sites are not checked" not in client.get(f"/cases/{case}").text
