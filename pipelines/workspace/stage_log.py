"""The log file of a stage: written by the stage's process, followed by the flow."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lineage import paths


def stage_log_path(stage: str, task: str) -> Path:
    """The log file of one stage of one task."""
    return paths.state_path("logs", f"{stage}-{task}.log")


@contextmanager
def follow_log(source: Path, emit: Callable[[str], None]) -> Iterator[None]:
    """Pass every new line of `source` to `emit` while the block runs, and the remaining lines at its end."""
    source.touch()
    position = source.stat().st_size
    stop_event = threading.Event()

    def follow() -> None:
        with source.open(encoding="utf-8", errors="replace") as handle:
            handle.seek(position)
            while True:
                finished = stop_event.is_set()
                for line in handle:
                    emit(line.rstrip())
                if finished:
                    return
                time.sleep(0.3)

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop_event.set()
        thread.join(timeout=5)
