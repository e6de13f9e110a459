"""Search for remains after a withdrawal: every byte of workspace and state is read for scans and names."""

from __future__ import annotations

import zlib
from hashlib import sha256
from pathlib import Path

import numpy as np

from data import identifiers as identities
from data.batch import withdrawn_rows
from lineage import paths
from pipelines.withdrawal.erase import ErasureTargets, regular_files
from pipelines.workspace import git

USER_FOLDERS = ("inbox", "try")  # of the workspace: the user's own files
MIN_PART_LENGTH = 6  # letters or digits: a shorter part of an identity occurs in many files by chance
GZIP = b"\x1f\x8b"


def search(targets: ErasureTargets, identity: str = "") -> list[str]:
    """The files that still hold a stored scan, or name the patient by pseudonym or by `identity`.

    All of workspace and state is read, with databases, ledger, evidence and git's objects. Only the user's inbox,
    `try` and the keys are left out. Compressed content (gzip, arrays, git) is unpacked.
    """
    home, workspace, parts = paths.home(), Path.cwd(), searchable_parts(identity)
    skip = (*(workspace / name for name in USER_FOLDERS), home / "keys")
    roots = [workspace] if home.is_relative_to(workspace) else [workspace, home]
    remains = [
        str(path) for root in roots for path in regular_files(root, skip) if _file_holds_patient(path, targets, parts)
    ]
    if _names_patient(git.read_all_objects(), targets, parts):
        remains.append(str(workspace / ".git"))
    return sorted(remains)


def searchable_parts(identity: str) -> frozenset[bytes]:
    """The parts of an identity that are searched in bytes, in lower case: those too long to occur by chance."""
    secrets = identities.secrets_of_row({"patient_id": identity})
    return frozenset(part.encode() for part in secrets.long if len(part) >= MIN_PART_LENGTH)


def _file_holds_patient(path: Path, targets: ErasureTargets, parts: frozenset[bytes]) -> bool:
    try:
        content = path.read_bytes()
    except FileNotFoundError:  # a running server has deleted it meanwhile
        return False
    if sha256(content).hexdigest() in targets.stored or _names_patient(content, targets, parts):
        return True
    if content.startswith(GZIP):
        return _names_patient(_unpack(content), targets, parts)
    return path.suffix == ".npz" and _array_names_patient(path, targets)


def _names_patient(content: bytes, targets: ErasureTargets, parts: frozenset[bytes]) -> bool:
    if withdrawn_rows.withdrawn_pseudonyms(content.decode("latin-1"), set(targets.marks)):
        return True
    lower = content.lower() if parts else b""
    return any(part in lower for part in parts)


def _unpack(content: bytes) -> bytes:
    try:
        return zlib.decompressobj(31).decompress(content)
    except zlib.error:
        return b""  # no gzip file, although it begins with the same two bytes


def _array_names_patient(path: Path, targets: ErasureTargets) -> bool:
    with np.load(path, allow_pickle=False) as content:
        texts = [content[name] for name in content.files if content[name].dtype.kind == "U"]
    return any(withdrawn_rows.hash_pseudonym(str(name)) in targets.marks for text in texts for name in np.unique(text))
