"""DVC objects in cache and local remote: paths, listings of folders, and checks of their bytes."""

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
    """Content of a `.dvc` file: the MD5 of the folder's listing (it ends in `.dir`) and the number of files."""

    md5: str
    files: int


def read_pointer(text: str) -> Pointer:
    """Read the text of a `.dvc` file of a folder. ValueError for any other text."""
    try:
        out = yaml.safe_load(text)["outs"][0]
        return Pointer(str(out["md5"]), int(out["nfiles"]))
    except (yaml.YAMLError, KeyError, IndexError, TypeError) as error:
        raise ValueError("not a .dvc file of a folder") from error


def object_path(store: Path, md5: str) -> Path:
    """The path of an object in a store; a store is a folder that `dvc.stores` returns."""
    return store / md5[:2] / md5[2:]


def folder_listing(stores: Iterable[Path], md5: str) -> dict[str, str] | None:
    """The files of a folder (relative path to MD5), from the first store with an intact listing, else None."""
    for store in stores:
        path = object_path(store, md5)
        if is_sound(path, md5):
            return {str(entry["relpath"]): str(entry["md5"]) for entry in json.loads(path.read_text(encoding="utf-8"))}
    return None


def all_folder_listings(stores: Iterable[Path]) -> Iterator[tuple[str, dict[str, str]]]:
    """Every folder in the stores: the MD5 of its listing, and its files."""
    for md5 in sorted({f"{path.parent.name}{path.name}" for store in stores for path in store.glob("??/*.dir")}):
        if files := folder_listing(stores, md5):
            yield md5, files


def is_sound(path: Path, md5: str) -> bool:
    """Whether a file exists and has the MD5 of its name; reads the whole file."""
    return path.is_file() and file_md5(path) == md5.removesuffix(".dir")


def file_md5(path: Path) -> str:
    """The MD5 of a file, by which DVC names objects. It gives no protection against an attacker."""
    value = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            value.update(chunk)
    return value.hexdigest()
