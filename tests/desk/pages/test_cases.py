"""What a clinician reads: the answer, the confidence, the threshold, the map, the report."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from desk.pages import cases, report

Desk = Callable[[str], TestClient]
Answered = Callable[..., str]


def words(page: str) -> str:
    """A page's text without markup, blanks joined."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split())


def test_a_case_shows_verdict_confidence_threshold_and_map(open_desk: Desk, answered: Answered) -> None:
    page = open_desk("clinician").get(f"/cases/{answered()}")
    said = words(page.text)
    assert "Malignant" in said and "Confidence for malignant is 82 %: at or over the threshold of 41 %" in said
    assert "Normal 10 %" in said and "Benign 8 %" in said
    assert 'class="answer found"' in page.text and "data:image/png;base64,iVBOR" in page.text
    assert "the scan itself is not part of the record" in said


def test_a_negative_answer_is_under_the_threshold(open_desk: Desk, answered: Answered) -> None:
    made = answered(answer="normal", score=0.12, probabilities=[0.8, 0.08, 0.12])
    page = open_desk("clinician").get(f"/cases/{made}")
    assert 'class="answer clear"' in page.text and "is 12 %: under the threshold of 41 %" in words(page.text)


def test_an_abstention_is_plain_and_has_its_own_colour(open_desk: Desk, answered: Answered) -> None:
    reason = "the scan shows ABDOMEN, the task is for CHEST or LUNG"
    made = answered(answer=None, outcome="inconclusive", reasons=[reason])
    client = open_desk("clinician")
    for address in (f"/cases/{made}", f"/cases/{made}/card", f"/cases/{made}/report"):
        page = client.get(address)
        assert 'class="answer withheld"' in page.text and reason in page.text
        assert "No answer given" in page.text and 'class="chosen"' not in page.text
    assert 'class="mark withheld"' in client.get("/cases").text


def test_warnings_stand_beside_the_answer_and_beside_what_withheld_it(open_desk: Desk, answered: Answered) -> None:
    odd, reason = "the series has missing slices", "the picture is blank"
    client = open_desk("clinician")
    for made in (
        answered(reasons=[f"warning: {odd}"]),
        answered(answer=None, outcome="inconclusive", reasons=[reason, f"warning: {odd}"]),
    ):
        for address in (f"/cases/{made}", f"/cases/{made}/card", f"/cases/{made}/report"):
            page = client.get(address).text
            assert f"About this scan: {odd}" in words(page) and "warning:" not in page
    assert "<li>the picture is blank</li>" in page


def test_a_series_names_the_slice_of_its_map(open_desk: Desk, answered: Answered) -> None:
    slices = [{"index": number, "score": 0.9 if number == 4 else 0.1} for number in range(7)]
    page = open_desk("clinician").get(f"/cases/{answered(slices=slices)}").text
    assert "The heat map of slice 5" in words(page) and page.count("<rect") == 7 and page.count('class="peak"') == 1


def test_slices_that_did_not_count_are_told_apart(open_desk: Desk, answered: Answered) -> None:
    slices = [{"index": number, "score": 0.9 if number == 4 else 0.1, "counted": number != 4} for number in range(7)]
    slices[2]["score"] = 0.3
    page = words(open_desk("clinician").get(f"/cases/{answered(slices=slices)}").text)
    assert "Read from 6 of 7 slices; the others show what the model was never judged on." in page
    assert "The heat map of slice 3" in page and "Slice 5: 90 %, not counted" in page


def test_phantoms_only_stands_on_every_page_of_the_task(open_desk: Desk, answered: Answered) -> None:
    made, client = answered(task="pancreas-ct"), open_desk("clinician")
    for address in (f"/cases/{made}", f"/cases/{made}/report", "/cases"):
        assert "phantoms only" in client.get(address).text.lower(), address


def test_the_report_says_how_well_an_order_is_kept() -> None:
    figures = {"quadratic_kappa": {"value": 0.617, "low": 0.51, "high": 0.704}}
    said = "Agreement over the ordered classes (quadratic weighted kappa)"
    assert report.metrics(figures) == [(said, "0.617", "0.51 to 0.704")]


def test_the_report_holds_what_stands_behind_the_answer(open_desk: Desk, answered: Answered) -> None:
    page = open_desk("clinician").get(f"/cases/{answered()}/report")
    said = words(page.text)
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
        assert fact in said, fact
    assert said.count("Research use only. Not for clinical decisions.") == 2


def test_a_report_kept_as_a_file_needs_nothing_else(open_desk: Desk, answered: Answered) -> None:
    kept = open_desk("clinician").get(f"/cases/{answered()}/report?file=1")
    assert kept.headers["content-disposition"].startswith("attachment")
    assert "<style>" in kept.text and "csrf" not in kept.text
    assert not re.findall(r'(?:src|href)="(?!data:)[^"]*"', kept.text)
    assert words(kept.text).count("Research use only. Not for clinical decisions.") == 2


def test_a_case_outlives_its_release(open_desk: Desk, answered: Answered, workspace: Path) -> None:
    made, client = answered(), open_desk("clinician")
    (workspace / "releases" / "0123456789ab" / "manifest.json").unlink()
    for address in (f"/cases/{made}", f"/cases/{made}/report", "/cases"):
        assert client.get(address).status_code == 200, address
    assert cases.GONE in words(client.get(f"/cases/{made}/report").text)


def test_one_sees_ones_own_cases_alone(open_desk: Desk, answered: Answered) -> None:
    own, foreign, client = answered(), answered(actor="dora"), open_desk("clinician")
    listed = client.get("/cases").text
    assert own in listed and foreign not in listed
    for address in (f"/cases/{foreign}", f"/cases/{foreign}/card", f"/cases/{foreign}/report", "/cases/nothing"):
        assert client.get(address).status_code == 404, address


def test_long_histories_come_in_pages(open_desk: Desk, answered: Answered, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cases, "PAGE", 2)
    made, client = [answered() for _ in range(5)], open_desk("clinician")
    seen, address = [], "/cases"
    while address:
        page = client.get(address).text
        seen += re.findall(r'<a href="/cases/([0-9a-f]{32})">', page)
        older = re.search(r'href="(/cases\?before=\d+)"', page)
        address = older.group(1) if older else ""
    assert seen == made[::-1]
    assert client.get("/cases?before=nonsense").status_code == 200


def test_what_a_file_or_a_model_says_is_never_markup(open_desk: Desk, answered: Answered) -> None:
    made = answered(outcome="inconclusive", answer=None, reasons=["<script>alert(1)</script>"])
    page = open_desk("clinician").get(f"/cases/{made}").text
    assert "<script>alert" not in page and "&lt;script&gt;alert" in page


@pytest.mark.usefixtures("release")
def test_the_scan_page_offers_the_live_releases_tasks(open_desk: Desk) -> None:
    page = open_desk("clinician").get("/").text
    assert "Lung tumour on a chest CT slice" in page and "(phantoms only)" in page and "At most 1 MB" in page


def test_measures_have_names_that_people_read() -> None:
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
        ("Specificity at the threshold", "–", "too few to tell"),
        ("Calibration error (0 is best)", "0.1", "too few to tell"),
    ]
