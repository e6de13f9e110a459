"""Patients from folder names: find the folder level of the patients, or ask for it if it is ambiguous."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath

from data.scan.dicom.header_identity import fold_id
from lineage.errors import Fault

# ruff: noqa: SIM905  a list of words reads better as text
WRAPPERS = frozenset("images image data dataset scans scan nifti nii dicom dcm raw files png jpg imaging".split())
MAX_SHOWN = 3  # folder names of a level in one message
OPTION = "--patient-level"


def patients_by_level(names: Sequence[str], level: int) -> dict[str, str]:
    """The patient of each file: the name of its folder at `level`; 1 is the first folder below the data set.

    Fault if a file has no folder at that level.
    """
    patients = {}
    for name in names:
        folders = PurePosixPath(name).parts[:-1]
        if not 1 <= level <= len(folders):
            raise Fault(f"{name}: has no folder at level {level}, its depth is {len(folders)}; give another {OPTION}")
        patients[name] = folders[level - 1]
    return patients


def patients_of_volumes(names: Sequence[str], stem: Callable[[str], str]) -> dict[str, str]:
    """The patient of each volume: its folder, if the tree is not deeper and the folders have no other meaning.

    `stem` removes the ending of a file name. Fault if the level of the patients is ambiguous.
    """
    loose_file = next((name for name in names if len(PurePosixPath(name).parts) < 2), None)
    if loose_file:
        raise Fault(
            f"{loose_file}: its patient is unknown; put it into a folder named after its patient, or give "
            f"{OPTION} 0 if each file is another patient's"
        )
    paths = [PurePosixPath(name).parts[:-1] for name in names]
    while len({path[0] for path in paths}) == 1 and paths[0][0].lower() in WRAPPERS and min(map(len, paths)) > 1:
        paths = [path[1:] for path in paths]
    if max(map(len, paths)) > 1:
        raise ambiguous_level(names)
    members: defaultdict[str, list[str]] = defaultdict(list)
    for name, path in zip(names, paths, strict=True):
        members[path[0]].append(fold_id(stem(PurePosixPath(name).name)).replace(fold_id(path[0]), "", 1))
    own_stems = {
        folder: {fold_id(stem(PurePosixPath(name).name)) for name in names if _folder_name(name) == folder}
        for folder in members
    }
    for folder, stems in members.items():
        other_stems = {
            other_stem
            for other_folder, stem_list in members.items()
            if other_folder != folder
            for other_stem in stem_list
        }
        is_named = all(fold_id(folder) in other_stem for other_stem in own_stems[folder])
        if len(stems) > 1 and not is_named and other_stems.isdisjoint(stems):
            raise ambiguous_level(names)
    return {name: path[0] for name, path in zip(names, paths, strict=True)}


def ambiguous_level(names: Sequence[str], also: str = "", without: Sequence[int] = ()) -> Fault:
    """A Fault that asks for the level of the patients' folders and lists the levels, except those of `without`."""
    levels: defaultdict[int, dict[str, None]] = defaultdict(dict)
    for name in names:
        for level, folder in enumerate(PurePosixPath(name).parts[:-1], start=1):
            levels[level][folder] = None
    listed = [
        f"at level {level} {len(folders)} "
        f"({', '.join(list(folders)[:MAX_SHOWN])}{', ...' if len(folders) > MAX_SHOWN else ''})"
        for level, folders in levels.items()
        if level not in without
    ]
    return Fault(
        f"the level of the patients' folders is ambiguous: {'; '.join(listed)}; give it with {OPTION}, or {OPTION} 0 "
        f"if none is{also}"
    )


def repeated_folders(patients: dict[str, str], level: int) -> list[str]:
    """The patients whose folder name occurs in several folders: one patient, or several of one name."""
    parents: defaultdict[str, set[tuple[str, ...]]] = defaultdict(set)
    for name, patient in patients.items():
        parents[patient].add(PurePosixPath(name).parts[: level - 1])
    return sorted(patient for patient, parents_of_patient in parents.items() if len(parents_of_patient) > 1)


def _folder_name(name: str) -> str:
    return PurePosixPath(name).parts[-2]
