"""The source of a case, and the sites and scanners that a release answers for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lineage import site_hash
from lineage.record.verdict import Outcome
from serving.bundle import bento_build
from serving.inference import accepted_sites, uploaded_scans
from serving.inference.accepted_sites import NO_SITE, NOT_CHECKED, SEVERAL_SITES, AcceptedSite, SiteCalibration
from serving.inference.gate import WARNING_PREFIX
from serving.inference.predict import Prediction, Release, Upload, journal_row, predict
from serving.inference.release import load_release
from tests.serving.conftest import accepted_site, dicom, facts, manifest, png

TASK, SITE, INSTITUTION, SCANNER = "tiny-mr", "Alder", "Alder Hospital", "Kestrel Imaging M15"
SOURCE = {"InstitutionName": INSTITUTION, "Manufacturer": "Kestrel Imaging", "ManufacturerModelName": "M15"}
SITE_ADVICE = f"the site of this scan has not been accepted for {TASK}; an engineer accepts it with"
SCANNER_ADVICE = f"the scanner of this scan has not been accepted for {TASK}; an engineer accepts it with"


@pytest.fixture
def release(tiny: Path, home: Path) -> Release:
    """A release that answers for one site with its institution and one scanner."""
    task = facts()
    entry = accepted_site(task, site_hash.hash_site(SITE), (site_hash.hash_scanner(SCANNER),))
    entry["institutions"] = [site_hash.hash_site(INSTITUTION)]
    described = manifest(**{TASK: task | {"sites": [entry]}})
    return load_release(bento_build.assemble(home / "releases" / "r1", described, {TASK: tiny}))


def ask(release: Release, site: str = "", **attributes: str) -> Prediction:
    """The answer to one DICOM slice with these header attributes, sent with the token of a site."""
    return predict(release, [Upload("a.dcm", dicom(True, **attributes))], TASK, site=site_hash.hash_site(site))


def with_model(release: Release, **changes: Any) -> Release:
    return replace(release, models={TASK: replace(release.models[TASK], **changes)})


def test_a_scan_of_an_accepted_site_and_scanner_is_answered(release: Release) -> None:
    prediction = ask(release, **SOURCE)
    assert prediction.verdict.outcome is Outcome.PASS and prediction.answer and prediction.verdict.reasons == ()
    assert ask(release, **SOURCE | {"InstitutionName": " ALDER  hospital"}).answer, "another spelling"
    assert ask(release, InstitutionName=INSTITUTION).answer, "without a scanner the site counts alone"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"InstitutionName": "Birch Clinic"}, SITE_ADVICE),
        ({"InstitutionName": ""}, NO_SITE),
        ({"ManufacturerModelName": "M30"}, SCANNER_ADVICE),
    ],
)
def test_another_source_gets_no_answer_and_the_reason(release: Release, changes: dict[str, str], reason: str) -> None:
    prediction = ask(release, **SOURCE | changes)
    assert prediction.answer is None and prediction.verdict.outcome is Outcome.INCONCLUSIVE
    assert len(prediction.verdict.reasons) == 1 and prediction.verdict.reasons[0].startswith(reason)
    assert prediction.score > 0.5, "the journal has the score, for the watch"


def test_the_header_counts_before_the_token_and_the_token_before_the_desk(release: Release) -> None:
    assert ask(release, SITE).answer and ask(replace(release, own_site=site_hash.hash_site(SITE))).answer
    assert ask(release, SITE, InstitutionName="Birch Clinic").answer is None
    assert ask(replace(release, own_site=site_hash.hash_site(SITE)), "Birch").answer is None
    upload = [Upload("a.png", png(True))]
    assert predict(release, upload, TASK).answer is None, "a picture names no source"
    assert predict(release, upload, TASK, site=site_hash.hash_site(SITE)).answer


def test_files_of_different_sites_are_of_no_accepted_site(release: Release) -> None:
    scans = uploaded_scans.read_scans([Upload("a.dcm", dicom(True, InstitutionName=INSTITUTION))])
    scans += uploaded_scans.read_scans([Upload("b.png", png(True))])
    source = accepted_sites.read_source(scans, site_hash.hash_site("Birch"), "")
    site, findings = accepted_sites.find_site(release.models[TASK].sites, source, TASK, "withhold")
    assert site is None and findings.faults == (SEVERAL_SITES,)


def test_a_series_of_two_institutions_is_of_no_accepted_site(release: Release) -> None:
    uploads = [
        Upload(f"{seed}.dcm", dicom(True, seed, 2.0 * seed, InstitutionName=name))
        for seed, name in enumerate((INSTITUTION, "Birch Clinic"))
    ]
    assert any(reason.startswith(SITE_ADVICE) for reason in predict(release, uploads, TASK).verdict.reasons)


def test_a_site_has_its_own_temperature_threshold_and_conformal_quantiles(release: Release) -> None:
    [promoted] = release.models[TASK].sites or ()
    plain = ask(release, **SOURCE)
    calibration = SiteCalibration(20.0, 0.99, (0.9, (1.0, 1.0)))
    local = AcceptedSite(promoted.hashes, promoted.scanners, calibration)
    recalibrated = ask(with_model(release, sites=(local, promoted)), **SOURCE)
    assert recalibrated.threshold == 0.99 and recalibrated.score < plain.score
    assert recalibrated.verdict.figures["possible"] == ["normal", "tumour"]
    assert recalibrated.description["site_threshold"] == 0.99 and "site_threshold" not in plain.description
    other_scanner = AcceptedSite(promoted.hashes, frozenset({"another"}), calibration)
    assert ask(with_model(release, sites=(other_scanner, promoted)), **SOURCE).probabilities == plain.probabilities


def test_the_setting_answer_turns_the_reason_into_a_warning(release: Release) -> None:
    prediction = ask(replace(release, unknown_sites="answer"), InstitutionName="Birch Clinic")
    [reason] = prediction.verdict.reasons
    assert prediction.answer and reason.startswith(WARNING_PREFIX + SITE_ADVICE)


def test_a_release_of_before_answers_as_before_with_a_warning(release: Release) -> None:
    before = with_model(release, sites=None)
    prediction = ask(before, InstitutionName="Birch Clinic")
    assert prediction.verdict.reasons == (f"{WARNING_PREFIX}{NOT_CHECKED}",)
    assert (prediction.answer, prediction.probabilities) == (
        ask(release, **SOURCE).answer,
        ask(release, **SOURCE).probabilities,
    )


def test_the_journal_has_hashes_and_no_name_of_a_site_or_institution(release: Release) -> None:
    row = journal_row(ask(release, **SOURCE), "eve")
    assert row.description["site_hash"] == site_hash.hash_site(INSTITUTION)
    assert row.description["scanner_hash"] == site_hash.hash_scanner(SCANNER)
    assert INSTITUTION not in str(row) and SITE not in str(row)
