"""The console of the demo: run public commands, show progress, collect the outcomes."""

from __future__ import annotations

import json
import subprocess
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
    """A run of the demo: its workspace, its console, and the outcome of every step."""

    workspace: Path
    steps: int
    console: Console = field(default_factory=lambda: Console(stderr=True))
    outcomes: list[tuple[str, str, float]] = field(default_factory=list)
    gates: dict[str, str] = field(default_factory=dict)  # subject of each verdict -> outcome
    progress: Progress = field(init=False)

    def __post_init__(self) -> None:
        """Open the progress bar."""
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        self.progress = Progress(*columns, console=self.console)
        self.bar = self.progress.add_task("starting", total=self.steps)

    @contextmanager
    def step(self, title: str) -> Iterator[Callable[[str], None]]:
        """Run one step: show its title and, at its end, its lines; the first line is its outcome in the table."""
        self.progress.update(self.bar, description=title)
        lines: list[str] = []
        started = time.monotonic()
        yield lines.append
        seconds = time.monotonic() - started
        self.outcomes.append((title, lines[0] if lines else "done", seconds))
        self.progress.console.print(f"[bold]{title}[/bold] ({seconds:.0f} s)")
        for line in lines:
            self.progress.console.print(f"    {line}", highlight=False, markup=False)
        self.progress.advance(self.bar)

    def command(self, *arguments: str, codes: tuple[int, ...] = (0,)) -> Any:
        """Run `oncoloop ARGUMENTS --json` in the workspace; return the result. Fault for an unexpected exit code."""
        line = [services.program("oncoloop"), *arguments, "--json"]
        log = self.workspace / "demo.log"
        with log.open("a", encoding="utf-8") as log_file:
            log_file.write(f"\n$ oncoloop {' '.join(arguments)}\n")
            log_file.flush()
            process = subprocess.run(
                line, cwd=self.workspace, stdout=subprocess.PIPE, stderr=log_file, text=True, check=False
            )
            log_file.write(process.stdout)
        if process.returncode not in codes:
            errors = [text for text in log.read_text(encoding="utf-8").splitlines() if text.startswith("oncoloop: ")]
            reason = errors[-1] if errors else f"see {log}"
            raise Fault(f"`oncoloop {' '.join(arguments)}` ended with {process.returncode}: {reason}")
        return json.loads(process.stdout) if process.stdout.strip() else None

    def background(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start `oncoloop ARGUMENTS` in the workspace, in the background."""
        with (self.workspace / "demo.log").open("ab") as output:
            return subprocess.Popen(
                [services.program("oncoloop"), *arguments],
                cwd=self.workspace,
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    def wait(self, subject: str, condition: Callable[[], Any], seconds: float, interval: float = 2.5) -> Any:
        """Call `condition` every `interval` seconds until its result is true; Fault after `seconds`."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if answer := condition():
                return answer
            time.sleep(interval)
        raise Fault(
            f"waited {seconds:.0f} s for {subject}; see {self.workspace / 'demo.log'} and {self.workspace / 'var/logs'}"
        )

    def table(self, title: str) -> None:
        """Print the outcomes as a table."""
        table = Table(title=title)
        for column in ("step", "outcome", "seconds"):
            table.add_column(column, justify="right" if column == "seconds" else "left", overflow="fold")
        for name, outcome, seconds in self.outcomes:
            table.add_row(name, outcome, f"{seconds:.0f}")
        self.console.print(table)
