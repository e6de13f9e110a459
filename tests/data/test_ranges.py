"""Ranges of settings: their words, their limits, and that the settings themselves need no pydantic."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest

from data.ranges import Range


@pytest.mark.parametrize(
    ("limits", "words", "inside", "outside"),
    [
        (Range(above=0, below=1), "above 0 and below 1", (0.001, 0.999), (0, 1, math.nan)),
        (Range(above=0, most=1), "above 0 and at most 1", (0.001, 1), (0, 1.001)),
        (Range(least=0, most=1), "from 0 to 1", (0, 1), (-0.001, 1.001, math.nan)),
        (Range(least=0, below=1), "at least 0 and below 1", (0, 0.999), (-1, 1)),
        (Range(least=16, unit="pixels"), "at least 16", (16, 4096), (15,)),
        (Range(unit="HU"), "", (-1e9, 0, 1e9), ()),
    ],
)
def test_a_range_accepts_what_its_words_say(
    limits: Range, words: str, inside: tuple[float, ...], outside: tuple[float, ...]
) -> None:
    assert str(limits) == words
    assert [limits.check(value) for value in inside] == list(inside)
    for value in outside:
        with pytest.raises(ValueError, match=words):
            limits.check(value)


def test_a_machine_that_only_fits_and_evaluates_needs_no_pydantic() -> None:
    modules = "data.core_types, data.settings, training.settings, serving.settings, monitoring.settings"
    code = f"import sys, {modules}; print(sorted(name for name in sys.modules if name.startswith('pydantic')))"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "[]"
