"""Every threat in the table of docs/explanation/security.md cites an existing test."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "explanation" / "security.md"
HEADINGS = ["threat", "kind", "what stands against it", "test", "what remains"]
STRIDE = set("STRIDE")
CITED_TEST = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def threats() -> list[list[str]]:
    """The rows of the threat table, as cells."""
    section = PAGE.read_text(encoding="utf-8").partition("\n## Threats\n")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert cells[0] == HEADINGS
    return cells[2:]


def test_every_threat_has_a_kind_a_mitigation_and_a_test() -> None:
    rows = threats()
    assert len(rows) > 40
    for row in rows:
        assert len(row) == len(HEADINGS) and all(row[:4]), row
        assert set(row[1].split(", ")) <= STRIDE, row
        assert ", ".join(f"`{file}::{name}`" for file, name in CITED_TEST.findall(row[3])) == row[3], row
    assert {kind for row in rows for kind in row[1].split(", ")} == STRIDE


def test_every_cited_test_exists() -> None:
    cited = CITED_TEST.findall(PAGE.read_text(encoding="utf-8"))
    assert len(cited) >= len(threats())
    missing = [f"{file}::{name}" for file, name in cited if not _defines(ROOT / file, name)]
    assert not missing


def _defines(file: Path, name: str) -> bool:
    """Whether the source of a file defines a test with exactly this name."""
    return file.is_file() and re.search(rf"^def {name}\(", file.read_text(encoding="utf-8"), re.MULTILINE) is not None
