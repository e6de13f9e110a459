"""What intake asks of a scan, asked of an upload: what withholds the answer, and what comes with it as a warning."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data.scan.slice_features import FACTS
from data.scan.slice_rules import Rule, failed_rules

BY_VALUE = ("modality", "body_part")  # the gate compares these itself, and names what the scan has
MOST_FAILING = 0.2  # share of the judged slices; a batch with more of them is kept out whole (ingest.max_failing)


@dataclass(frozen=True)
class Findings:
    """`refused`: of the header, for every slice; `unfit`: of the pixels; both withhold. `warnings` do not."""

    refused: tuple[str, ...]
    unfit: tuple[str, ...]
    warnings: tuple[str, ...]


def check(
    descriptions: Sequence[Mapping[str, Any]],
    asked: Sequence[Rule],
    deciding: Collection[int],
    left_out: Sequence[str] = (),
    blank: int = 0,
) -> Findings:
    """Ask the rules of every judged slice (its description of data/scan/slice_features.py).

    A failing header withholds the answer. Failing pixels do on a slice that decides the answer (`deciding`: positions),
    or where more than a fifth of the slices fail; fewer others are a warning. `left_out` are the reasons of files that
    are no slices, `blank` how many slices were not judged since they show nothing.
    """
    slices = len(descriptions)
    failing: list[list[int]] = [[] for _ in asked]
    for position, description in enumerate(descriptions):
        for number in failed_rules(description, asked):
            failing[number].append(position)
    found = [(rule, at) for rule, at in zip(asked, failing, strict=True) if at]
    errors = [(rule, at) for rule, at in found if rule.error and rule.arguments["column"] not in BY_VALUE]
    of_header = [(rule, at) for rule, at in errors if rule.arguments["column"] in FACTS]
    of_pixels = [(rule, at) for rule, at in errors if rule.arguments["column"] not in FACTS]
    many = len({position for _, at in of_pixels for position in at}) > MOST_FAILING * slices
    grave = [(rule, at) for rule, at in of_pixels if many or not set(at).isdisjoint(deciding)]
    mild = [(rule, at) for rule, at in found if not rule.error or ((rule, at) in of_pixels and (rule, at) not in grave)]
    warnings = [f"{_files(left_out.count(why))} left out: {why}" for why in dict.fromkeys(left_out)]
    warnings += [f"{blank} of {blank + slices} slices are blank and take no part"] if blank else []
    return Findings(
        refused=_texts(of_header, slices), unfit=_texts(grave, slices), warnings=(*warnings, *_texts(mild, slices))
    )


def _texts(found: Sequence[tuple[Rule, Sequence[int]]], slices: int) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_counted(rule.meaning, at, slices) for rule, at in found))


def _counted(meaning: str, positions: Sequence[int], slices: int) -> str:
    return meaning if len(positions) == slices else f"{meaning} ({len(positions)} of {slices} slices)"


def _files(count: int) -> str:
    return "1 file is" if count == 1 else f"{count} files are"
