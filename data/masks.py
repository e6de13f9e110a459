"""NIfTI volumes with tumour masks: which mask is whose, and a label for each slice."""

from __future__ import annotations

import re
from collections.abc import Collection
from fnmatch import fnmatch
from pathlib import Path

import numpy as np

from data import archive, outlines, read
from data.hounsfield import in_units_of
from data.record import Task
from lineage.fault import Fault

VOLUME = (".nii", ".nii.gz")
MASK_WORDS = ("mask", "masks", "seg", "segmentation", "label", "labels", "labelmap")
SCAN_WORDS = ("scan", "image", "imaging", "img", "volume", "vol")
SPLITS = (("images", "labels"), ("images", "masks"), ("images", "segmentations"))  # folders side by side: imagesTr ...
CHANNEL = re.compile(r"_\d{4}$")  # that nnU-Net puts behind the name of a scan, and not of its mask

Row = dict[str, str]


def volumes(source: Path, only: str | None) -> list[tuple[Path, Path]]:
    """Pairs (scan, mask) of a folder tree, by name alone; none where no file is named as a mask.

    Beside a scan its mask is called as it is but for a word such as mask, seg, segmentation or label: the mask of
    `Pre_Scan_T1.nii.gz` is `Pre_Mask.nii.gz`, that of `X.nii.gz` is `X_seg.nii.gz`; where several fit, the longest
    name does. In folders imagesTr and labelsTr (or masks) side by side both have one name, the scan perhaps with a
    channel (`X_0000.nii.gz`). Fault where a scan has no mask or two, or a mask has no scan.
    """
    files = sorted(path for path in source.rglob("*") if path.name.endswith(VOLUME) and path.is_file())
    files = [path for path in files if not archive.hidden(path.relative_to(source).as_posix())]
    masks = [path for path in files if _is_mask(path)]
    if not masks:
        return []
    scans = [path for path in files if path not in masks and fnmatch(path.name, only or "*")]
    pairs = [(scan, _mask_of(scan, masks, source)) for scan in scans]
    idle = sorted(set(masks) - {mask for _, mask in pairs})
    if idle and not only:
        raise Fault(f"{idle[0].relative_to(source)}: is named as a mask, and no scan has it by name; mend one of them")
    return pairs


def patient_of(scan: Path, source: Path) -> str:
    """Whose volume it is: the first folder, or in a folder such as imagesTr, where each patient has one file, its name.

    Fault where nobody knows.
    """
    name = scan.relative_to(source)
    if _side(scan.parent) is not None and len(name.parts) == 2:
        return CHANNEL.sub("", _stem(scan))
    if len(name.parts) < 2:
        raise Fault(f"{name}: nobody knows whose volume it is; put it into a folder named after its patient")
    return name.parts[0]


def slice_rows(
    scan: Path, mask: Path, task: Task, lesion_values: Collection[float] = ()
) -> tuple[list[Row], int, frozenset[float]]:
    """One row (slice, label, lesion_mm) for each slice that shows anything, the number of blank ones left out, and the
    values of the mask if nobody named the lesion's.

    `lesion_mm` is the diameter of the circle with the lesion's area in that slice. The task must have two classes.
    """
    if len(task.positive) != 1 or len(task.classes) != 2:
        raise Fault(f"task {task.name}: a mask tells tumour from none, so the task needs two classes, one positive")
    positive = task.positive[0]
    negative = next(name for name in task.classes if name != positive)
    image = in_units_of(read.read(scan.name, scan.read_bytes()), task.modality)
    drawn = outlines.drawn(f"{mask.parent.name}/{mask.name}", mask.read_bytes(), image, lesion_values)
    _, row, column = image.spacing or (1.0, 1.0, 1.0)
    rows: list[Row] = []
    for number, (plane, outline) in enumerate(zip(image.pixels, drawn.lesion, strict=True)):
        if plane.min() == plane.max():
            continue
        area = float(outline.sum()) * row * column
        size = f"{2 * np.sqrt(area / np.pi):.1f}" if area else ""
        rows.append({"slice": str(number), "label": positive if area else negative, "lesion_mm": size})
    return rows, len(image.pixels) - len(rows), drawn.values


def _is_mask(path: Path) -> bool:
    if _side(path.parent) is not None:
        return _side(path.parent) != 0
    return _words(path, MASK_WORDS) != _words(path, ())


def _mask_of(scan: Path, masks: list[Path], source: Path) -> Path:
    """The mask of a scan by its name."""
    if _side(scan.parent) == 0:
        folders = [scan.parent.with_name(other + scan.parent.name[len(own) :]) for own, other in SPLITS]
        stems = {_stem(scan), CHANNEL.sub("", _stem(scan))}
        fitting = [mask for mask in masks if mask.parent in folders and _stem(mask) in stems]
    else:
        words = _words(scan, SCAN_WORDS)
        named = {mask: _words(mask, MASK_WORDS) for mask in masks if mask.parent == scan.parent}
        fitting = [mask for mask, own in named.items() if words[: len(own)] == own]
        longest = max((len(named[mask]) for mask in fitting), default=0)
        fitting = [mask for mask in fitting if len(named[mask]) == longest]
    if len(fitting) != 1:
        some = f" ({', '.join(mask.name for mask in fitting)})" if fitting else ""
        raise Fault(f"{scan.relative_to(source)}: {len(fitting)} masks belong to it by name{some}, expected one")
    return fitting[0]


def _side(folder: Path) -> int | None:
    """0 for a folder of scans such as imagesTr beside one of masks such as labelsTr, 1 for that; None for others."""
    for names in SPLITS:
        for place, name in enumerate(names):
            other = names[1 - place] + folder.name[len(name) :]
            if folder.name.startswith(name) and folder.with_name(other).is_dir():
                return place
    return None


def _stem(path: Path) -> str:
    return path.name.partition(".nii")[0]


def _words(path: Path, without: tuple[str, ...]) -> list[str]:
    """The words of a file's name in small letters, those of a kind left out; "mask" also out of a longer word."""
    words = [word for word in re.split(r"[^0-9a-z]+", _stem(path).lower()) if word and word not in without]
    if "mask" in without:
        words = [word.replace("mask", "") for word in words]
    return [word for word in words if word]
