"""The search after a withdrawal: every byte of workspace and state, read for scans and names that must be gone."""

from __future__ import annotations

import zlib
from hashlib import sha256
from pathlib import Path

import numpy as np

from data import identifiers as identities
from data.batch import withdrawal
from lineage import paths
from pipelines.withdrawal.erase import Gone, files
from pipelines.workspace import git

YOURS = ("inbox", "try")  # of the workspace: the user's own files
TELLING = 6  # letters or digits: a shorter part of an identity stands in many files by chance
GZIP = b"\x1f\x8b"


def search(gone: Gone, identity: str = "") -> list[str]:
    """The files that still hold a stored scan, or name the patient by pseudonym or by `identity`.

    All of workspace and state is read, databases, ledger, evidence and the objects of git among it; only the user's
    inbox, `try` and the keys are left out. What is packed (gzip, arrays, git) is unpacked.
    """
    home, here, parts = paths.home(), Path.cwd(), telling(identity)
    skip = (*(here / name for name in YOURS), home / "keys")
    roots = [here] if home.is_relative_to(here) else [here, home]
    found = [str(path) for root in roots for path in files(root, skip) if _holds(path, gone, parts)]
    if _told(git.objects(), gone, parts):
        found.append(str(here / ".git"))
    return sorted(found)


def telling(identity: str) -> frozenset[bytes]:
    """The parts of an identity that are looked for in bytes, in lower case: those that stand nowhere by chance."""
    secrets = identities.of_row({"patient_id": identity})
    return frozenset(part.encode() for part in secrets.long if len(part) >= TELLING)


def _holds(path: Path, gone: Gone, parts: frozenset[bytes]) -> bool:
    try:
        content = path.read_bytes()
    except FileNotFoundError:  # a running server has taken it away meanwhile
        return False
    if sha256(content).hexdigest() in gone.stored or _told(content, gone, parts):
        return True
    if content.startswith(GZIP):
        return _told(_unpacked(content), gone, parts)
    return path.suffix == ".npz" and _array_names(path, gone)


def _told(content: bytes, gone: Gone, parts: frozenset[bytes]) -> bool:
    if withdrawal.named(content.decode("latin-1"), set(gone.marks)):
        return True
    lower = content.lower() if parts else b""
    return any(part in lower for part in parts)


def _unpacked(content: bytes) -> bytes:
    try:
        return zlib.decompressobj(31).decompress(content)
    except zlib.error:
        return b""  # it only begins like one


def _array_names(path: Path, gone: Gone) -> bool:
    with np.load(path, allow_pickle=False) as content:
        texts = [content[name] for name in content.files if content[name].dtype.kind == "U"]
    return any(withdrawal.mark(str(name)) in gone.marks for text in texts for name in np.unique(text))
