"""A stage's log file: written by the stage's process, shown by the flow as it grows."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lineage import paths


def path(stage: str, task: str) -> Path:
    """Where one stage of one task writes its log."""
    return paths.place("logs", f"{stage}-{task}.log")


@contextmanager
def lines(source: Path, emit: Callable[[str], None]) -> Iterator[None]:
    """Hand every line that `source` gains while the block runs to `emit`, and the rest at its end."""
    source.touch()
    position = source.stat().st_size
    done = threading.Event()

    def follow() -> None:
        with source.open(encoding="utf-8", errors="replace") as handle:
            handle.seek(position)
            while True:
                finished = done.is_set()
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
        done.set()
        thread.join(timeout=5)
