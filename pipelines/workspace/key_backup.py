"""Backup of a workspace's keys: a separate file, encrypted with a passphrase, and its restore."""

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
from lineage.record.events import EventKind

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

FORMAT = "oncoloop keys 1"
KEY_HASHES_FILE = "keys.json"  # of a restored workspace without its keys: the SHA-256 of every key, by purpose
SCRYPT = {"n": 2**17, "r": 8, "p": 1}  # 128 MiB and some tenths of a second for one guess (RFC 7914, section 2)
MAX_FILE_BYTES = 2**20  # of a file of keys
MIN_PASSPHRASE_LENGTH = 12  # characters
LOSS_CONSEQUENCES = {
    "pseudonym": "later scans of a known patient get a new pseudonym, so the patient could be assigned to two cohorts",
    "signin": "open pages must be reloaded before their forms are sent",
    "signature": "signatures made so far can't be checked",
    "scans": "stored scans can't be read",
    "decision": "decisions made so far can't be checked, and a rollback among them is no longer valid",
    "door": "nothing is lost: the servers of the workspace create a new one",
    "source": "no site or scanner is recognised, so answers are withheld until every site is accepted again",
}


def key_folder() -> Path:
    """The folder of the keys."""
    return paths.home() / "keys"


def key_hashes() -> dict[str, str]:
    """The SHA-256 of every key, by purpose; a key of 256 random bits cannot be recovered from it."""
    return {path.name: file_sha256(path) for path in sorted(key_folder().iterdir()) if path.is_file()}


def seal(target: Path, passphrase: str) -> None:
    """Write all keys to a new file, encrypted (scrypt, then AES-256-GCM), mode 0600."""
    if target.exists():
        raise Fault(f"{target} exists already; a backup never overwrites a file: choose another name")
    if len(passphrase) < MIN_PASSPHRASE_LENGTH:
        raise Fault(f"the passphrase has {len(passphrase)} characters; take {MIN_PASSPHRASE_LENGTH} or more")
    keys = {path.name: path.read_text(encoding="ascii") for path in sorted(key_folder().iterdir()) if path.is_file()}
    salt, nonce = secrets.token_bytes(16), secrets.token_bytes(12)
    head = {"format": FORMAT, "scrypt": SCRYPT, "salt": salt.hex(), "nonce": nonce.hex()}
    sealed = _cipher(passphrase, salt).encrypt(nonce, canonical(keys).encode(), canonical(head).encode())
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as stream:
        stream.write(json.dumps(head | {"keys": sealed.hex()}, indent=1) + "\n")


def is_sealed(path: Path) -> bool:
    """Whether a file contains encrypted keys."""
    return (
        path.is_file()
        and path.stat().st_size <= MAX_FILE_BYTES
        and f'"format": "{FORMAT}"'.encode() in path.read_bytes()
    )


def unseal(source: Path, passphrase: str) -> dict[str, str]:
    """The keys in a file, by purpose. Fault for a wrong passphrase or a changed file."""
    from cryptography.exceptions import InvalidTag

    if not is_sealed(source):
        raise Fault(f"{source} is not a file of keys; give the file that `oncoloop backup --keys` wrote")
    try:
        record = json.loads(source.read_text(encoding="ascii"))
        sealed, salt, nonce = (bytes.fromhex(record[name]) for name in ("keys", "salt", "nonce"))
        head = {name: record[name] for name in ("format", "scrypt", "salt", "nonce")}
        opened = _cipher(passphrase, salt).decrypt(nonce, sealed, canonical(head).encode())
    except (ValueError, KeyError, TypeError, InvalidTag) as error:
        raise Fault(f"{source} can't be opened: the passphrase is wrong, or the file was changed") from error
    keys: dict[str, str] = json.loads(opened)
    return keys


def restore_keys(keys: dict[str, str]) -> None:
    """Restore the keys of a workspace that waits for them. Fault for keys of another workspace, or if it has keys."""
    path = paths.home() / KEY_HASHES_FILE
    if not path.is_file():
        raise Fault(f"{paths.home()} does not wait for keys, because it has keys; nothing is overwritten")
    partials: list[tuple[Path, Path]] = []
    key_folder().mkdir(mode=0o700, exist_ok=True)
    for purpose, value in keys.items():
        partial = key_folder() / f"{purpose}.part"
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as stream:
            stream.write(value)
        partials.append((partial, key_folder() / purpose))
    expected = json.loads(path.read_text(encoding="utf-8"))
    wrong_purposes = [
        name for name in expected if name not in keys or file_sha256(key_folder() / f"{name}.part") != expected[name]
    ]
    for partial, target in partials:
        if wrong_purposes or target.exists():
            partial.unlink()
        else:
            partial.replace(target)
    if wrong_purposes:
        raise Fault(f"these are not the keys of this workspace: {', '.join(wrong_purposes)} is different or missing")
    path.unlink()


def missing_keys() -> list[str]:
    """The purposes of the keys that this restored workspace still waits for; empty for any other workspace."""
    path = paths.home() / KEY_HASHES_FILE
    expected = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return [purpose for purpose in expected if not (key_folder() / purpose).is_file()]


def explain_missing(purposes: list[str], workspace: Path) -> list[str]:
    """One line for each missing key and its consequence, and one line with the commands that help."""
    lines = [
        f"the key {purpose} is missing"
        + (f"; without it {LOSS_CONSEQUENCES[purpose]}" if purpose in LOSS_CONSEQUENCES else "")
        for purpose in purposes
    ]
    return [
        *lines,
        f"restore them: oncoloop restore FILE.keys {workspace}; if that file is lost, "
        f"`oncoloop init {workspace} --new-keys` makes new keys, with these consequences",
    ]


def accept_loss() -> None:
    """Record in the ledger that a person accepts the loss of the missing keys; new keys may be made then."""
    lost_purposes = missing_keys()
    (paths.home() / KEY_HASHES_FILE).unlink(missing_ok=True)
    if lost_purposes:
        ledger.append(EventKind.KEYS_LOST, "workspace", {"purposes": lost_purposes})


def read_passphrase(source: Path | None, twice: bool = False) -> str:
    """Read a passphrase from a file's first line or from the terminal; never from an argument or the environment."""
    if source is not None:
        if not source.is_file():
            raise Fault(f"the passphrase file {source} does not exist; write the passphrase into its first line")
        return (source.read_text(encoding="utf-8").splitlines() or [""])[0]
    if not sys.stdin.isatty():
        raise Fault("there is no terminal to ask for the passphrase; name a file with --passphrase-file")
    entered = getpass.getpass("passphrase of the keys: ")
    if twice and getpass.getpass("once more: ") != entered:
        raise Fault("the two passphrases differ")
    return entered


def _cipher(passphrase: str, salt: bytes) -> AESGCM:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

    return AESGCM(Scrypt(salt=salt, length=32, **SCRYPT).derive(passphrase.encode()))
