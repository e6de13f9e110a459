"""Small pieces of Markdown: tables and text that is safe inside them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

CODE = re.compile(r"(`[^`]*`)")


def text(value: object) -> str:
    """Text as Markdown shows it unchanged; code between backticks stays as it is."""
    parts = CODE.split(" ".join(str(value).split()))
    return "".join(part if part.startswith("`") else _escaped(part) for part in parts)


def code(value: object) -> str:
    """A value as code; empty for an empty value."""
    return f"`{value}`" if str(value) else ""


def table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table of Markdown. Cells are Markdown already; a bar inside a cell is escaped."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines) + "\n"


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")


def _escaped(part: str) -> str:
    return part.replace("<", "&lt;").replace("*", "\\*")
