"""Pixel cache of a batch: the network input of its units, so that training does not decode scans again."""

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

from data.core_types import Task
from lineage import atomic_write, fingerprint
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

# the code that determines the pixels
CODE = ("data/top-level", "data/scan", "data/deidentify", "data/patients", "data/batch")


def cache_key(task: Task) -> str:
    """A digest of everything that the pixels depend on: preprocessing of the task, code, decoding libraries."""
    libraries = {name: _library_version(name) for name in LIBRARIES}
    inputs = {"pixels": dataclasses.asdict(task.pixels), "code": fingerprint.describe_code(CODE)["files"]}
    return fingerprint.digest(inputs | {"libraries": libraries})


@dataclasses.dataclass(frozen=True)
class Part:
    """The stored slices of one scan, for `join_parts`: `length` bytes of the file `name` from byte `start`."""

    name: str
    start: int
    length: int


def store_part(folder: Path, pixels: Sequence[NDArray[np.float32]]) -> Part:
    """Append the slices of one scan (each size × size × 1) to a part file below the folder of the batch.

    Every thread of every process has one part file for all its scans: opening a file per scan costs more time.
    """
    name = f"{os.getpid()}-{threading.get_ident()}"
    with (folder / PARTS / name).open("ab") as stream:
        start = stream.tell()
        for slice_pixels in pixels:
            stream.write(np.ascontiguousarray(slice_pixels).data)
        return Part(name, start, stream.tell() - start)


def join_parts(folder: Path, parts: Iterable[Part], units: Sequence[str], task: Task) -> None:
    """Write one shard (units × size × size × 1, float32) from the parts, in their order, and delete the part files."""
    size = task.pixels.size
    with ExitStack() as stack, (folder / SHARD).open("wb") as stream:
        sources = {path.name: stack.enter_context(path.open("rb")) for path in (folder / PARTS).iterdir()}
        _write_header(stream, len(units), size)
        for part in parts:
            sources[part.name].seek(part.start)
            stream.write(sources[part.name].read(part.length))
    shutil.rmtree(folder / PARTS)
    _write_record(folder, cache_key(task), units)


def narrow(source: Path, target: Path, units: Sequence[str]) -> None:
    """Write the shard of the folder `source` into the folder `target`, with these units only. No shard: no effect."""
    if not (source / RECORD).is_file():
        return
    record = _read_record(source)
    if list(units) == record["units"] and source == target:
        return
    index_by_unit = {unit: index for index, unit in enumerate(record["units"])}
    shard = np.load(source / SHARD, mmap_mode="r")
    with atomic_write.replace_file(target / SHARD) as temporary, temporary.open("wb") as stream:
        _write_header(stream, len(units), shard.shape[1])
        for unit in units:
            stream.write(np.ascontiguousarray(shard[index_by_unit[unit]]).data)
    _write_record(target, record["key"], units)


def drop(folder: Path) -> None:
    """Delete the shard."""
    for name in (SHARD, RECORD):
        (folder / name).unlink(missing_ok=True)


def ready_shard(folder: Path, units: Sequence[str], task: Task) -> Path | None:
    """The path of the shard, if it has exactly these units in this order and matches the task's settings; else None.

    Fault if its bytes have changed since it was written.
    """
    if not (folder / RECORD).is_file():
        return None
    record = _read_record(folder)
    if record["units"] != list(units) or record["key"] != cache_key(task):
        return None
    if not (folder / SHARD).is_file() or fingerprint.file_sha256(folder / SHARD) != record["sha256"]:
        raise Fault(f"{folder / SHARD}: its bytes are not those that were prepared; restore it with `dvc checkout`")
    return folder / SHARD


def _read_record(folder: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    return record


def _write_record(folder: Path, key: str, units: Sequence[str]) -> None:
    record = {"key": key, "sha256": fingerprint.file_sha256(folder / SHARD), "units": list(units)}
    (folder / RECORD).write_text(json.dumps(record) + "\n", encoding="utf-8")


def _write_header(stream: Any, unit_count: int, size: int) -> None:
    header = {"descr": "<f4", "fortran_order": False, "shape": (unit_count, size, size, 1)}
    np.lib.format.write_array_header_1_0(stream, header)


def _library_version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
