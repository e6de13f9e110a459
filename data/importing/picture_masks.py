"""Masks among the pictures of class folders: told by their names, and joined with their scans by name."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import PurePosixPath

from data.importing.mask_volumes import MASK_WORDS

WORDS = frozenset((*MASK_WORDS, "masks", "segmentations", "groundtruth", "gt", "annotation", "annotations", "contour"))
IMAGES = ("images", "image", "scans", "scan", "img")  # folders beside one of masks


def pairs(names: Sequence[str]) -> tuple[dict[str, str], dict[str, str]]:
    """The mask of each scan that has one, and the masks that belong to none, with the reason.

    `N_mask.png` is the mask of `N.png` in the same folder, and so is `masks/N.png` or `masks/N_mask.png` in a folder
    beside it. Two masks of one scan are left out, since a row can name one.
    """
    keys = {name: _scans_of(name) for name in names}
    scans: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for name, own in keys.items():
        if own is None:
            scans[_key(name)].append(name)
    belonging: defaultdict[str, list[str]] = defaultdict(list)
    left_out: dict[str, str] = {}
    for name, own in keys.items():
        if own is None:
            continue
        fitting = next((scans[key] for key in own if key in scans), [])
        if len(fitting) == 1:
            belonging[fitting[0]].append(name)
        else:
            left_out[name] = f"is named as a mask, and {len(fitting) or 'no'} scans of its name lie beside it"
    for scan, several in belonging.items():
        if len(several) > 1:
            left_out |= dict.fromkeys(several, f"is one of {len(several)} masks of {scan}; join them in one file")
    return {scan: several[0] for scan, several in belonging.items() if len(several) == 1}, left_out


def _scans_of(name: str) -> list[tuple[str, str]] | None:
    """Folder and stem of the scans that a mask may belong to; None where neither name nor folder is a mask's."""
    path = PurePosixPath(name)
    folder, stem = path.parent, _stem(path)
    words = re.split(r"([^0-9a-z]+)", stem)
    in_folder = folder.name.lower() in WORDS
    if not in_folder and WORDS.isdisjoint(words) and "mask" not in stem:
        return None
    plain = "".join(word.replace("mask", "") for word in words if word not in WORDS)
    bare = re.sub(r"^[^0-9a-z(]+|[^0-9a-z)]+$", "", plain)
    stems = dict.fromkeys([*([stem] if in_folder else []), bare, re.sub(r"[^0-9a-z)]+\d+$", "", bare)])
    folders = [folder.parent, *(folder.parent / other for other in IMAGES)] if in_folder else [folder]
    return [(each.as_posix(), text) for each in folders for text in stems if text]


def _key(name: str) -> tuple[str, str]:
    path = PurePosixPath(name)
    return path.parent.as_posix(), _stem(path)


def _stem(path: PurePosixPath) -> str:
    return path.name.lower().removesuffix(".gz").rpartition(".")[0] or path.name.lower()
