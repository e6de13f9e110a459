"""Which folder of a set is the patient: told by its names where there is one reading, else asked for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath

from data.scan.dicom.header_identity import fold
from lineage.errors import Fault

# ruff: noqa: SIM905  a list of words reads better as text
WRAPPERS = frozenset("images image data dataset scans scan nifti nii dicom dcm raw files png jpg imaging".split())
SHOWN = 3  # folder names of a level in one sentence
OPTION = "--patient-level"


def by_level(names: Sequence[str], level: int) -> dict[str, str]:
    """The patient of each file: the name of its folder at `level`, where 1 is the first folder below the set's.

    Fault where a file lies less deep.
    """
    patients = {}
    for name in names:
        folders = PurePosixPath(name).parts[:-1]
        if not 1 <= level <= len(folders):
            raise Fault(f"{name}: has no folder at level {level}, it lies {len(folders)} deep; name another {OPTION}")
        patients[name] = folders[level - 1]
    return patients


def of_volumes(names: Sequence[str], stem: Callable[[str], str]) -> dict[str, str]:
    """The patient of each volume: its folder, where no deeper tree and no other use of folders leaves a question.

    `stem` is a file's name without its ending. Fault asks for the level where there is more than one reading.
    """
    bare = next((name for name in names if len(PurePosixPath(name).parts) < 2), None)
    if bare:
        raise Fault(
            f"{bare}: nobody knows whose volume it is; put it into a folder named after its patient, or say "
            f"{OPTION} 0 if each file is another patient's"
        )
    paths = [PurePosixPath(name).parts[:-1] for name in names]
    while len({path[0] for path in paths}) == 1 and paths[0][0].lower() in WRAPPERS and min(map(len, paths)) > 1:
        paths = [path[1:] for path in paths]
    if max(map(len, paths)) > 1:
        raise ask(names)
    members: defaultdict[str, list[str]] = defaultdict(list)
    for name, path in zip(names, paths, strict=True):
        members[path[0]].append(fold(stem(PurePosixPath(name).name)).replace(fold(path[0]), "", 1))
    own = {
        folder: {fold(stem(PurePosixPath(name).name)) for name in names if _last(name) == folder} for folder in members
    }
    for folder, stems in members.items():
        others = {each for other, several in members.items() if other != folder for each in several}
        is_named = all(fold(folder) in each for each in own[folder])
        if len(stems) > 1 and not is_named and others.isdisjoint(stems):
            raise ask(names)
    return {name: path[0] for name, path in zip(names, paths, strict=True)}


def ask(names: Sequence[str], also: str = "", without: Sequence[int] = ()) -> Fault:
    """The question which level of folders is the patient, with what lies at each; `without` these levels."""
    levels: defaultdict[int, dict[str, None]] = defaultdict(dict)
    for name in names:
        for level, folder in enumerate(PurePosixPath(name).parts[:-1], start=1):
            levels[level][folder] = None
    shown = [
        f"at level {level} {len(folders)} ({', '.join(list(folders)[:SHOWN])}{', ...' if len(folders) > SHOWN else ''})"
        for level, folders in levels.items()
        if level not in without
    ]
    return Fault(
        f"nobody knows which folders are the patients: {'; '.join(shown)}; say it with {OPTION}, or {OPTION} 0 if none "
        f"is{also}"
    )


def repeated(patients: dict[str, str], level: int) -> list[str]:
    """The patients' folders whose name stands under several folders: one patient, or two of one name."""
    parents: defaultdict[str, set[tuple[str, ...]]] = defaultdict(set)
    for name, patient in patients.items():
        parents[patient].add(PurePosixPath(name).parts[: level - 1])
    return sorted(patient for patient, places in parents.items() if len(places) > 1)


def _last(name: str) -> str:
    return PurePosixPath(name).parts[-2]
