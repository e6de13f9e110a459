"""The words and tools of the demo: run a public command, show progress, remember what happened."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from lineage.errors import Fault
from pipelines.servers import services


@dataclass
class Story:
    """A run of the demo: its workspace, its console, and a line for each thing that happened."""

    workspace: Path
    steps: int
    console: Console = field(default_factory=lambda: Console(stderr=True))
    happened: list[tuple[str, str, float]] = field(default_factory=list)
    gates: dict[str, str] = field(default_factory=dict)  # what was judged, and the outcome
    progress: Progress = field(init=False)

    def __post_init__(self) -> None:
        """Open the progress bar."""
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        self.progress = Progress(*columns, console=self.console)
        self.bar = self.progress.add_task("starting", total=self.steps)

    @contextmanager
    def step(self, title: str) -> Iterator[Callable[[str], None]]:
        """One step: shown while it works, remembered with the first thing it says of its outcome."""
        self.progress.update(self.bar, description=title)
        said: list[str] = []
        began = time.monotonic()
        yield said.append
        seconds = time.monotonic() - began
        self.happened.append((title, said[0] if said else "done", seconds))
        self.progress.console.print(f"[bold]{title}[/bold] ({seconds:.0f} s)")
        for line in said:
            self.progress.console.print(f"    {line}", highlight=False, markup=False)
        self.progress.advance(self.bar)

    def command(self, *arguments: str, codes: tuple[int, ...] = (0,)) -> Any:
        """Run `oncoloop ARGUMENTS --json` in the workspace; its result. Fault if the exit code is not expected."""
        line = [services.program("oncoloop"), *arguments, "--json"]
        log = self.workspace / "demo.log"
        with log.open("a", encoding="utf-8") as errors:
            errors.write(f"\n$ oncoloop {' '.join(arguments)}\n")
            errors.flush()
            done = subprocess.run(
                line, cwd=self.workspace, stdout=subprocess.PIPE, stderr=errors, text=True, check=False
            )
            errors.write(done.stdout)
        if done.returncode not in codes:
            last = [text for text in log.read_text(encoding="utf-8").splitlines() if text.startswith("oncoloop: ")]
            raise Fault(
                f"`oncoloop {' '.join(arguments)}` ended with {done.returncode}: {last[-1] if last else f'see {log}'}"
            )
        return json.loads(done.stdout) if done.stdout.strip() else None

    def background(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start `oncoloop ARGUMENTS` in the workspace and go on."""
        with (self.workspace / "demo.log").open("ab") as output:
            return subprocess.Popen(
                [services.program("oncoloop"), *arguments],
                cwd=self.workspace,
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    def wait(self, what: str, found: Callable[[], Any], seconds: float, every: float = 2.5) -> Any:
        """Ask until there is an answer, `every` so many seconds; Fault after `seconds`."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if answer := found():
                return answer
            time.sleep(every)
        raise Fault(
            f"waited {seconds:.0f} s for {what}; see {self.workspace / 'demo.log'} and {self.workspace / 'var/logs'}"
        )

    def table(self, title: str) -> None:
        """What happened, in a short table on standard output."""
        table = Table(title=title)
        for column in ("step", "what happened", "seconds"):
            table.add_column(column, justify="right" if column == "seconds" else "left", overflow="fold")
        for name, outcome, seconds in self.happened:
            table.add_row(name, outcome, f"{seconds:.0f}")
        self.console.print(table)


def flush() -> None:
    """Let what was shown reach the terminal."""
    sys.stderr.flush()
