"""Reads and writes small JSON files of a workspace."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_json(path: Path) -> dict[str, Any]:
    """Read a small JSON file."""
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return record


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Write a small JSON file with sorted keys, so that equal content gives equal bytes."""
    path.write_text(json.dumps(record, indent=1, sort_keys=True, default=str) + "\n", encoding="utf-8")
