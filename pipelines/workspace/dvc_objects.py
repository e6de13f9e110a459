"""Objects of DVC in cache and local remote: where they lie, what a `.dvc` file lists, and whether bytes are right."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

CHUNK = 2**20  # bytes


@dataclass(frozen=True)
class Pointer:
    """What the text of a `.dvc` file says: the MD5 of the folder's list (it ends in `.dir`) and the number of files."""

    md5: str
    files: int


def pointer(text: str) -> Pointer:
    """Read a `.dvc` file of a folder. ValueError if it is none."""
    try:
        out = yaml.safe_load(text)["outs"][0]
        return Pointer(str(out["md5"]), int(out["nfiles"]))
    except (yaml.YAMLError, KeyError, IndexError, TypeError) as error:
        raise ValueError("not a .dvc file of a folder") from error


def location(store: Path, md5: str) -> Path:
    """Where a store keeps an object; a store is a folder as `repro.stores` names them."""
    return store / md5[:2] / md5[2:]


def listing(stores: Iterable[Path], md5: str) -> dict[str, str] | None:
    """The files of a folder (relative path to MD5), from the first store with a sound list; None if there is none."""
    for store in stores:
        path = location(store, md5)
        if is_sound(path, md5):
            return {str(entry["relpath"]): str(entry["md5"]) for entry in json.loads(path.read_text(encoding="utf-8"))}
    return None


def lists(stores: Iterable[Path]) -> Iterator[tuple[str, dict[str, str]]]:
    """Every folder that the stores know: the MD5 of its list, and its files."""
    for md5 in sorted({f"{path.parent.name}{path.name}" for store in stores for path in store.glob("??/*.dir")}):
        if files := listing(stores, md5):
            yield md5, files


def is_sound(path: Path, md5: str) -> bool:
    """Whether a file is there and has the MD5 that its name says; all of it is read."""
    return path.is_file() and file_md5(path) == md5.removesuffix(".dir")


def file_md5(path: Path) -> str:
    """MD5 is what DVC names objects by; nothing is proved by it against an attacker."""
    value = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            value.update(chunk)
    return value.hexdigest()
