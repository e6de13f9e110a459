"""Import of NIfTI volumes with tumour masks: pair volumes with masks, find patients, label slices."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np

from data.batch import folder_files, lesion_grid
from data.core_types import MaskMeaning, Task
from data.importing import patient_folders
from data.patients import ids_in_names
from data.scan import read
from data.scan.dicom import header_identity
from data.scan.dicom.image_type import non_slice_kinds
from data.scan.hounsfield import convert_to_task_units
from lineage.errors import Fault

VOLUME = (".nii", ".nii.gz")
MASK_WORDS = ("mask", "masks", "seg", "segmentation", "label", "labels", "labelmap")
SCAN_WORDS = ("scan", "image", "imaging", "img", "volume", "vol")
SPLITS = (
    ("images", "labels"),
    ("images", "masks"),
    ("images", "segmentations"),
)  # sibling folders such as imagesTr and labelsTr
CHANNEL = re.compile(r"_\d{4}$")  # nnU-Net appends it to the name of a scan, but not of its mask

Row = dict[str, str]


def pair_volumes(source: Path, only: str | None, names: Sequence[str] | None = None) -> list[tuple[Path, Path]]:
    """Pairs (scan, mask) of the files `names` below `source` (None: all), by name. Empty if no file is named as a mask.

    In one folder the name of a mask is that of its scan with a word such as mask, seg, segmentation or label: the mask
    of `Pre_Scan_T1.nii.gz` is `Pre_Mask.nii.gz`, that of `X.nii.gz` is `X_seg.nii.gz`. If several match, the longest
    name does. In sibling folders imagesTr and labelsTr (or masks) the names are equal, except for a channel in the name
    of the scan (`X_0000.nii.gz`). A sibling imagesTs without masks is passed over. Fault if a scan has no mask or
    several, or if a mask has no scan.
    """
    names = folder_files.survey_folder(source).names if names is None else names
    files = [source / name for name in names if name.lower().endswith(VOLUME)]
    masks = [path for path in files if _is_mask(path)]
    if not masks:
        return []
    scans = [path for path in files if path not in masks and fnmatch(path.name, only or "*")]
    scans = [path for path in scans if not _is_unlabelled(path.parent)]
    pairs = [(scan, _mask_of(scan, masks, source)) for scan in scans]
    unpaired = sorted(set(masks) - {mask for _, mask in pairs})
    if unpaired and not only:
        raise Fault(
            f"{unpaired[0].relative_to(source)}: is named as a mask, and no scan matches its name; correct one of the "
            "names"
        )
    return pairs


def volume_patients(scans: Sequence[Path], source: Path, level: int | None) -> tuple[dict[str, str], dict[str, Any]]:
    """The patient of each volume, by its path below `source`, and notes for the record of the import.

    The patient is the folder at `level`; with 0 it is the file name. Without a level it is the folder, or the file name
    in folders such as imagesTr, where each patient has one file. Fault if the level is ambiguous.
    """
    names = [scan.relative_to(source).as_posix() for scan in scans]
    is_by_file = level == 0 or (level is None and all(_split_position(scan.parent) is not None for scan in scans))
    notes: dict[str, Any] = {"patients_from": "file names" if is_by_file else "folder names"}
    if is_by_file:
        patients = {name: CHANNEL.sub("", _stem(scan)) for name, scan in zip(names, scans, strict=True)}
        folders = {(scan.parent, patient) for scan, patient in zip(scans, patients.values(), strict=True)}
        datasets = {scan.parent.parent for scan in scans}
        if len(folders) > len(set(patients.values())) or (level is None and len(datasets) > 1):
            raise patient_folders.ambiguous_level(names)
    elif level:
        patients = patient_folders.patients_by_level(names, level)
        repeated = patient_folders.repeated_folders(patients, level)
        if repeated:
            listed = ", ".join(repeated[: patient_folders.MAX_SHOWN])
            notes["warning"] = f"folders of one name in several folders were taken for one patient: {listed}"
    else:
        patients = patient_folders.patients_of_volumes(names, stem)
    patient_names = list(dict.fromkeys(patients.values()))
    for positions in header_identity.spelling_variants(patient_names):
        raise Fault(
            f"{' and '.join(patient_names[position] for position in positions)} differ only in spelling: one patient "
            "would become two; rename them"
        )
    possible_visits = [
        " and ".join(group[: patient_folders.MAX_SHOWN]) for group in ids_in_names.group_visits(patient_names)
    ]
    if possible_visits and level is None:
        answer = 0 if is_by_file else Path(names[0]).parts.index(patients[names[0]]) + 1
        raise Fault(
            f"{possible_visits[0]} may be visits of one patient, who would become several: put each patient's visits "
            f"into one folder and give its level with {patient_folders.OPTION}; {patient_folders.OPTION} {answer} "
            "says that they are different people"
        )
    if possible_visits:
        warning = (
            f"names that may be visits of one patient were taken for different people: {'; '.join(possible_visits[:3])}"
        )
        notes["warning"] = "; ".join(filter(None, (notes.get("warning"), warning)))
    return patients, notes


def slice_rows(
    scan: Path, mask: Path, task: Task, lesion_values: Collection[float] = ()
) -> tuple[list[Row], int, frozenset[float]]:
    """One row (slice, label, lesion_mm) per slice that is not blank; the number of blank slices; the mask values.

    `lesion_mm` is the diameter in mm of the circle with the area of the lesion in that slice. The mask values are empty
    if `lesion_values` are given. Fault if the task has not exactly two classes, one positive.
    """
    if len(task.positive) != 1 or len(task.classes) != 2:
        raise Fault(
            f"task {task.name}: masks label slices with and without tumour, so the task needs two classes, one positive"
        )
    if task.mask is MaskMeaning.LESION:
        raise Fault(
            f"task {task.name}: its masks outline lesions of any class (mask: lesion), so they give no label; "
            "write the labels and masks into metadata.csv"
        )
    positive = task.positive[0]
    negative = next(name for name in task.classes if name != positive)
    image = convert_to_task_units(read.read_scan(scan.name, scan.read_bytes()), task.modality)
    if kind := non_slice_kinds(image.header.get("image_type", "")):
        raise Fault(
            f"{scan.name}: was taken for the scan of {mask.name}, but is {kind}; rename it as a mask, or leave it out"
        )
    lesion_mask = lesion_grid.read_lesion_mask(
        f"{mask.parent.name}/{mask.name}", mask.read_bytes(), image, lesion_values
    )
    _, row, column = image.spacing or (1.0, 1.0, 1.0)
    rows: list[Row] = []
    for number, (plane, outline) in enumerate(zip(image.pixels, lesion_mask.lesion, strict=True)):
        if plane.min() == plane.max():
            continue
        area = float(outline.sum()) * row * column
        size = f"{2 * np.sqrt(area / np.pi):.1f}" if area else ""
        rows.append({"slice": str(number), "label": positive if area else negative, "lesion_mm": size})
    return rows, len(image.pixels) - len(rows), lesion_mask.values


def _is_mask(path: Path) -> bool:
    if _split_position(path.parent) is not None:
        return _split_position(path.parent) != 0
    return _words(path, MASK_WORDS) != _words(path, ())


def _mask_of(scan: Path, masks: list[Path], source: Path) -> Path:
    """The mask of a scan, by its name. Fault if none or several match."""
    if _split_position(scan.parent) == 0:
        folders = [
            scan.parent.with_name(mask_prefix + scan.parent.name[len(mask_words) :])
            for mask_words, mask_prefix in SPLITS
        ]
        stems = {_stem(scan), CHANNEL.sub("", _stem(scan))}
        candidates = [mask for mask in masks if mask.parent in folders and _stem(mask) in stems]
    else:
        words = _words(scan, SCAN_WORDS)
        all_words = _words(scan, ())
        words_by_mask = {mask: _words(mask, MASK_WORDS) for mask in masks if mask.parent == scan.parent}
        candidates = [
            mask
            for mask, mask_words in words_by_mask.items()
            if words[: len(mask_words)] == mask_words or all_words == mask_words
        ]
        max_words = max((len(words_by_mask[mask]) for mask in candidates), default=0)
        candidates = [mask for mask in candidates if len(words_by_mask[mask]) == max_words]
    if len(candidates) != 1:
        listed = f" ({', '.join(mask.name for mask in candidates)})" if candidates else ""
        raise Fault(f"{scan.relative_to(source)}: {len(candidates)} masks match its name{listed}, expected one")
    return candidates[0]


def _split_position(folder: Path) -> int | None:
    """0 for a folder of scans with a sibling folder of masks (imagesTr, labelsTr), 1 for that sibling, else None."""
    for names in SPLITS:
        for position, name in enumerate(names):
            sibling = names[1 - position] + folder.name[len(name) :]
            if folder.name.startswith(name) and folder.with_name(sibling).is_dir():
                return position
    return None


def _is_unlabelled(folder: Path) -> bool:
    """Whether a folder of scans has no sibling of masks while others have one: imagesTs beside imagesTr."""
    has_scan_prefix = any(folder.name.startswith(scans) for scans, _ in SPLITS)
    siblings = [path for path in folder.parent.iterdir() if path.is_dir()] if has_scan_prefix else []
    return has_scan_prefix and _split_position(folder) is None and any(_split_position(path) == 0 for path in siblings)


def _stem(path: Path) -> str:
    return stem(path.name)


def stem(name: str) -> str:
    """A file name without `.nii` or `.nii.gz`, in any letter case."""
    return re.sub(r"\.nii(\.gz)?$", "", name, flags=re.IGNORECASE)


def _words(path: Path, without: tuple[str, ...]) -> list[str]:
    """The words of a file name in lower case, except those of `without`; "mask" is also removed within a word."""
    words = [word for word in re.split(r"[^0-9a-z]+", _stem(path).lower()) if word and word not in without]
    if "mask" in without:
        words = [word.replace("mask", "") for word in words]
    return [word for word in words if word]
