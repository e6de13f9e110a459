"""The threat table of docs/explanation/security.md: every threat names a test that exists."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "explanation" / "security.md"
HEADINGS = ["threat", "kind", "what stands against it", "test", "what remains"]
STRIDE = set("STRIDE")
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def threats() -> list[list[str]]:
    """The rows of the threat table, as cells."""
    section = PAGE.read_text(encoding="utf-8").partition("\n## Threats\n")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert cells[0] == HEADINGS
    return cells[2:]


def test_every_threat_has_a_kind_an_answer_and_a_test() -> None:
    rows = threats()
    assert len(rows) > 40
    for row in rows:
        assert len(row) == len(HEADINGS) and all(row[:4]), row
        assert set(row[1].split(", ")) <= STRIDE, row
        assert ", ".join(f"`{file}::{name}`" for file, name in NAMED.findall(row[3])) == row[3], row
    assert {kind for row in rows for kind in row[1].split(", ")} == STRIDE


def test_every_named_test_exists() -> None:
    named = NAMED.findall(PAGE.read_text(encoding="utf-8"))
    assert len(named) >= len(threats())
    missing = [f"{file}::{name}" for file, name in named if not _defines(ROOT / file, name)]
    assert not missing


def _defines(file: Path, name: str) -> bool:
    """Whether a file defines a test of exactly this name, by its source."""
    return file.is_file() and re.search(rf"^def {name}\(", file.read_text(encoding="utf-8"), re.MULTILINE) is not None
