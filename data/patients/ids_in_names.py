"""Patient ids in names of files and folders: tables that contradict them, and visits of one patient."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from pathlib import PurePosixPath

from data.identifiers import COMMON_WORDS
from data.scan.dicom.header_identity import fold_id

MAX_WORDS = 6  # of a file's name that may be one id
MIN_DIGITS = 4  # of an id of digits only; shorter ones may be slice numbers
WORD = re.compile(r"[^\W_]+")
VISIT = re.compile(
    r"(?<![^\W_])(?:(?:ses|sess|session|visit|week|month|tp|timepoint|follow[-_ ]?up|fu|baseline|pre|post|pre[-_ ]?op|"
    r"post[-_ ]?op|preoperative|postoperative)[-_ ]?\d{0,3}|v\d\d?|m\d\d|"
    r"(?:19|20)\d\d[-_]?[01]\d[-_]?[0-3]\d)(?![^\W_])"
)
LAST_NUMBER = re.compile(r"(?P<patient>.*\d)[-_](?P<visit>\d{1,3})")  # BraTS-GLI-00001-000
YEAR = re.compile(r"(.*[^\d])?(19|20)\d\d")


def contradicting_rows(names: Sequence[str], ids: Sequence[str], numbers: Sequence[Hashable]) -> list[Hashable]:
    """The `numbers` of the rows whose path contains the id of another row's patient and not the row's own id.

    `names` are paths and `ids` are those of the table, row by row. Ids of only a few digits are ignored.
    """
    folded_ids = {text: fold_id(text) for text in dict.fromkeys(ids)}
    distinctive = {text for text in folded_ids.values() if len(text) >= MIN_DIGITS or not text.isdecimal()} - {""}
    distinctive = {text for text in distinctive if any(map(str.isdecimal, text)) or len(text) >= MIN_DIGITS}
    ids_by_name: dict[str, set[str]] = {}
    contradictions = []
    for name, own_id, number in zip(names, ids, numbers, strict=True):
        if not folded_ids[own_id] or len(distinctive) < 2 or _contains_id(name, own_id):
            continue
        if name not in ids_by_name:
            ids_by_name[name] = _possible_ids(name)
        if folded_ids[own_id] not in ids_by_name[name] and ids_by_name[name] & distinctive:
            contradictions.append(number)
    return contradictions


def group_visits(names: Iterable[str], by_number: bool = True) -> list[list[str]]:
    """Groups of names that only differ in a visit, a week or a date, such as `sub-01_ses-1` and `sub-01_ses-2`.

    With `by_number` a last number also counts as a visit (`00001-000`), if there are more patients than such numbers.
    """
    unique_names = list(dict.fromkeys(names))
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for name in unique_names:
        groups[_without_visit(name)].append(name)
    groups_of_visits = [group for patient, group in groups.items() if len(group) > 1 and _is_id(patient, len(groups))]
    matches = [LAST_NUMBER.fullmatch(name) for name in unique_names]
    if groups_of_visits or not by_number or not all(matches):
        return groups_of_visits
    groups.clear()
    for match in filter(None, matches):
        groups[match["patient"]].append(match[0])
    visit_numbers = {match["visit"] for match in filter(None, matches)}
    repeated = [group for group in groups.values() if len(group) > 1]
    return repeated if len(groups) > len(visit_numbers) and not any(map(YEAR.fullmatch, groups)) else []


def _contains_id(name: str, own_id: str) -> bool:
    """Whether a path contains the id verbatim, between separators: a fast check that is true for most paths."""
    start = name.find(own_id)
    neighbours = name[max(0, start - 1) : max(0, start)], name[start + len(own_id) : start + len(own_id) + 1]
    return start >= 0 and not any(map(str.isalnum, "".join(neighbours)))


def _possible_ids(name: str) -> set[str]:
    """Every possible id in a path, folded: one to `MAX_WORDS` neighbouring words of a folder or of the file's name."""
    path = PurePosixPath(name)
    ids: set[str] = set()
    for part in (*path.parts[:-1], path.name.partition(".")[0]):
        spans = [match.span() for match in WORD.finditer(part)]
        for first, (start, _) in enumerate(spans):
            ids |= {fold_id(part[start:end]) for _, end in spans[first : first + MAX_WORDS]}
    return ids


def _without_visit(name: str) -> str:
    plain = unicodedata.normalize("NFKC", name).casefold()
    return fold_id(VISIT.sub(" ", plain))


def _is_id(text: str, group_count: int) -> bool:
    """Whether the rest of a name is a patient id: it has a digit, or is one of several words that are no terms."""
    words = WORD.findall(text)
    return any(map(str.isdecimal, text)) or (group_count > 1 and bool(words) and not COMMON_WORDS.issuperset(words))
