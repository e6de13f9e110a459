from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest

from data.batch.manifest import RefusedFile
from data.quality.findings import Finding, read_finding
from data.quality.gate import admit
from data.quality.leakage import Findings
from data.quality.suite import Validation
from data.settings import IngestSettings
from lineage.record.verdict import Outcome, from_dict

CLEAN = Findings((), [], {"exact_copies": 0})


def findings_of(failing: dict[str, list[str]]) -> list[Finding]:
    return [read_finding(unit, reason) for unit, reasons in failing.items() for reason in reasons]


def validation(errors: tuple[str, ...] = (), warnings: tuple[str, ...] = (), **failing: list[str]) -> Validation:
    findings = findings_of(failing)
    success = not findings and not errors
    return Validation(success, findings, list(errors), list(warnings), Path("page.html"), {"met": 3})


def test_a_clean_batch_passes_with_its_count(ingest: IngestSettings) -> None:
    verdict, failing = admit("b1", validation(), CLEAN, [], 40, ingest)
    assert (verdict.gate, verdict.subject, verdict.outcome) == ("data", "b1", Outcome.PASS)
    assert verdict.reasons == ("40 of 40 units are admitted",) and failing == {}
    assert verdict.thresholds["max_failing"] == 0.2
    assert from_dict(verdict.to_dict()) == verdict


def test_failing_scans_stay_out_and_the_others_pass(ingest: IngestSettings) -> None:
    copies = {f"u{number}": ["exact copy: u0"] for number in range(1, 8)}
    verdict, failing = admit("b1", validation(u1=["blank"]), Findings(findings_of(copies), [], {}), [], 100, ingest)
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


def test_refused_files_are_counted_and_named(ingest: IngestSettings) -> None:
    refused = [RefusedFile(f"{number}.dcm", "is truncated") for number in range(7)]
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


def test_warnings_are_reported_and_do_not_decide(ingest: IngestSettings) -> None:
    findings = Findings((), ["header facts predict the label"], {})
    verdict, _ = admit("b", validation(warnings=("the site is not stated",)), findings, [], 10, ingest)
    assert verdict.outcome is Outcome.PASS
    assert verdict.reasons[1:] == ("warning: the site is not stated", "warning: header facts predict the label")


def test_an_empty_batch_and_one_of_only_bad_scans_fail(ingest: IngestSettings) -> None:
    assert admit("b", validation(), CLEAN, [], 0, ingest)[0].reasons == ("the batch holds no unit",)
    tolerant = replace(ingest, max_failing=1.0)
    verdict, _ = admit("b", validation(u1=["blank"]), CLEAN, [RefusedFile("x", "y")], 2, tolerant)
    assert verdict.outcome is Outcome.FAIL and verdict.reasons[0] == "nothing can be admitted: all 2 units fail"


def test_warnings_on_the_whole_set_come_last(ingest: IngestSettings) -> None:
    verdict, _ = admit("b", validation(), CLEAN, [], 10, ingest, ["12 clusters are few"])
    assert verdict.outcome is Outcome.PASS and verdict.reasons[-1] == "warning: 12 clusters are few"


@pytest.mark.parametrize(
    ("failing", "refused", "total", "outcome"),
    [
        (2, 0, 10, Outcome.PASS),  # exactly the tolerated share
        (1, 1, 10, Outcome.PASS),
        (1, 2, 10, Outcome.FAIL),
        (3, 0, 10, Outcome.FAIL),
        (0, 3, 10, Outcome.FAIL),
        (0, 2, 10, Outcome.PASS),
        (200, 0, 1000, Outcome.PASS),
        (201, 0, 1000, Outcome.FAIL),
    ],
)
def test_the_tolerated_share_counts_units_and_files(
    ingest: IngestSettings, failing: int, refused: int, total: int, outcome: Outcome
) -> None:
    bad = {f"u{number}": ["blank"] for number in range(failing)}
    files = [RefusedFile(f"{number}.dcm", "is truncated") for number in range(refused)]
    verdict, _ = admit("b", validation(**bad), CLEAN, files, total, ingest)
    assert verdict.outcome is outcome
    assert verdict.figures["failing_share"] == pytest.approx((failing + refused) / total)


