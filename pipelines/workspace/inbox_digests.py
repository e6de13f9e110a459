"""Digests of judged inbox folders by the state of their files, so that no unchanged folder is hashed again.

A projection: deleting it costs only time. The ledger decides which digests are judged.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from data.batch.folder_files import FolderState
from lineage import json_files, paths

NAME = "inbox.json"
SETTLING = 2 * 10**9  # nanoseconds: a later write within one tick of the file system's clock would not show


@dataclass(frozen=True)
class FolderDigest:
    """The digest and the task of a folder whose files had this signature (`FolderState.signature`)."""

    signature: str
    task: str
    digest: str


def read_digests() -> dict[str, FolderDigest]:
    """The remembered digests by the name of the folder; empty if there is no file, or none that can be used."""
    try:
        record = json_files.read_json(paths.state_path(NAME))
        digests = {name: FolderDigest(**values) for name, values in record.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
    is_text = all(isinstance(value, str) for digest in digests.values() for value in asdict(digest).values())
    return digests if is_text else {}


def write_digests(digests: Mapping[str, FolderDigest]) -> None:
    """Replace the remembered digests. A killed or a second run leaves a complete file."""
    path = paths.state_path(NAME)
    part = path.with_name(f".{NAME}.{os.getpid()}")
    json_files.write_json(part, {name: asdict(digest) for name, digest in digests.items()})
    part.replace(path)


def is_settled(state: FolderState) -> bool:
    """Whether the newest change of a folder is old enough that any later change gets another time."""
    return state.changed_at < time.time_ns() - SETTLING
