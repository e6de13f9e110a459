"""Apply the ingest rules to an upload: which faults withhold the answer, and which become warnings."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data.scan.slice_features import FACTS
from data.scan.slice_rules import Rule, failed_rules

GATE_COLUMNS = ("modality", "body_part")  # the gate compares these itself, and reports the scan's value
MAX_FAILING_SHARE = 0.2  # of the judged slices; ingest rejects a batch with more (ingest.max_failing)


@dataclass(frozen=True)
class Findings:
    """Faults of the header and of the pixels, which withhold the answer, and warnings, which do not."""

    header_faults: tuple[str, ...]
    pixel_faults: tuple[str, ...]
    warnings: tuple[str, ...]


def check(
    descriptions: Sequence[Mapping[str, Any]],
    rules: Sequence[Rule],
    deciding: Collection[int],
    left_out: Sequence[str] = (),
    blank: int = 0,
) -> Findings:
    """Apply the rules to every judged slice, described as in data/scan/slice_features.py.

    A header fault withholds the answer. A pixel fault withholds it on a slice at a `deciding` position, or if more than
    a fifth of the slices have pixel faults; else it is a warning. `left_out` are the reasons of files that are not
    slices. `blank` is the number of slices that were not judged because they are blank.
    """
    slice_count = len(descriptions)
    positions_by_rule: list[list[int]] = [[] for _ in rules]
    for position, description in enumerate(descriptions):
        for number in failed_rules(description, rules):
            positions_by_rule[number].append(position)
    failed = [(rule, positions) for rule, positions in zip(rules, positions_by_rule, strict=True) if positions]
    errors = [entry for entry in failed if entry[0].error and entry[0].arguments["column"] not in GATE_COLUMNS]
    header_errors = [entry for entry in errors if entry[0].arguments["column"] in FACTS]
    pixel_errors = [entry for entry in errors if entry[0].arguments["column"] not in FACTS]
    failing_slices = {position for _, positions in pixel_errors for position in positions}
    are_many = len(failing_slices) > MAX_FAILING_SHARE * slice_count
    severe = [entry for entry in pixel_errors if are_many or not set(entry[1]).isdisjoint(deciding)]
    mild = [entry for entry in failed if not entry[0].error or (entry in pixel_errors and entry not in severe)]
    warnings = [f"{_files(left_out.count(reason))} left out: {reason}" for reason in dict.fromkeys(left_out)]
    warnings += [f"{blank} of {blank + slice_count} slices are blank and are not used"] if blank else []
    return Findings(
        header_faults=_texts(header_errors, slice_count),
        pixel_faults=_texts(severe, slice_count),
        warnings=(*warnings, *_texts(mild, slice_count)),
    )


def _texts(failed: Sequence[tuple[Rule, Sequence[int]]], slice_count: int) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_with_count(rule.meaning, positions, slice_count) for rule, positions in failed))


def _with_count(meaning: str, positions: Sequence[int], slice_count: int) -> str:
    return meaning if len(positions) == slice_count else f"{meaning} ({len(positions)} of {slice_count} slices)"


def _files(count: int) -> str:
    return "1 file is" if count == 1 else f"{count} files are"
