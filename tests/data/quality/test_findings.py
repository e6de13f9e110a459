"""Findings have one sentence, and are read back from it with kind and other unit."""

from __future__ import annotations

import pytest

from data.quality.findings import (
    WITH_OTHER_UNIT,
    WITHOUT_PHRASE,
    Finding,
    FindingKind,
    merge_findings,
    read_finding,
    sentences_by_unit,
)


@pytest.mark.parametrize("kind", FindingKind)
def test_a_finding_is_read_back_from_its_sentence(kind: FindingKind) -> None:
    if kind in WITHOUT_PHRASE:
        finding = Finding(kind, "u", detail="saturated: more than half of it is at its maximum")
        assert (finding.sentence, finding.phrase) == (finding.detail, "saturated")
        assert read_finding("u", finding.sentence) == Finding(FindingKind.RULE, "u", detail=finding.detail)
        return
    finding = Finding(kind, "u", "other") if kind in WITH_OTHER_UNIT else Finding(kind, "u", detail="correct it")
    assert finding.sentence == f"{kind.value}: {finding.other or finding.detail}" and finding.phrase == kind.value
    assert read_finding("u", finding.sentence) == finding
    assert read_finding("u", kind.value) == Finding(kind, "u") and Finding(kind, "u").sentence == kind.value


def test_a_sentence_of_an_old_workspace_with_other_advice_has_the_same_kind() -> None:
    sentence = "one person of the DICOM headers is two patients of the table: mend patient_id"
    finding = read_finding("u", sentence)
    assert finding.kind is FindingKind.PERSON_WITH_TWO_PATIENTS and finding.sentence == sentence


def test_findings_are_merged_by_unit_each_one_once() -> None:
    blank = [Finding(FindingKind.RULE, unit, detail="blank") for unit in ("u2", "u1", "u2")]
    copy = Finding(FindingKind.EXACT_COPY, "u2", "u0")
    merged = merge_findings([*blank, copy])
    assert list(merged) == ["u1", "u2"] and merged["u2"] == [blank[0], copy]
    assert sentences_by_unit(merged["u2"]) == {"u2": ["blank", "exact copy: u0"]}