@pytest.mark.parametrize(
    ("max_failing", "out", "outcome"), [(0.0, 0, Outcome.PASS), (0.0, 1, Outcome.FAIL), (1.0, 9, Outcome.PASS)]
)
def test_the_tolerated_share_can_be_0_or_1(
    ingest: IngestSettings, max_failing: float, out: int, outcome: Outcome
) -> None:
    bad = {f"u{number}": ["blank"] for number in range(out)}
    settings = replace(ingest, max_failing=max_failing)
    assert admit("b", validation(**bad), CLEAN, [], 10, settings)[0].outcome is outcome


def test_a_verdict_has_its_figures(ingest: IngestSettings) -> None:
    findings = Findings(findings_of({"u2": ["exact copy: u1"]}), [], {"exact_copies": 1})
    verdict, _ = admit("b", validation(u1=["blank"]), findings, [RefusedFile("x", "y")], 30, ingest)
    assert verdict.figures == {
        "units": 30,
        "failing": 2,
        "refused": 1,
        "failing_share": 0.1,
        "leakage": {"exact_copies": 1},
        "validation": {"met": 3},
    }
    assert verdict.thresholds == asdict(ingest)
    empty, _ = admit("b", validation(), CLEAN, [], 0, ingest)
    assert empty.outcome is Outcome.FAIL and empty.figures["failing_share"] == 0.0
    third, _ = admit("b", validation(u1=["blank"]), CLEAN, [], 3, ingest)
    assert third.figures["failing_share"] == 0.3333


def test_each_unit_has_its_reasons_once(ingest: IngestSettings) -> None:
    findings = Findings(findings_of({"u3": ["blank"], "u1": ["exact copy: u0", "blank"]}), [], {})
    _, failing = admit("b", validation(u2=["blank", "saturated"], u1=["blank"]), findings, [], 100, ingest)
    assert list(failing.items()) == [
        ("u1", ["blank", "exact copy: u0"]),
        ("u2", ["blank", "saturated"]),
        ("u3", ["blank"]),
    ]


def test_reasons_are_sorted_by_frequency_and_name_five_units(ingest: IngestSettings) -> None:
    copies = {f"c{number}": ["exact copy: a", "exact copy: b"] for number in range(6)}
    other_kinds = {f"s{number}": ["saturated"] for number in range(5)} | {
        f"z{number}": ["blank"] for number in range(5)
    }
    verdict, _ = admit("b", validation(**other_kinds, **copies), CLEAN, [], 1000, ingest)
    assert verdict.reasons[1:] == (
        "6 units out, exact copy: c0, c1, c2, c3, c4 and 1 more",
        "5 units out, blank: z0, z1, z2, z3, z4",
        "5 units out, saturated: s0, s1, s2, s3, s4",
    )


@pytest.mark.parametrize(
    ("count", "ending"), [(1, "0.dcm (torn)"), (5, "4.dcm (torn)"), (6, "4.dcm (torn) and 1 more")]
)
def test_five_refused_files_are_named(ingest: IngestSettings, count: int, ending: str) -> None:
    refused = [RefusedFile(f"{number}.dcm", "torn") for number in range(count)]
    reason = admit("b", validation(), CLEAN, refused, 1000, ingest)[0].reasons[1]
    assert reason.startswith(f"{count} file{'s' if count > 1 else ''} refused: 0.dcm (torn)")
    assert reason.endswith(ending)


def test_a_refused_file_keeps_the_batch_out_if_nothing_is_tolerated(ingest: IngestSettings) -> None:
    strict = replace(ingest, quarantine="batch", max_failing=1.0)
    verdict, _ = admit("b", validation(), CLEAN, [RefusedFile("x", "torn")], 50, strict)
    assert verdict.outcome is Outcome.FAIL
    assert verdict.reasons[0] == "1 of 50 units fail, and ingest.quarantine is `batch`"


def test_all_reasons_against_a_batch_are_named_and_no_unit_is_called_admitted(ingest: IngestSettings) -> None:
    bad = {f"u{number}": ["blank"] for number in range(5)}
    errors = ("the manifest lacks columns",)
    partly_failing, _ = admit("b", validation(errors=errors, **bad), CLEAN, [], 10, ingest)
    assert partly_failing.outcome is Outcome.FAIL
    assert partly_failing.reasons[:2] == (errors[0], "50.0% of the units fail, more than ingest.max_failing (20.0%)")
    all_failing, _ = admit("b", validation(errors=errors, **bad), CLEAN, [], 5, ingest)
    assert all_failing.reasons[:2] == (errors[0], "nothing can be admitted: all 5 units fail")
    assert not any("admitted," in reason for verdict in (partly_failing, all_failing) for reason in verdict.reasons)
