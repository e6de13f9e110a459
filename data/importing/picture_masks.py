"""Masks among the pictures of class folders: recognise them by name, and pair them with their scans."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import PurePosixPath

from data.importing.mask_volumes import MASK_WORDS

WORDS = frozenset((*MASK_WORDS, "masks", "segmentations", "groundtruth", "gt", "annotation", "annotations", "contour"))
IMAGES = ("images", "image", "scans", "scan", "img")  # names of sibling folders of a mask folder


def pair_masks(names: Sequence[str]) -> tuple[dict[str, str], dict[str, str]]:
    """The mask of each scan that has one; and the masks that are left out, with the reason.

    `N_mask.png` is the mask of `N.png` in the same folder, and so is `masks/N.png` or `masks/N_mask.png` in a sibling
    folder. Two masks of one scan are left out, because a row has one mask.
    """
    keys_by_name = {name: _scan_keys(name) for name in names}
    scans: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for name, scan_keys in keys_by_name.items():
        if scan_keys is None:
            scans[_key(name)].append(name)
    masks_by_scan: defaultdict[str, list[str]] = defaultdict(list)
    left_out: dict[str, str] = {}
    for name, scan_keys in keys_by_name.items():
        if scan_keys is None:
            continue
        candidates = next((scans[key] for key in scan_keys if key in scans), [])
        if len(candidates) == 1:
            masks_by_scan[candidates[0]].append(name)
        else:
            left_out[name] = f"is named as a mask, and {len(candidates) or 'no'} scans match its name"
    for scan, masks in masks_by_scan.items():
        if len(masks) > 1:
            left_out |= dict.fromkeys(masks, f"is one of {len(masks)} masks of {scan}; join them in one file")
    return {scan: masks[0] for scan, masks in masks_by_scan.items() if len(masks) == 1}, left_out


def _scan_keys(name: str) -> list[tuple[str, str]] | None:
    """Folder and stem of the scans that a mask can belong to; None if neither name nor folder is that of a mask."""
    path = PurePosixPath(name)
    folder, stem = path.parent, _stem(path)
    words = re.split(r"([^0-9a-z]+)", stem)
    in_folder = folder.name.lower() in WORDS
    if not in_folder and WORDS.isdisjoint(words) and "mask" not in stem:
        return None
    without_words = "".join(word.replace("mask", "") for word in words if word not in WORDS)
    stripped = re.sub(r"^[^0-9a-z(]+|[^0-9a-z)]+$", "", without_words)
    stems = dict.fromkeys([*([stem] if in_folder else []), stripped, re.sub(r"[^0-9a-z)]+\d+$", "", stripped)])
    folders = [folder.parent, *(folder.parent / sibling for sibling in IMAGES)] if in_folder else [folder]
    return [(parent.as_posix(), text) for parent in folders for text in stems if text]


def _key(name: str) -> tuple[str, str]:
    path = PurePosixPath(name)
    return path.parent.as_posix(), _stem(path)


def _stem(path: PurePosixPath) -> str:
    return path.name.lower().removesuffix(".gz").rpartition(".")[0] or path.name.lower()
