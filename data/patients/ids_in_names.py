"""Ids in names of files and folders: a table that contradicts them, and visits of one patient under several names."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from pathlib import PurePosixPath

from data.identifiers import TERMS
from data.scan.dicom.header_identity import fold

LONGEST = 6  # words of a file's name that may be one id
SHORTEST = 4  # letters or digits of an id of digits alone: shorter ones are numbers of slices as well
WORD = re.compile(r"[^\W_]+")
VISIT = re.compile(
    r"(?<![^\W_])(?:(?:ses|sess|session|visit|week|month|tp|timepoint|follow[-_ ]?up|fu|baseline|pre|post|pre[-_ ]?op|"
    r"post[-_ ]?op|preoperative|postoperative)[-_ ]?\d{0,3}|v\d\d?|m\d\d|"
    r"(?:19|20)\d\d[-_]?[01]\d[-_]?[0-3]\d)(?![^\W_])"
)
LAST_NUMBER = re.compile(r"(?P<patient>.*\d)[-_](?P<visit>\d{1,3})")  # BraTS-GLI-00001-000
YEAR = re.compile(r"(.*[^\d])?(19|20)\d\d")


def contradicted(names: Sequence[str], ids: Sequence[str], numbers: Sequence[Hashable]) -> list[Hashable]:
    """The `numbers` of the rows whose file or folder bears the id of another row's patient, and not its own.

    `names` are paths and `ids` those of the table, row by row. Ids of few digits and nothing else say nothing.
    """
    folded = {each: fold(each) for each in dict.fromkeys(ids)}
    telling = {each for each in folded.values() if len(each) >= SHORTEST or not each.isdecimal()} - {""}
    telling = {each for each in telling if any(map(str.isdecimal, each)) or len(each) >= SHORTEST}
    borne: dict[str, set[str]] = {}
    contradictions = []
    for name, own, number in zip(names, ids, numbers, strict=True):
        if not folded[own] or len(telling) < 2 or _bears(name, own):
            continue
        if name not in borne:
            borne[name] = _ids_of(name)
        if folded[own] not in borne[name] and borne[name] & telling:
            contradictions.append(number)
    return contradictions


def visits(names: Iterable[str], by_number: bool = True) -> list[list[str]]:
    """The names that differ in a visit, a week or a date alone, such as `sub-01_ses-1` and `sub-01_ses-2`.

    `by_number` counts a last number as a visit too (`00001-000`), where there are more patients than such numbers.
    """
    several = list(dict.fromkeys(names))
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for name in several:
        groups[_without_visit(name)].append(name)
    groups_of_visits = [group for patient, group in groups.items() if len(group) > 1 and _is_id(patient, len(groups))]
    matches = [LAST_NUMBER.fullmatch(name) for name in several]
    if groups_of_visits or not by_number or not all(matches):
        return groups_of_visits
    groups.clear()
    for match in filter(None, matches):
        groups[match["patient"]].append(match[0])
    last = {match["visit"] for match in filter(None, matches)}
    repeated = [group for group in groups.values() if len(group) > 1]
    return repeated if len(groups) > len(last) and not any(map(YEAR.fullmatch, groups)) else []


def _bears(name: str, own: str) -> bool:
    """Whether a path holds an id as it is written, as words of its own: what most do, and quick to see."""
    at = name.find(own)
    around = name[max(0, at - 1) : max(0, at)], name[at + len(own) : at + len(own) + 1]
    return at >= 0 and not any(map(str.isalnum, "".join(around)))


def _ids_of(name: str) -> set[str]:
    """All that may be an id in a path, folded: each folder, and the neighbouring words of the file's name."""
    path = PurePosixPath(name)
    ids: set[str] = set()
    for part in (*path.parts[:-1], path.name.partition(".")[0]):
        spans = [match.span() for match in WORD.finditer(part)]
        for first, (start, _) in enumerate(spans):
            ids |= {fold(part[start:end]) for _, end in spans[first : first + LONGEST]}
    return ids


def _without_visit(name: str) -> str:
    plain = unicodedata.normalize("NFKC", name).casefold()
    return fold(VISIT.sub(" ", plain))


def _is_id(text: str, different: int) -> bool:
    """Whether what is left of a name is a patient's: it has a number, or is one of `different` words of no meaning."""
    words = WORD.findall(text)
    return any(map(str.isdecimal, text)) or (different > 1 and bool(words) and not TERMS.issuperset(words))
