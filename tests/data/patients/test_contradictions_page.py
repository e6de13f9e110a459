"""The page of refusals and warnings lists exactly the rules and their effects."""

from __future__ import annotations

import re
from pathlib import Path

from data.quality.expectations import rules
from data.scan.slice_rules import Rule
from pipelines import params

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs" / "explanation" / "contradictions.md"


def rows(*titles: str) -> dict[str, str]:
    """The tables under these headings, from the quoted meaning to the effect."""
    effects: dict[str, str] = {}
    for part in PAGE.read_text(encoding="utf-8").split("\n## ")[1:]:
        if part.splitlines()[0] in titles:
            effects |= dict(re.findall(r"^\| `(.+?)` \| (.+?) \|", part, re.MULTILINE))
    return effects


def shipped_rules() -> list[tuple[str, Rule]]:
    """Every rule of the suite of every shipped task, with the modality of the task."""
    settings = params.load(ROOT)
    return [(task.modality.value, rule) for task in settings.tasks.values() for rule in rules(task, settings.ingest)]


def matches(row: str, meaning: str) -> bool:
    return bool(re.fullmatch(re.escape(row).replace("…", ".+"), meaning))


def test_every_rule_of_the_suite_is_on_the_page_with_its_effect() -> None:
    table = rows("Every slice, at ingest and at the endpoint", "Every batch, at ingest")
    for modality, rule in shipped_rules():
        (row,) = [row for row in table if matches(row, rule.meaning)]
        action = next((part for part in table[row].split(", ") if modality in part), table[row])
        assert action.startswith("stops" if rule.error else "warns"), (modality, rule.meaning)


def test_the_page_has_no_rule_that_does_not_exist() -> None:
    meanings = {rule.meaning for _, rule in shipped_rules()}
    table = rows("Every slice, at ingest and at the endpoint", "Every batch, at ingest")
    assert not [row for row in table if not any(matches(row, meaning) for meaning in meanings)]


def test_the_page_of_the_gates_leads_to_the_page() -> None:
    assert "(contradictions.md)" in (PAGE.parent / "gates.md").read_text(encoding="utf-8")
