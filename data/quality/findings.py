"""Findings of the data gate: why a unit stays out, as a kind with its details, and as the sentence that people read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class FindingKind(StrEnum):
    """The kinds of findings. The value is the phrase that begins the sentence; the first two have none of their own."""

    RULE = "failed rule"
    REFUSED_FILE = "refused file"
    EXACT_COPY = "exact copy"
    COPY_OF_OTHER_PATIENT = "exact copy of another patient's scan"
    COPY_OF_ADMITTED = "copy of an admitted scan"
    COPY_WITH_OTHER_LABEL = "the same picture has two labels"
    NEAR_DUPLICATE = "near-duplicate of another patient's scan"
    NEAR_DUPLICATE_WITH_OTHER_LABEL = "nearly the same picture has another label"
    PATIENT_IN_TWO_GROUPS = "patient in two groups"
    PERSON_WITH_TWO_PATIENTS = "one person of the DICOM headers is two patients of the table"
    PATIENT_OF_TWO_PERSONS = "two persons of the DICOM headers are one patient of the table"
    PATIENT_OF_TWO_NAMES = "two persons of the DICOM headers, by name or birth date, are one patient of the table"
    PATIENT_SPELT_TWICE = "the id of one patient is spelt in two ways"
    GROUP_SPELT_TWICE = "the group of its patient is spelt in two ways"
    LABEL_WITHOUT_LESION = "label contradicts its mask, which shows no lesion"
    LABEL_WITH_LESION = "label contradicts its mask, which shows a lesion"


WITHOUT_PHRASE = (FindingKind.RULE, FindingKind.REFUSED_FILE)
COPIES = frozenset((FindingKind.EXACT_COPY, FindingKind.COPY_OF_OTHER_PATIENT, FindingKind.COPY_OF_ADMITTED))
NEAR_DUPLICATES = frozenset((FindingKind.NEAR_DUPLICATE,))
LABEL_CONFLICTS = frozenset((FindingKind.COPY_WITH_OTHER_LABEL, FindingKind.NEAR_DUPLICATE_WITH_OTHER_LABEL))
IDENTITY_CONTRADICTIONS = frozenset(
    (
        FindingKind.PERSON_WITH_TWO_PATIENTS,
        FindingKind.PATIENT_OF_TWO_PERSONS,
        FindingKind.PATIENT_OF_TWO_NAMES,
        FindingKind.PATIENT_SPELT_TWICE,
    )
)
MASK_CONTRADICTIONS = frozenset((FindingKind.LABEL_WITHOUT_LESION, FindingKind.LABEL_WITH_LESION))
WITH_OTHER_UNIT = (COPIES | NEAR_DUPLICATES | LABEL_CONFLICTS) - {FindingKind.COPY_WITH_OTHER_LABEL}


@dataclass(frozen=True)
class Finding:
    """Why a unit stays out. `other` is the unit that it duplicates, "" for other kinds.

    `detail` completes the sentence. For a failed rule or a refused file it is the complete sentence.
    """

    kind: FindingKind
    unit: str
    other: str = ""
    detail: str = ""

    @property
    def phrase(self) -> str:
        """The sentence without its details: findings with the same phrase are counted together."""
        return self.detail.partition(":")[0] if self.kind in WITHOUT_PHRASE else self.kind.value

    @property
    def sentence(self) -> str:
        """The finding as people read it, and as it is stored beside the rejected units."""
        if self.kind in WITHOUT_PHRASE:
            return self.detail
        details = self.other or self.detail
        return f"{self.kind.value}: {details}" if details else self.kind.value


def read_finding(unit: str, sentence: str) -> Finding:
    """The finding of a stored sentence. A sentence without the phrase of a kind is that of a failed rule."""
    phrase, _, details = sentence.partition(": ")
    kind = next((kind for kind in FindingKind if kind.value == phrase and kind not in WITHOUT_PHRASE), FindingKind.RULE)
    if kind is FindingKind.RULE:
        return Finding(kind, unit, detail=sentence)
    return Finding(kind, unit, details) if kind in WITH_OTHER_UNIT else Finding(kind, unit, detail=details)


def merge_findings(findings: Iterable[Finding]) -> dict[str, list[Finding]]:
    """The findings of each unit, each finding once, sorted by unit."""
    merged: dict[str, list[Finding]] = {}
    for finding in findings:
        findings_of_unit = merged.setdefault(finding.unit, [])
        if finding not in findings_of_unit:
            findings_of_unit.append(finding)
    return dict(sorted(merged.items()))


def sentences_by_unit(findings: Iterable[Finding]) -> dict[str, list[str]]:
    """The sentences of each unit's findings."""
    sentences: dict[str, list[str]] = {}
    for finding in findings:
        sentences.setdefault(finding.unit, []).append(finding.sentence)
    return sentences
