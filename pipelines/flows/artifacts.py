"""Prefect artifacts of the flows: verdicts and tables."""

from __future__ import annotations

import json
from typing import Any

from lineage.record.verdict import Verdict


def publish_verdict(result: Verdict, key: str, link: str = "") -> None:
    """Publish a verdict with its reasons and figures as a Prefect artifact."""
    from prefect.artifacts import create_markdown_artifact

    lines = [f"# {result.subject}: {result.outcome.value}", ""]
    lines += [f"- {reason}" for reason in result.reasons]
    if result.figures:
        lines += ["", "| figure | value |", "|---|---|"]
        lines += [f"| {name} | {_format_value(value)} |" for name, value in sorted(result.figures.items())]
    if link:
        lines += ["", f"Page: `{link}`"]
    create_markdown_artifact(markdown="\n".join(lines), key=slug(key), description=f"{result.gate} gate")


def publish_table(rows: list[dict[str, Any]], key: str, description: str) -> None:
    """Publish rows as a Prefect table artifact."""
    from prefect.artifacts import create_table_artifact

    create_table_artifact(table=rows, key=slug(key), description=description)


def slug(text: str) -> str:
    """An artifact key: lower-case letters, digits and dashes, the only characters that Prefect allows."""
    return "".join(letter if letter.isalnum() and letter.isascii() else "-" for letter in text.lower()).strip("-")


def _format_value(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else json.dumps(value, default=str)
    return text.replace("|", "\\|") if len(text) <= 200 else text[:197] + "..."
