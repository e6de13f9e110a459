"""The files of a folder tree, links followed: which there are, which are passed over, which can't be used and why."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from data.scan import zip_archive
from lineage.errors import Fault

NAMED = 3  # links in one sentence


@dataclass(frozen=True)
class FolderFiles:
    """What lies below a folder, by path from there: `names` of regular files that can be read, sorted; `left_out` with
    the reason, `dangling` links among them; `passed_over`, what systems and viewers leave behind, with the number of
    files in each."""

    names: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    passed_over: dict[str, int] = field(default_factory=dict)
    dangling: list[str] = field(default_factory=list)

    @property
    def count(self) -> int:
        """How many files there are in all."""
        return len(self.names) + len(self.left_out) + sum(self.passed_over.values())


def survey(folder: Path) -> FolderFiles:
    """Every file below `folder`, once. A link to a file or folder stands for what it leads to, wherever that lies.

    Left out are links to a folder above, links to a file that lies in the tree under its own name, empty files,
    devices, files that may not be read, names that no table can hold, and links that lead nowhere, as git-annex leaves
    them before its content is fetched. Fault for a folder that may not be read.
    """
    linked: dict[str, tuple[int, int]] = {}
    own: dict[tuple[int, int], str] = {}
    found = FolderFiles()
    for name, path, is_linked in _walk(folder, PurePosixPath(), [os.path.realpath(folder)], False, found):
        try:
            facts = path.stat()
        except OSError:
            found.dangling.append(_printable(name))
            found.left_out[_printable(name)] = "is a link that leads nowhere"
            continue
        reason = _unusable(name, path, facts)
        if reason:
            found.left_out[_printable(name)] = reason
            continue
        if is_linked:
            linked[name] = (facts.st_dev, facts.st_ino)
        else:
            found.names.append(name)
            own.setdefault((facts.st_dev, facts.st_ino), name)
    for name, place in linked.items():
        if place in own:
            found.left_out[name] = f"is a link to {own[place]}, which is there under its own name"
        else:
            found.names.append(name)
    found.names.sort()
    return found


def complete(folder: Path) -> FolderFiles:
    """As `survey`, for an import. Fault where links lead nowhere: the files of whole patients may be missing."""
    found = survey(folder)
    if found.dangling:
        more = f" and {len(found.dangling) - NAMED} more" if len(found.dangling) > NAMED else ""
        raise Fault(
            f"{folder}: {len(found.dangling)} links lead nowhere ({', '.join(found.dangling[:NAMED])}{more}); fetch "
            "their content (`git annex get .`) or take them out"
        )
    return found


def _walk(
    folder: Path, inside: PurePosixPath, above: list[str], is_linked: bool, found: FolderFiles
) -> Iterator[tuple[str, Path, bool]]:
    """Name and path of each file, and whether it or a folder above it is a link; hidden ones go into `passed_over`."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise Fault(f"{folder}: cannot be read ({error.strerror}); nobody knows what lies in it") from error
    for entry in entries:
        name, path = inside / entry.name, Path(entry.path)
        by_link = is_linked or entry.is_symlink()
        if zip_archive.hidden(entry.name):
            key = name.as_posix() + ("/" if path.is_dir() and not entry.is_symlink() else "")
            found.passed_over[_printable(key)] = _size(path) if key.endswith("/") else 1
        elif not path.is_dir():
            yield name.as_posix(), path, by_link
        elif (real := os.path.realpath(path)) in above:
            found.left_out[_printable(name.as_posix())] = "is a link to a folder that it lies in"
        else:
            yield from _walk(path, name, [*above, real], by_link, found)


def _size(folder: Path) -> int:
    return sum(len(files) for _, _, files in os.walk(folder))


def _unusable(name: str, path: Path, facts: os.stat_result) -> str:
    if not stat.S_ISREG(facts.st_mode):
        return "is no regular file"
    if not facts.st_size:
        return "is empty"
    if not os.access(path, os.R_OK):
        return "may not be read"
    if not name.isprintable() or "\\" in name:
        return "has a name that no table can hold; rename it"
    return ""


def _printable(name: str) -> str:
    return name if name.isprintable() else ascii(name)
