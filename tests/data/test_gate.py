from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from data.gate import admit
from data.index import Refused
from data.leakage import Findings
from data.settings import IngestSettings
from data.suite import Validation
from lineage.verdict import Outcome, from_dict

CLEAN = Findings({}, [], {"exact_copies": 0})


def validation(errors: tuple[str, ...] = (), warnings: tuple[str, ...] = (), **failing: list[str]) -> Validation:
    return Validation(not failing and not errors, failing, list(errors), list(warnings), Path("page.html"), {"met": 3})


def test_a_clean_batch_passes_and_says_how_much(ingest: IngestSettings) -> None:
    verdict, failing = admit("b1", validation(), CLEAN, [], 40, ingest)
    assert (verdict.gate, verdict.subject, verdict.outcome) == ("data", "b1", Outcome.PASS)
    assert verdict.reasons == ("40 of 40 units are admitted",) and failing == {}
    assert verdict.thresholds["max_failing"] == 0.2
    assert from_dict(verdict.to_dict()) == verdict


def test_failing_scans_stay_out_and_the_rest_passes(ingest: IngestSettings) -> None:
    copies = {f"u{number}": ["exact copy: u0"] for number in range(1, 8)}
    verdict, failing = admit("b1", validation(u1=["blank"]), Findings(copies, [], {}), [], 100, ingest)
    assert verdict.outcome is Outcome.PASS
    assert verdict.reasons[0] == "93 of 100 units are admitted, 7 stay out"
    assert "7 units out, exact copy: u1, u2, u3, u4, u5 and 2 more" in verdict.reasons
    assert "1 unit out, blank: u1" in verdict.reasons
    assert failing["u1"] == ["blank", "exact copy: u0"] and len(failing) == 7
    assert verdict.figures["failing_share"] == 0.07


def test_too_many_failing_scans_keep_the_batch_out(ingest: IngestSettings) -> None:
    bad = {f"u{number}": ["blank"] for number in range(21)}
    assert admit("b", validation(**bad), CLEAN, [], 105, ingest)[0].outcome is Outcome.PASS
    verdict, _ = admit("b", validation(**bad), CLEAN, [], 104, ingest)
    assert verdict.outcome is Outcome.FAIL and verdict.exit_code == 3
    assert verdict.reasons[0] == "20.2% of the units fail, more than ingest.max_failing (20.0%)"


def test_refused_files_count_and_are_named(ingest: IngestSettings) -> None:
    refused = [Refused(f"{number}.dcm", "is truncated") for number in range(7)]
    verdict, _ = admit("b", validation(), CLEAN, refused, 50, ingest)
    assert verdict.outcome is Outcome.PASS and verdict.figures["refused"] == 7
    assert verdict.reasons[1].startswith("7 files refused: 0.dcm (is truncated); ")
    assert verdict.reasons[1].endswith("and 2 more")


def test_quarantine_by_batch_tolerates_nothing(ingest: IngestSettings) -> None:
    strict = replace(ingest, quarantine="batch")
    verdict, _ = admit("b", validation(u1=["blank"]), CLEAN, [], 1000, strict)
    assert verdict.outcome is Outcome.FAIL and "ingest.quarantine is `batch`" in verdict.reasons[0]
    assert admit("b", validation(), CLEAN, [], 1000, strict)[0].outcome is Outcome.PASS


def test_an_error_of_the_table_keeps_the_batch_out(ingest: IngestSettings) -> None:
    verdict, _ = admit("b", validation(errors=("the manifest lacks columns",)), CLEAN, [], 10, ingest)
    assert verdict.outcome is Outcome.FAIL and verdict.reasons == ("the manifest lacks columns",)


def test_warnings_travel_and_decide_nothing(ingest: IngestSettings) -> None:
    findings = Findings({}, ["header facts tell the label"], {})
    verdict, _ = admit("b", validation(warnings=("nobody says the site",)), findings, [], 10, ingest)
    assert verdict.outcome is Outcome.PASS
    assert verdict.reasons[1:] == ("warning: nobody says the site", "warning: header facts tell the label")


def test_an_empty_batch_and_one_of_bad_scans_only_fail(ingest: IngestSettings) -> None:
    assert admit("b", validation(), CLEAN, [], 0, ingest)[0].reasons == ("the batch holds no unit",)
    tolerant = replace(ingest, max_failing=1.0)
    verdict, _ = admit("b", validation(u1=["blank"]), CLEAN, [Refused("x", "y")], 2, tolerant)
    assert verdict.outcome is Outcome.FAIL and verdict.reasons[0] == "nothing can be admitted: all 2 units fail"


def test_warnings_of_the_whole_set_travel_last(ingest: IngestSettings) -> None:
    verdict, _ = admit("b", validation(), CLEAN, [], 10, ingest, ["12 clusters are few"])
    assert verdict.outcome is Outcome.PASS and verdict.reasons[-1] == "warning: 12 clusters are few"
