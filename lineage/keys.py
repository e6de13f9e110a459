"""Secret keys, one for each purpose: created by `oncoloop init`, readable only by their owner."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from lineage.errors import Fault
from lineage.paths import home, state_path

PURPOSES = ("pseudonym", "signin", "signature", "scans", "decision", "door", "source")
KEY_BYTES = 32
DAYS = 365


def create(purposes: Iterable[str] = PURPOSES) -> None:
    """Create the missing keys with mode 0600. An existing key is never changed."""
    for purpose in purposes:
        path = state_path("keys", purpose)
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            continue
        path.parent.chmod(0o700)
        with os.fdopen(handle, "w") as stream:
            stream.write(secrets.token_hex(KEY_BYTES))
            stream.flush()
            os.fsync(stream.fileno())


def key(purpose: str) -> bytes:
    """The 32 bytes of one key. Fault if it is missing or damaged."""
    if purpose not in PURPOSES:
        raise Fault(f"there is no key for {purpose!r}; the purposes are {', '.join(PURPOSES)}")
    path = f"{home()}/keys/{purpose}"
    try:
        status = os.stat(path)  # noqa: PTH116, called several times for every scan
    except FileNotFoundError as error:
        raise Fault(
            f"the key {path} is missing; bring it with `oncoloop restore FILE.keys WORKSPACE`, or run `oncoloop init`"
        ) from error
    return _read(path, status.st_ino, status.st_mtime_ns)


@lru_cache(maxsize=16)
def _read(path: str, _inode: int, _changed: int) -> bytes:
    """The key in a file; cached while the file is unchanged."""
    try:
        value = bytes.fromhex(Path(path).read_text().strip())
    except ValueError as error:
        raise Fault(f"the key {path} is not hexadecimal; restore it from a backup") from error
    if len(value) != KEY_BYTES:
        raise Fault(f"the key {path} has {len(value)} bytes instead of {KEY_BYTES}; restore it from a backup")
    return value


def pseudonym(identity: str) -> str:
    """A patient's pseudonym: "P" and 12 hex digits of a keyed hash, which nobody can repeat without the key."""
    return "P" + _hmac("pseudonym", f"patient\n{identity}").hex()[:12]


def day_shift(identity: str) -> int:
    """Days (-365 to -1) by which all dates of a patient are shifted; intervals between them are preserved."""
    return -1 - int.from_bytes(_hmac("pseudonym", f"days\n{identity}")[:8]) % DAYS


def uid(text: str) -> str:
    """The replacement of a DICOM UID, always the same for the same UID, under the root for UUIDs (PS3.5 B.2)."""
    digest = _hmac("pseudonym", f"uid\n{text}")
    return f"2.25.{int.from_bytes(digest[:16])}"


def sign(payload: bytes) -> str:
    """This installation's signature of `payload` (HMAC-SHA256, hex)."""
    return hmac.new(key("signature"), payload, hashlib.sha256).hexdigest()


def verify_signature(payload: bytes, signature: str) -> bool:
    """Whether `signature` is this installation's signature of `payload`."""
    return hmac.compare_digest(sign(payload).encode(), signature.encode())


def server_secret(name: str) -> str:
    """The secret that a server of this workspace (`prefect`, `release`) requires; only its own processes have it."""
    return _hmac("door", name).hex()


def prefect_secret() -> str:
    """The credentials that Prefect's server requires, as `user:password`."""
    return f"oncoloop:{server_secret('prefect')}"


def _hmac(purpose: str, text: str) -> bytes:
    return hmac.digest(key(purpose), text.encode(), "sha256")
