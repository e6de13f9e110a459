"""The formats of figures and times for people."""

from __future__ import annotations

from typing import Any

import pytest

from desk import templates


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.8214, "82 %"), (0.0, "0 %"), (0.004, "under 1 %"), (0.999, "over 99 %"), (1.0, "100 %"), (None, "not known")],
)
def test_a_probability_is_never_rounded_to_certainty(value: float | None, text: str) -> None:
    assert templates.percent(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.91234, "0.912"),
        (True, "yes"),
        (None, "–"),
        ([], "–"),
        (12345.6, "12,346"),
        ({"value": 0.9, "low": 0.8, "high": 0.95}, "0.9 (0.8 to 0.95)"),
        ({"difference": 0.02, "low": None, "high": 0.05}, "0.02 (– to 0.05)"),
        (["a", 1], "a, 1"),
        ({"a": {"b": 1}}, '{"a": {"b": 1}}'),
    ],
)
def test_a_figure_is_short_and_an_interval_is_one_figure(value: Any, text: str) -> None:
    assert templates.figure(value) == text


def test_nested_figures_become_one_list() -> None:
    figures = {"anchor": {"auroc": {"difference": 1, "low": 0, "high": 2}, "n": 3}, "margin_auroc": 0.05, "empty": {}}
    assert [name for name, _ in templates.flat(figures)] == ["anchor · auroc", "anchor · n", "margin auroc", "empty"]


def test_a_time_names_its_time_zone() -> None:
    assert templates.when("2026-01-31T12:00:59Z") == "<time>2026-01-31 12:00 UTC</time>"
    assert templates.when("<b>") == "<time>&lt;b&gt; UTC</time>"
