"""Serve a Bento of the store, if its files are those that were released: `python -m serving.launch TAG ...`."""

from __future__ import annotations

import os
import shutil
import sys

from lineage import places
from lineage.fault import Fault
from serving import integrity


def main(tag: str, options: list[str]) -> None:
    """Compare the Bento with the ledger and its manifest, then become its server."""
    places.keep_private()
    for cache in [path for path in integrity.bento(tag).rglob("__pycache__") if path.is_dir()]:
        shutil.rmtree(cache)  # Python would run what lies there in place of the code
    try:
        integrity.check_bento(tag)
    except Fault as fault:
        sys.exit(f"oncoloop: {fault}")
    os.execv(sys.executable, [sys.executable, "-m", "bentoml", "serve", tag, *options])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
