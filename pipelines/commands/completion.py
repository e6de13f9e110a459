"""completion: the completion script of a shell, made from the parser of the command line."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipelines import cli


def completion(args: argparse.Namespace) -> cli.Answer:
    """The script of bash, zsh or fish; it names every command, option and choice, and completes file names."""
    import shtab

    parser, commands = cli.parsers()
    for command in commands.values():
        for action in command.arguments:
            if action.type is Path:
                vars(action)["complete"] = shtab.FILE  # shtab reads this attribute
    script = shtab.complete(parser, args.shell)
    return cli.Answer({"shell": args.shell, "script": script}, script)
