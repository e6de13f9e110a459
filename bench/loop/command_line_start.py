"""Seconds until `oncoloop --help` answers: the parser of pipelines/cli.py compared with the same commands in Typer.

    python bench/loop/command_line_start.py --runs 15

The Typer program has the commands, arguments and help texts of `pipelines/cli.py`, and no work.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the packages are beside bench/

from pipelines import cli

HEAD = "from pathlib import Path\nfrom typing import Annotated\nimport typer\napp = typer.Typer(name='oncoloop')\n"


def typer_program() -> str:
    """The source of a Typer program with every command of `oncoloop`."""
    return HEAD + "\n".join(_function(name, command) for name, command in cli.COMMANDS.items()) + "\napp()\n"


def _function(name: str, command: cli.Command) -> str:
    parameters = ", ".join(_parameter(names, options) for names, options in command.arguments)
    epilog = f"example: {command.example}"
    return f"@app.command({name!r}, help={command.purpose!r}, epilog={epilog!r})\ndef do_{name}({parameters}): ...\n"


def _parameter(names: tuple[str, ...], options: dict[str, Any]) -> str:
    kind = "bool" if options.get("action") == "store_true" else getattr(options.get("type"), "__name__", "str")
    if options.get("nargs") in ("*", "+") or options.get("action") == "append":
        kind = f"list[{kind}]"
    is_option = names[0].startswith("-")
    call = f"typer.Option({names[-1]!r}, " if is_option else "typer.Argument("
    name = "parameter_" + names[-1].strip("-").replace("-", "_")
    return f"{name}: Annotated[{kind}, {call}help={options.get('help', '')!r})] = None"


def seconds_of_runs(command: list[str], environment: dict[str, str], runs: int) -> Iterator[float]:
    """Wall-clock seconds of each run of a command, which must succeed."""
    for _ in range(runs):
        start = time.perf_counter()
        subprocess.run(command, env=os.environ | environment, stdout=subprocess.DEVNULL, check=True)
        yield time.perf_counter() - start


def main() -> None:
    """Run each program with `--help` and with a completion request; print the medians."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--runs", type=int, default=15)
    runs = options.parse_args().runs
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "typer_program.py"
        program.write_text(typer_program(), encoding="utf-8")
        ours = [str(Path(sys.executable).with_name("oncoloop"))]
        theirs = [sys.executable, str(program)]
        on_key = {"_TYPER_PROGRAM.PY_COMPLETE": "complete_bash", "COMP_WORDS": "oncoloop re", "COMP_CWORD": "1"}
        for name, command, environment in (
            ("argparse, oncoloop --help", [*ours, "--help"], {}),
            (f"typer {version('typer')}, --help", [*theirs, "--help"], {}),
            ("argparse, oncoloop retrain --help", [*ours, "retrain", "--help"], {}),
            ("typer, retrain --help", [*theirs, "retrain", "--help"], {}),
            ("shtab, script of completion, once", [*ours, "completion", "bash"], {}),
            ("typer, each completion", theirs, on_key),
        ):
            seconds = list(seconds_of_runs(command, environment, runs))
            sys.stdout.write(f"{name:36} {statistics.median(seconds):6.2f} s\n")


if __name__ == "__main__":
    main()
