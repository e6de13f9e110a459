"""NIfTI volumes with tumour masks: which mask is whose, and a label for each slice."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np

from data.batch import folder_files, lesion_grid
from data.importing import patient_folders
from data.patients import ids_in_names
from data.record import MaskMeaning, Task
from data.scan import read
from data.scan.dicom import header_identity
from data.scan.dicom.image_type import foreign
from data.scan.hounsfield import in_units_of
from lineage.errors import Fault

VOLUME = (".nii", ".nii.gz")
MASK_WORDS = ("mask", "masks", "seg", "segmentation", "label", "labels", "labelmap")
SCAN_WORDS = ("scan", "image", "imaging", "img", "volume", "vol")
SPLITS = (("images", "labels"), ("images", "masks"), ("images", "segmentations"))  # folders side by side: imagesTr ...
CHANNEL = re.compile(r"_\d{4}$")  # that nnU-Net puts behind the name of a scan, and not of its mask

Row = dict[str, str]


def volumes(source: Path, only: str | None, names: Sequence[str] | None = None) -> list[tuple[Path, Path]]:
    """Pairs (scan, mask) of the files `names` below `source` (None: all), by name; none where none is named as a mask.

    Beside a scan its mask is called as it is but for a word such as mask, seg, segmentation or label: the mask of
    `Pre_Scan_T1.nii.gz` is `Pre_Mask.nii.gz`, that of `X.nii.gz` is `X_seg.nii.gz`; where several fit, the longest
    name does. In folders imagesTr and labelsTr (or masks) side by side both have one name, the scan perhaps with a
    channel (`X_0000.nii.gz`); an imagesTs beside them, without masks of its own, is passed over. Fault where a scan has
    no mask or two, or a mask has no scan.
    """
    names = folder_files.survey_folder(source).names if names is None else names
    files = [source / name for name in names if name.lower().endswith(VOLUME)]
    masks = [path for path in files if _is_mask(path)]
    if not masks:
        return []
    scans = [path for path in files if path not in masks and fnmatch(path.name, only or "*")]
    scans = [path for path in scans if not _is_unlabelled(path.parent)]
    pairs = [(scan, _mask_of(scan, masks, source)) for scan in scans]
    idle = sorted(set(masks) - {mask for _, mask in pairs})
    if idle and not only:
        raise Fault(f"{idle[0].relative_to(source)}: is named as a mask, and no scan has it by name; mend one of them")
    return pairs


def patients_of(scans: Sequence[Path], source: Path, level: int | None) -> tuple[dict[str, str], dict[str, Any]]:
    """Whose each volume is, by its path below `source`, and what the record of an import says of it.

    That is the folder at `level`, with 0 the file's own name; without a level the folder, or in folders such as
    imagesTr, where each patient has one file, its name. Fault asks for the level where there is more than one reading.
    """
    names = [scan.relative_to(source).as_posix() for scan in scans]
    by_file = level == 0 or (level is None and all(_side(scan.parent) is not None for scan in scans))
    notes: dict[str, Any] = {"patients_from": "file names" if by_file else "folder names"}
    if by_file:
        patients = {name: CHANNEL.sub("", _stem(scan)) for name, scan in zip(names, scans, strict=True)}
        folders = {(scan.parent, patient) for scan, patient in zip(scans, patients.values(), strict=True)}
        datasets = {scan.parent.parent for scan in scans}
        if len(folders) > len(set(patients.values())) or (level is None and len(datasets) > 1):
            raise patient_folders.ask(names)
    elif level:
        patients = patient_folders.by_level(names, level)
        repeated = patient_folders.repeated(patients, level)
        if repeated:
            some = ", ".join(repeated[: patient_folders.SHOWN])
            notes["warning"] = f"folders of one name under several others were taken for one patient: {some}"
    else:
        patients = patient_folders.of_volumes(names, stem)
    several = list(dict.fromkeys(patients.values()))
    for places in header_identity.spellings(several):
        raise Fault(
            f"{' and '.join(several[place] for place in places)} differ in spelling alone: one patient would be two; "
            "rename them"
        )
    visits = [" and ".join(group[: patient_folders.SHOWN]) for group in ids_in_names.visits(several)]
    if visits and level is None:
        answer = 0 if by_file else Path(names[0]).parts.index(patients[names[0]]) + 1
        raise Fault(
            f"{visits[0]} may be visits of one patient, who would be several: put each patient's visits into one "
            f"folder and name its level with {patient_folders.OPTION}; {patient_folders.OPTION} {answer} "
            "says that they are different people"
        )
    if visits:
        warning = f"names that may be visits of one patient were taken for different people: {'; '.join(visits[:3])}"
        notes["warning"] = "; ".join(filter(None, (notes.get("warning"), warning)))
    return patients, notes


def slice_rows(
    scan: Path, mask: Path, task: Task, lesion_values: Collection[float] = ()
) -> tuple[list[Row], int, frozenset[float]]:
    """One row (slice, label, lesion_mm) for each slice that shows anything, the number of blank ones left out, and the
    values of the mask if nobody named the lesion's.

    `lesion_mm` is the diameter of the circle with the lesion's area in that slice. The task must have two classes.
    """
    if len(task.positive) != 1 or len(task.classes) != 2:
        raise Fault(f"task {task.name}: a mask tells tumour from none, so the task needs two classes, one positive")
    if task.mask is MaskMeaning.LESION:
        raise Fault(
            f"task {task.name}: its masks outline lesions of any class (mask: lesion), so they give no label; "
            "write the labels and masks into metadata.csv"
        )
    positive = task.positive[0]
    negative = next(name for name in task.classes if name != positive)
    image = in_units_of(read.read(scan.name, scan.read_bytes()), task.modality)
    if kind := foreign(image.header.get("image_type", "")):
        raise Fault(
            f"{scan.name}: was taken for the scan of {mask.name}, but is {kind}; name it as a mask, or leave it out"
        )
    drawn = lesion_grid.drawn(f"{mask.parent.name}/{mask.name}", mask.read_bytes(), image, lesion_values)
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
        whole = _words(scan, ())
        named = {mask: _words(mask, MASK_WORDS) for mask in masks if mask.parent == scan.parent}
        fitting = [mask for mask, own in named.items() if words[: len(own)] == own or whole == own]
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


def _is_unlabelled(folder: Path) -> bool:
    """Whether a folder of scans beside others that have a folder of masks has none: imagesTs beside imagesTr."""
    of_scans = any(folder.name.startswith(scans) for scans, _ in SPLITS)
    beside = [path for path in folder.parent.iterdir() if path.is_dir()] if of_scans else []
    return of_scans and _side(folder) is None and any(_side(path) == 0 for path in beside)


def _stem(path: Path) -> str:
    return stem(path.name)


def stem(name: str) -> str:
    """A file's name without `.nii` or `.nii.gz`, in small or capital letters."""
    return re.sub(r"\.nii(\.gz)?$", "", name, flags=re.IGNORECASE)


def _words(path: Path, without: tuple[str, ...]) -> list[str]:
    """The words of a file's name in small letters, those of a kind left out; "mask" also out of a longer word."""
    words = [word for word in re.split(r"[^0-9a-z]+", _stem(path).lower()) if word and word not in without]
    if "mask" in without:
        words = [word.replace("mask", "") for word in words]
    return [word for word in words if word]
