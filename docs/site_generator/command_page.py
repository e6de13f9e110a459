"""Reference: every command and its options, from the parser of pipelines/cli.py."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from pipelines import cli
from site_generator import markdown

INTRODUCTION = """# Commands

Every command of `oncoloop`. `oncoloop COMMAND --help` shows the same text.

All commands take `--json`: the result is then JSON, alone on standard output. Commands that need a workspace take
`-C DIR`; without it they use the current folder.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | failed; one sentence on standard error says why |
| 2 | wrong usage |
| 3 | a gate said fail |
| 4 | a gate said inconclusive |
"""


def page() -> str:
    """The page of all commands."""
    purposes = {name: _sentence(command.purpose) for name, command in cli.COMMANDS.items()}
    rows = [(f"[`{name}`](#{name})", purpose) for name, purpose in purposes.items()]
    sections = [_section(name, command, purposes[name]) for name, command in cli.parsers()[1].items()]
    return "\n".join([INTRODUCTION, markdown.table(("command", "purpose"), rows), *sections])


def _sentence(purpose: str) -> str:
    return markdown.text(purpose[:1].upper() + purpose[1:]) + "."


def _section(name: str, command: cli.CommandParser, purpose: str) -> str:
    usage = " ".join(command.parser.format_usage().removeprefix("usage: ").split())
    rows = [_row(action) for action in command.arguments]
    arguments = markdown.table(("argument", "values", "default", "meaning"), rows)
    example = f"Example: `{cli.COMMANDS[name].example}`"
    return "\n".join([f"## {name}\n", f"{purpose}\n", f"```text\n{usage}\n```\n", arguments, f"{example}\n"])


def _row(action: argparse.Action) -> tuple[str, str, str, str]:
    names = ", ".join(markdown.code(name) for name in action.option_strings) or markdown.code(action.dest)
    default = "" if action.default in (None, False, [], "") else markdown.code(action.default)
    required = "Required. " if action.required and action.option_strings else ""
    return names, _values(action), default, markdown.text(f"{required}{action.help or ''}")


def _values(action: argparse.Action) -> str:
    if action.choices:
        return ", ".join(markdown.code(choice) for choice in action.choices)
    if action.nargs == 0:
        return "switch"
    kinds: dict[Any, str] = {int: "whole number", Path: "path"}
    return kinds.get(action.type, "text")
