"""Git without the isolation of a workspace, and the bytes of a folder."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path


def run_git(folder: Path, *arguments: str, **variables: str) -> str:
    """Run git without our isolation."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")} | variables
    return subprocess.run(
        ["git", *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=True
    ).stdout


def content(folder: Path) -> dict[str, bytes]:
    """The bytes of every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
