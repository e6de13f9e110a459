"""List the files of a folder tree, links followed: usable files, passed-over files, and unusable files with reasons."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from data.scan import zip_archive
from lineage.errors import Fault

MAX_NAMED = 3  # links in one message


@dataclass(frozen=True)
class FolderFiles:
    """The files below a folder, by their relative paths.

    `names`: readable regular files, sorted. `left_out`: unusable files with the reason; `dangling` are the broken links
    among them. `passed_over`: files and folders of operating systems and viewers, with the number of files in each.
    """

    names: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    passed_over: dict[str, int] = field(default_factory=dict)
    dangling: list[str] = field(default_factory=list)

    @property
    def count(self) -> int:
        """The number of all files."""
        return len(self.names) + len(self.left_out) + sum(self.passed_over.values())


@dataclass(frozen=True)
class FolderState:
    """The state of all files below a folder, without their content.

    `signature` is a hash of their paths, sizes and times of modification and change (it names no file). `changed_at` is
    the time of the newest change in nanoseconds since 1970.
    """

    signature: str
    changed_at: int


def folder_state(folder: Path) -> FolderState:
    """The state of the files below `folder`, links not followed. Fault if a file or folder cannot be read.

    The time of change (ctime) also shows a file that was replaced by one of the same size and modification time.
    """
    signature, changed_at = hashlib.sha256(), 0
    try:
        for name, path in _walk_tree(folder):
            facts = path.lstat()
            numbers = (facts.st_mode, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)
            signature.update(os.fsencode(name) + repr(numbers).encode() + b"\0")
            changed_at = max(changed_at, facts.st_ctime_ns)
    except OSError as error:
        raise Fault(f"{folder}: cannot be read ({error.strerror}); check its permissions") from error
    return FolderState(signature.hexdigest(), changed_at)


def _walk_tree(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield the relative path and the path of every file below a folder, sorted. OSError for an unreadable folder."""

    def fail(error: OSError) -> None:
        raise error

    for parent, folder_names, names in os.walk(folder, onerror=fail):
        folder_names.sort()
        for name in sorted(names):
            path = Path(parent, name)
            yield os.path.relpath(path, folder), path


def survey_folder(folder: Path) -> FolderFiles:
    """List every file below `folder` once. A link counts as its target, also outside of the folder.

    Left out are links to a folder above, links to a file that is in the tree under its own name, empty files, devices,
    files without read permission, names that a table cannot hold, and broken links. Git-annex leaves broken links until
    its content is fetched. Fault if a folder cannot be read.
    """
    inode_by_link: dict[str, tuple[int, int]] = {}
    name_by_inode: dict[tuple[int, int], str] = {}
    files = FolderFiles()
    for name, path, is_linked in _walk(folder, PurePosixPath(), [os.path.realpath(folder)], False, files):
        try:
            facts = path.stat()
        except OSError:
            files.dangling.append(_printable(name))
            files.left_out[_printable(name)] = "is a link that leads nowhere"
            continue
        reason = _reason_unusable(name, path, facts)
        if reason:
            files.left_out[_printable(name)] = reason
            continue
        if is_linked:
            inode_by_link[name] = (facts.st_dev, facts.st_ino)
        else:
            files.names.append(name)
            name_by_inode.setdefault((facts.st_dev, facts.st_ino), name)
    for name, inode in inode_by_link.items():
        if inode in name_by_inode:
            files.left_out[name] = f"is a link to {name_by_inode[inode]}, which is there under its own name"
        else:
            files.names.append(name)
    files.names.sort()
    return files


def survey_complete_folder(folder: Path) -> FolderFiles:
    """As `survey_folder`, but a broken link is a Fault: the files of whole patients can be missing."""
    files = survey_folder(folder)
    if files.dangling:
        more = f" and {len(files.dangling) - MAX_NAMED} more" if len(files.dangling) > MAX_NAMED else ""
        raise Fault(
            f"{folder}: {len(files.dangling)} links lead nowhere ({', '.join(files.dangling[:MAX_NAMED])}{more}); "
            "fetch their content (`git annex get .`) or take them out"
        )
    return files


def _walk(
    folder: Path, relative: PurePosixPath, parent_paths: list[str], is_linked: bool, files: FolderFiles
) -> Iterator[tuple[str, Path, bool]]:
    """Yield name and path of every file, and whether it is reached by a link. Hidden files go into `passed_over`."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise Fault(f"{folder}: cannot be read ({error.strerror}); check its permissions") from error
    for entry in entries:
        name, path = relative / entry.name, Path(entry.path)
        by_link = is_linked or entry.is_symlink()
        if zip_archive.is_system_file(entry.name):
            key = name.as_posix() + ("/" if path.is_dir() and not entry.is_symlink() else "")
            files.passed_over[_printable(key)] = _file_count(path) if key.endswith("/") else 1
        elif not path.is_dir():
            yield name.as_posix(), path, by_link
        elif (real_path := os.path.realpath(path)) in parent_paths:
            files.left_out[_printable(name.as_posix())] = "is a link to a folder that contains it"
        else:
            yield from _walk(path, name, [*parent_paths, real_path], by_link, files)


def _file_count(folder: Path) -> int:
    return sum(len(names) for _, _, names in os.walk(folder))


def _reason_unusable(name: str, path: Path, facts: os.stat_result) -> str:
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
