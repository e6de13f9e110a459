"""The network's input of a batch, kept from the one pass over its scans: training need not decode them again."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import threading
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.record import Task
from lineage import fingerprint
from lineage.errors import Fault

SHARD, RECORD, PARTS = "prepared.npy", "prepared.json", "prepared"
LIBRARIES = (
    "numpy",
    "pydicom",
    "pylibjpeg",
    "pylibjpeg-libjpeg",
    "pylibjpeg-openjpeg",
    "pylibjpeg-rle",
    "nibabel",
    "pillow",
)

CODE = ("data/top-level", "data/scan", "data/deidentify", "data/patients", "data/batch")  # decides what the pixels are


def key(task: Task) -> str:
    """What the pixels depend on: the task's preprocessing, the code of this room, the libraries that decode."""
    libraries = {name: _version(name) for name in LIBRARIES}
    told = {"pixels": dataclasses.asdict(task.pixels), "code": fingerprint.code(CODE)["files"]}
    return fingerprint.digest(told | {"libraries": libraries})


@dataclasses.dataclass(frozen=True)
class Part:
    """Where the slices of one scan wait for `join`: `length` bytes of the file `name` from byte `start`."""

    name: str
    start: int
    length: int


def part(folder: Path, pixels: Sequence[NDArray[np.float32]]) -> Part:
    """Put the slices of one scan (each size × size × 1) aside below the batch's folder until `join` wants them.

    Each thread of each process has one file for all its scans: a file for every scan would cost more than its bytes.
    """
    name = f"{os.getpid()}-{threading.get_ident()}"
    with (folder / PARTS / name).open("ab") as stream:
        start = stream.tell()
        for one in pixels:
            stream.write(np.ascontiguousarray(one).data)
        return Part(name, start, stream.tell() - start)


def join(folder: Path, parts: Iterable[Part], units: Sequence[str], task: Task) -> None:
    """One shard (units × size × size × 1, float32) out of the parts, in their order; their files go."""
    size = task.pixels.size
    with ExitStack() as files, (folder / SHARD).open("wb") as stream:
        sources = {path.name: files.enter_context(path.open("rb")) for path in (folder / PARTS).iterdir()}
        _begin(stream, len(units), size)
        for each in parts:
            sources[each.name].seek(each.start)
            stream.write(sources[each.name].read(each.length))
    shutil.rmtree(folder / PARTS)
    _record(folder, key(task), units)


def narrow(source: Path, target: Path, units: Sequence[str]) -> None:
    """Write into the folder `target` the shard of `source` with these units alone; nothing where there is none."""
    if not (source / RECORD).is_file():
        return
    record = _told(source)
    if list(units) == record["units"] and source == target:
        return
    row = {unit: number for number, unit in enumerate(record["units"])}
    shard = np.load(source / SHARD, mmap_mode="r")
    part = target / f".{SHARD}.part"
    with part.open("wb") as stream:
        _begin(stream, len(units), shard.shape[1])
        for unit in units:
            stream.write(np.ascontiguousarray(shard[row[unit]]).data)
    part.replace(target / SHARD)
    _record(target, record["key"], units)


def drop(folder: Path) -> None:
    """Without the shard."""
    for name in (SHARD, RECORD):
        (folder / name).unlink(missing_ok=True)


def ready(folder: Path, units: Sequence[str], task: Task) -> Path | None:
    """The shard of exactly these units in this order, as the task wants them today; None where there is none.

    Fault where its bytes are not those that were prepared.
    """
    if not (folder / RECORD).is_file():
        return None
    record = _told(folder)
    if record["units"] != list(units) or record["key"] != key(task):
        return None
    if not (folder / SHARD).is_file() or fingerprint.file_sha256(folder / SHARD) != record["sha256"]:
        raise Fault(f"{folder / SHARD}: its bytes are not those that were prepared; restore it with `dvc checkout`")
    return folder / SHARD


def _told(folder: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    return told


def _record(folder: Path, made_by: str, units: Sequence[str]) -> None:
    told = {"key": made_by, "sha256": fingerprint.file_sha256(folder / SHARD), "units": list(units)}
    (folder / RECORD).write_text(json.dumps(told) + "\n", encoding="utf-8")


def _begin(stream: Any, units: int, size: int) -> None:
    header = {"descr": "<f4", "fortran_order": False, "shape": (units, size, size, 1)}
    np.lib.format.write_array_header_1_0(stream, header)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
