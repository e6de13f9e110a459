"""Serve a Bento of the store after checking its files: `python -m serving.bundle.launch TAG ...`."""

from __future__ import annotations

import os
import shutil
import sys

from lineage import paths
from lineage.errors import Fault
from serving.inference import release_integrity


def main(tag: str, options: list[str]) -> None:
    """Check the Bento against the ledger and its manifest, then replace this process by its server."""
    paths.keep_private()
    for cache in [path for path in release_integrity.bento_folder(tag).rglob("__pycache__") if path.is_dir()]:
        shutil.rmtree(cache)  # Python would run a changed cache instead of the code
    try:
        release_integrity.check_bento(tag)
    except Fault as fault:
        sys.exit(f"oncoloop: {fault}")
    os.execv(sys.executable, [sys.executable, "-m", "bentoml", "serve", tag, *options])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
