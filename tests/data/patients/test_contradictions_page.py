"""The page of refusals and warnings says what the rules do, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

from data.quality.expectations import rules
from data.scan.slice_rules import Rule
from pipelines import params

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs" / "explanation" / "contradictions.md"


def rows(*titles: str) -> dict[str, str]:
    """What the tables under these headings say of each quoted meaning."""
    found: dict[str, str] = {}
    for part in PAGE.read_text(encoding="utf-8").split("\n## ")[1:]:
        if part.splitlines()[0] in titles:
            found |= dict(re.findall(r"^\| `(.+?)` \| (.+?) \|", part, re.MULTILINE))
    return found


def shipped() -> list[tuple[str, Rule]]:
    """Every rule of the suite of every shipped task, with the task's modality."""
    settings = params.load(ROOT)
    return [(task.modality.value, rule) for task in settings.tasks.values() for rule in rules(task, settings.ingest)]


def matches(row: str, meaning: str) -> bool:
    return bool(re.fullmatch(re.escape(row).replace("…", ".+"), meaning))


def test_every_rule_of_the_suite_is_on_the_page_with_what_it_does() -> None:
    table = rows("Every slice, at ingest and at the endpoint", "Every batch, at ingest")
    for modality, rule in shipped():
        (row,) = [row for row in table if matches(row, rule.meaning)]
        action = next((part for part in table[row].split(", ") if modality in part), table[row])
        assert action.startswith("stops" if rule.error else "warns"), (modality, rule.meaning)


def test_the_page_names_no_rule_that_is_gone() -> None:
    meanings = {rule.meaning for _, rule in shipped()}
    table = rows("Every slice, at ingest and at the endpoint", "Every batch, at ingest")
    assert not [row for row in table if not any(matches(row, meaning) for meaning in meanings)]


def test_the_page_of_the_gates_leads_to_the_page() -> None:
    assert "(contradictions.md)" in (PAGE.parent / "gates.md").read_text(encoding="utf-8")
