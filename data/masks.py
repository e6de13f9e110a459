"""NIfTI volumes with tumour masks: which mask is whose, and a label for each slice."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path

import numpy as np

from data import read
from data.record import Task
from lineage.fault import Fault

VOLUME = (".nii", ".nii.gz")
MASK = "mask"

Row = dict[str, str]


def volumes(source: Path, only: str | None) -> list[tuple[Path, Path]]:
    """Pairs (scan, mask) of a folder tree. The mask of `Pre_Scan_T1.nii.gz` is `Pre_Mask.nii.gz` beside it.

    A mask belongs to the scans of its folder that share what its name has before "mask". Fault where a mask has no
    scan or a scan no mask: nothing is paired by position.
    """
    files = sorted(path for path in source.rglob("*") if path.name.endswith(VOLUME))
    masks = [path for path in files if MASK in path.name.lower()]
    if not masks:
        return []
    scans = [path for path in files if path not in masks and fnmatch(path.name, only or "*")]
    pairs = []
    for scan in scans:
        mine = [mask for mask in masks if mask.parent == scan.parent and scan.name.lower().startswith(_stem(mask))]
        if len(mine) != 1:
            raise Fault(f"{scan.relative_to(source)}: {len(mine)} masks belong to it by name, expected one beside it")
        pairs.append((scan, mine[0]))
    return pairs


def slice_rows(scan: Path, mask: Path, task: Task) -> tuple[list[Row], int]:
    """One row (slice, label, lesion_mm) for each slice that shows anything, and the number of blank ones left out.

    `lesion_mm` is the diameter of the circle with the mask's area in that slice. The task must have two classes.
    """
    if len(task.positive) != 1 or len(task.classes) != 2:
        raise Fault(f"task {task.name}: a mask tells tumour from none, so the task needs two classes, one positive")
    positive = task.positive[0]
    negative = next(name for name in task.classes if name != positive)
    image, drawn = read.read(scan.name, scan.read_bytes()), read.read(mask.name, mask.read_bytes())
    if image.pixels.shape != drawn.pixels.shape:
        raise Fault(f"{mask.name} has the shape {drawn.pixels.shape}, its scan {scan.name} {image.pixels.shape}")
    _, row, column = image.spacing or (1.0, 1.0, 1.0)
    rows: list[Row] = []
    for number, (plane, outline) in enumerate(zip(image.pixels, drawn.pixels, strict=True)):
        if plane.min() == plane.max():
            continue
        area = float((outline > 0).sum()) * row * column
        size = f"{2 * np.sqrt(area / np.pi):.1f}" if area else ""
        rows.append({"slice": str(number), "label": positive if area else negative, "lesion_mm": size})
    return rows, len(image.pixels) - len(rows)


def _stem(mask: Path) -> str:
    return mask.name.lower().partition(MASK)[0]
