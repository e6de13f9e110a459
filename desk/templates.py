"""Render pages from templates, and format figures and times."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse

if TYPE_CHECKING:
    from desk.visitor import Visitor

FOLDER = Path(__file__).parent
WARNING = "Research use only. Not for clinical decisions."
MENU = {
    "clinician": (("/", "New scan"), ("/cases", "My cases")),
    "engineer": (
        ("/models", "Models"),
        ("/watch", "Drift and validation"),
        ("/decisions", "Decisions"),
        ("/sites", "Sites"),
    ),
    "auditor": (("/ledger", "Ledger"), ("/trace", "Trace"), ("/verify", "Check"), ("/people", "People")),
}


def page(
    request: Request,
    name: str,
    values: dict[str, Any] | None = None,
    visitor: Visitor | None = None,
    status: int = 200,
) -> HTMLResponse:
    """A template as a response. The page's header shows the visitor's name, role and menu."""
    menu = MENU[visitor.role] if visitor else ()
    shared = {"visitor": visitor, "menu": menu, "path": request.url.path, "warning": WARNING, "style": ""}
    return HTMLResponse(_templates.get_template(name).render(shared | (values or {})), status)


def style() -> str:
    """The style sheet, for a page that is saved as a single file."""
    return (FOLDER / "static" / "desk.css").read_text(encoding="utf-8")


def percent(value: float | None) -> str:
    """A probability as text: 0.8214 is `82 %`. It is never rounded to 0 % or 100 %."""
    if value is None:
        return "not known"
    if 0 < value < 0.01:
        return "under 1 %"
    if 0.99 < value < 1:
        return "over 99 %"
    return f"{value * 100:.0f} %"


def sentence(text: str) -> str:
    """A note as a sentence: `phantoms only` becomes `Phantoms only.`"""
    return f"{text[:1].upper()}{text[1:].rstrip('.')}." if text else ""


def when(text: str) -> Markup:
    """A time for people, without a line break: 2026-01-31 12:00 UTC."""
    readable = text.replace("T", " ").removesuffix("Z")[:16] + " UTC" if text else ""
    return Markup("<time>{}</time>").format(readable)


def figure(value: Any) -> str:
    """A figure of a verdict or manifest as text: short numbers, `0.91 (0.85 to 0.95)` for intervals, else JSON."""
    if value is None or value in ("", [], {}):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, str | int):
        return str(value)
    if interval := bounds(value):
        middle, low, high = (figure(part) for part in interval)
        return f"{middle} ({low} to {high})"
    if isinstance(value, list | tuple) and all(isinstance(part, str | int | float) for part in value):
        return ", ".join(figure(part) for part in value)
    return json.dumps(value, sort_keys=True, default=str)


def bounds(value: Any) -> tuple[Any, Any, Any] | None:
    """(value, low, high) of a mapping with an interval; None for anything else."""
    if not isinstance(value, dict):
        return None
    for middle in ("value", "estimate", "difference"):
        if {middle, "low", "high"} <= value.keys():
            return value[middle], value["low"], value["high"]
    return None


def flat(figures: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Nested figures as one list of (name, value); an interval stays one value."""
    entries: list[tuple[str, Any]] = []
    for name, value in figures.items():
        if isinstance(value, dict) and value and bounds(value) is None:
            entries += flat(value, f"{prefix}{name} · ")
        else:
            entries.append((f"{prefix}{name}".replace("_", " "), value))
    return entries


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(FOLDER / "html"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=percent, sentence=sentence, when=when, figure=figure, flat=flat)
    return environment


_templates = _environment()
