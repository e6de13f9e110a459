"""What a flow shows on Prefect's page and writes down beside its work: verdicts, tables, small JSON files."""

from __future__ import annotations

import json
from typing import Any

from lineage.record.verdict import Verdict


def verdict(judged: Verdict, key: str, link: str = "") -> None:
    """Show a verdict with its reasons and figures as a Prefect artifact."""
    from prefect.artifacts import create_markdown_artifact

    lines = [f"# {judged.subject}: {judged.outcome.value}", ""]
    lines += [f"- {reason}" for reason in judged.reasons]
    if judged.figures:
        lines += ["", "| figure | value |", "|---|---|"]
        lines += [f"| {name} | {_short(value)} |" for name, value in sorted(judged.figures.items())]
    if link:
        lines += ["", f"Page: `{link}`"]
    create_markdown_artifact(markdown="\n".join(lines), key=slug(key), description=f"{judged.gate} gate")


def table(rows: list[dict[str, Any]], key: str, description: str) -> None:
    """Show rows as a table artifact."""
    from prefect.artifacts import create_table_artifact

    create_table_artifact(table=rows, key=slug(key), description=description)


def slug(text: str) -> str:
    """An artifact key: lower-case letters, digits and dashes, which is all that Prefect allows."""
    return "".join(letter if letter.isalnum() and letter.isascii() else "-" for letter in text.lower()).strip("-")


def _short(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else json.dumps(value, default=str)
    return text.replace("|", "\\|") if len(text) <= 200 else text[:197] + "..."
