"""The keys of a workspace outside it: in a file of their own, encrypted by a passphrase, and how they come back."""

from __future__ import annotations

import getpass
import json
import os
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lineage import paths
from lineage.errors import Fault
from lineage.fingerprint import canonical, file_sha256
from lineage.record import ledger

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

FORMAT = "oncoloop keys 1"
EXPECTED = "keys.json"  # in the state of a restored workspace that waits for its keys: SHA-256 of each, by purpose
SCRYPT = {"n": 2**17, "r": 8, "p": 1}  # 128 MiB and some tenths of a second for each guess (RFC 7914, section 2)
LONGEST = 2**20  # bytes of a file of keys
SHORTEST = 12  # letters of a passphrase
COSTS = {
    "pseudonym": "later scans of a known patient get a new pseudonym, so the patient could fall on two sides",
    "signin": "open pages must be loaded anew before they are sent",
    "signature": "signatures made so far can't be checked",
    "scans": "kept scans can't be read",
    "decision": "decisions made so far can't be checked, and a rollback among them no longer holds",
    "door": "nothing: the servers of the workspace agree on a new one",
}


def folder() -> Path:
    """Where the keys lie."""
    return paths.home() / "keys"


def hashes() -> dict[str, str]:
    """SHA-256 of each key by its purpose: 256 random bits are not found by it."""
    return {path.name: file_sha256(path) for path in sorted(folder().iterdir()) if path.is_file()}


def seal(target: Path, passphrase: str) -> None:
    """Write all keys to a new file, encrypted (scrypt, then AES-256-GCM), mode 0600."""
    if target.exists():
        raise Fault(f"{target} exists already; a backup never overwrites")
    if len(passphrase) < SHORTEST:
        raise Fault(f"the passphrase has {len(passphrase)} letters; take {SHORTEST} or more")
    keys = {path.name: path.read_text(encoding="ascii") for path in sorted(folder().iterdir()) if path.is_file()}
    salt, nonce = secrets.token_bytes(16), secrets.token_bytes(12)
    head = {"format": FORMAT, "scrypt": SCRYPT, "salt": salt.hex(), "nonce": nonce.hex()}
    sealed = _cipher(passphrase, salt).encrypt(nonce, canonical(keys).encode(), canonical(head).encode())
    handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w", encoding="ascii") as stream:
        stream.write(json.dumps(head | {"keys": sealed.hex()}, indent=1) + "\n")


def is_sealed(path: Path) -> bool:
    """Whether a file is one of keys."""
    return path.is_file() and path.stat().st_size <= LONGEST and f'"format": "{FORMAT}"'.encode() in path.read_bytes()


def unseal(source: Path, passphrase: str) -> dict[str, str]:
    """The keys in a file by their purpose. Fault for another passphrase or a changed file."""
    from cryptography.exceptions import InvalidTag

    if not is_sealed(source):
        raise Fault(f"{source} is not a file of keys; give the one that `oncoloop backup --keys` wrote")
    try:
        record = json.loads(source.read_text(encoding="ascii"))
        sealed, salt, nonce = (bytes.fromhex(record[name]) for name in ("keys", "salt", "nonce"))
        head = {name: record[name] for name in ("format", "scrypt", "salt", "nonce")}
        opened = _cipher(passphrase, salt).decrypt(nonce, sealed, canonical(head).encode())
    except (ValueError, KeyError, TypeError, InvalidTag) as error:
        raise Fault(f"{source} can't be opened: the passphrase is another one, or the file was changed") from error
    keys: dict[str, str] = json.loads(opened)
    return keys


def bring(keys: dict[str, str]) -> None:
    """Put keys into a workspace that waits for them. Fault where they are those of another one, or some are there."""
    path = paths.home() / EXPECTED
    if not path.is_file():
        raise Fault(f"{paths.home()} does not wait for keys: it has some; nothing is overwritten")
    parts: list[tuple[Path, Path]] = []
    folder().mkdir(mode=0o700, exist_ok=True)
    for purpose, value in keys.items():
        part = folder() / f"{purpose}.part"
        handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "w", encoding="ascii") as stream:
            stream.write(value)
        parts.append((part, folder() / purpose))
    expected = json.loads(path.read_text(encoding="utf-8"))
    wrong = [name for name in expected if name not in keys or file_sha256(folder() / f"{name}.part") != expected[name]]
    for part, target in parts:
        if wrong or target.exists():
            part.unlink()
        else:
            part.replace(target)
    if wrong:
        raise Fault(f"these are not the keys of this workspace: {', '.join(wrong)} is another one or missing")
    path.unlink()


def missing() -> list[str]:
    """The purposes whose keys were left out of the backup that this workspace came from, and are not back yet."""
    path = paths.home() / EXPECTED
    expected = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return [purpose for purpose in expected if not (folder() / purpose).is_file()]


def explain(purposes: list[str], workspace: Path) -> list[str]:
    """What is missing, what it costs, and how to get it back, a line for each."""
    lines = [
        f"the key {purpose} is missing" + (f"; without it {COSTS[purpose]}" if purpose in COSTS else "")
        for purpose in purposes
    ]
    return [
        *lines,
        f"bring them: oncoloop restore FILE.keys {workspace}; where that file is lost, "
        f"`oncoloop init {workspace} --new-keys` makes new keys at this cost",
    ]


def give_up() -> None:
    """A person accepts that the keys are lost: new ones may be made. Written to the ledger."""
    lost = missing()
    (paths.home() / EXPECTED).unlink(missing_ok=True)
    if lost:
        ledger.append("keys.lost", "workspace", {"purposes": lost})


def passphrase(source: Path | None, twice: bool = False) -> str:
    """From a file's first line, or from a prompt on the terminal; never from an argument or the environment."""
    if source is not None:
        if not source.is_file():
            raise Fault(f"{source} does not exist; it should hold the passphrase")
        return (source.read_text(encoding="utf-8").splitlines() or [""])[0]
    if not sys.stdin.isatty():
        raise Fault("there is no terminal to ask for the passphrase; name a file with --passphrase-file")
    given = getpass.getpass("passphrase of the keys: ")
    if twice and getpass.getpass("once more: ") != given:
        raise Fault("the two passphrases differ")
    return given


def _cipher(passphrase: str, salt: bytes) -> AESGCM:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

    return AESGCM(Scrypt(salt=salt, length=32, **SCRYPT).derive(passphrase.encode()))
