"""Reading zip archives safely: names, kinds and sizes of all members are checked before anything is inflated."""

from __future__ import annotations

import io
import shutil
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from lineage.errors import Fault

START = b"PK\x03\x04"
END, END64, LOCATOR = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"
END_SIZE, END64_SIZE, LOCATOR_SIZE, COMMENT = 22, 56, 20, 65535
MEMBERS = 10_000
SET_MEMBERS = 200_000
ENTRY = 300  # bytes of the directory for one member: 46, its name and a few extra fields
MEMBER_BYTES = 2**30
SCAN_BYTES = 2**30  # stored bytes of all files of one scan, before decoding
SET_BYTES = 2**40
RATIO, SMALL = 250, 2**22  # a deflated blank picture reaches 200; a member below SMALL is harmless
ENCRYPTED, UTF8 = 0x1, 0x800
HIDDEN = (
    "__macosx",
    "dicomdir",
    "thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    "@eadir",
    "$recycle.bin",
    "lost+found",
    "system volume information",
)


def is_archive(content: bytes) -> bool:
    """Whether bytes begin as a zip archive does."""
    return content[:4] in (START, END)


def is_system_file(name: str) -> bool:
    """Whether a path is a file that systems and viewers create: it is no scan, and no reason to refuse one."""
    return any(part.startswith(".") or part.lower() in HIDDEN for part in PurePosixPath(name).parts)


def read_members(name: str, content: bytes) -> Iterator[tuple[str, bytes]]:
    """Path and bytes of each file in one scan's archive, in the order of their paths.

    The complete directory is checked before the first member is inflated. A Fault names the archive and the member.
    """
    with _open_archive(name, io.BytesIO(content), len(content), MEMBERS) as archive:
        for info in _check_members(name, archive, len(content), SCAN_BYTES):
            yield info.filename, _inflate_member(name, archive, info)


def unpack(path: Path, target: Path) -> int:
    """Write the files of a data set's archive below `target`, an empty folder; returns their count. Fault as above."""
    size = path.stat().st_size
    with path.open("rb") as stream, _open_archive(path.name, stream, size, SET_MEMBERS) as archive:
        infos = _check_members(path.name, archive, size, SET_BYTES)
        needed, free = sum(info.file_size for info in infos), shutil.disk_usage(target).free
        if needed > free:
            raise Fault(f"{path.name}: needs {needed:,} bytes unpacked, and {free:,} are free; free some space")
        for info in infos:
            file = target / info.filename
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
                with file.open("xb") as output:
                    output.write(_inflate_member(path.name, archive, info))
            except (FileExistsError, NotADirectoryError) as error:
                raise _fault(path.name, info.filename, "is a file and a folder at once; pack the set again") from error
    return len(infos)


def pack_files(files: dict[str, bytes]) -> bytes:
    """An archive of files by name, stored without compression and times, so that equal files give equal bytes."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(files):
            archive.writestr(zipfile.ZipInfo(name), files[name])
    return stream.getvalue()


def _open_archive(name: str, stream: io.BytesIO | io.BufferedReader, size: int, max_members: int) -> zipfile.ZipFile:
    """The open archive with its directory, of which at most the size for `max_members` is read."""
    if _declared_directory_size(stream, size) > max_members * ENTRY:
        raise Fault(f"{name}: has a directory for more than {max_members:,} files; divide the archive")
    try:
        archive = zipfile.ZipFile(stream)
    except (zipfile.BadZipFile, ValueError, struct.error, OSError, RuntimeError, OverflowError) as error:
        reason = "a file name in it is not UTF-8" if isinstance(error, UnicodeDecodeError) else "it is damaged"
        raise Fault(f"{name}: cannot be opened as a zip archive, {reason}; pack it again") from error
    if len(archive.infolist()) > max_members:
        archive.close()
        raise Fault(f"{name}: holds {len(archive.infolist()):,} files, more than {max_members:,}; divide the archive")
    return archive


def _declared_directory_size(stream: io.BytesIO | io.BufferedReader, size: int) -> int:
    """The largest directory size in bytes that any end record declares (APPNOTE 4.3.14 to 4.3.16); 0 without one."""
    stream.seek(max(0, size - COMMENT - END_SIZE - LOCATOR_SIZE - END64_SIZE))
    tail = stream.read()
    stream.seek(0)
    declared, position = 0, tail.find(END)
    while position >= 0:
        sizes = [int.from_bytes(tail[position + 12 : position + 16], "little") % 0xFFFFFFFF]
        zip64_position = position - LOCATOR_SIZE - END64_SIZE
        if (
            zip64_position >= 0
            and tail[position - LOCATOR_SIZE :].startswith(LOCATOR)
            and tail[zip64_position:].startswith(END64)
        ):
            sizes.append(int.from_bytes(tail[zip64_position + 40 : zip64_position + 48], "little"))
        declared, position = max(declared, *sizes), tail.find(END, position + 1)
    return declared


def _check_members(name: str, archive: zipfile.ZipFile, size: int, max_bytes: int) -> list[zipfile.ZipInfo]:
    """The members that hold scans, by path. Fault if any member, hidden ones included, could do harm."""
    names: set[str] = set()
    total_size = packed_size = 0
    for info in archive.infolist():
        problem = _name_problem(info) or _kind_problem(info)
        if problem:
            raise _fault(name, info.filename, problem)
        key = info.filename.rstrip("/").casefold()
        if key in names:
            raise _fault(name, info.filename, "is in it twice; pack it again with one of them")
        names.add(key)
        total_size, packed_size = total_size + info.file_size, packed_size + info.compress_size
        if total_size > max_bytes:
            raise _fault(
                name, info.filename, f"makes it more than {max_bytes // 2**20:,} MiB inflated; divide the archive"
            )
    if packed_size > size:
        raise Fault(
            f"{name}: its files overlap, with {packed_size:,} compressed bytes in an archive of {size:,}; pack it again"
        )
    files = [info for info in archive.infolist() if not info.is_dir() and not is_system_file(info.filename)]
    return sorted(files, key=lambda info: info.filename)


def _name_problem(info: zipfile.ZipInfo) -> str:
    name = info.orig_filename
    if not info.flag_bits & UTF8 and not name.isascii():
        try:
            name.encode("cp437").decode("utf-8")
        except UnicodeError:
            return "has a name that is not UTF-8; rename it and pack it again"
    parts = name.rstrip("/").split("/")
    if name.startswith("/") or "\\" in name or ":" in parts[0] or any(part in ("", ".", "..") for part in parts):
        return "has a path that leaves the archive; pack it again with plain paths"
    if not name.isprintable() or any(len(part.encode()) > 255 for part in parts) or len(name) > 1000:
        return "has a name that no file may have; rename it and pack it again"
    return ""


def _kind_problem(info: zipfile.ZipInfo) -> str:
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or a device; put the file itself into the archive"
    if info.flag_bits & ENCRYPTED:
        return "is encrypted; pack it again without a password"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "is compressed by another method than deflate; pack it again"
    if info.file_size > MEMBER_BYTES:
        return f"inflates beyond {MEMBER_BYTES // 2**20} MiB; leave it out"
    if info.file_size > SMALL and info.file_size > RATIO * info.compress_size:
        return f"inflates to more than {RATIO} times its size, as a zip bomb does; leave it out"
    return ""


def _inflate_member(name: str, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """The bytes of a member; `zipfile` inflates at most the declared size, and checks the CRC-32."""
    try:
        with archive.open(info) as stream:
            content = stream.read(info.file_size)
            is_complete = not stream.read(1)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, RuntimeError, struct.error) as error:
        raise _fault(name, info.filename, "is damaged; pack it again") from error
    if len(content) != info.file_size or not is_complete:
        raise _fault(name, info.filename, "is not as long as the archive says; pack it again")
    if is_archive(content) or info.filename.lower().endswith(".zip"):
        raise _fault(name, info.filename, "is an archive inside an archive; unpack it first")
    return content


def _fault(name: str, member: str, problem: str) -> Fault:
    """A Fault with the archive's name and the member's base name, whose unprintable letters are replaced."""
    base = member.rstrip("/").rpartition("/")[2]
    printable = "".join(letter if letter.isprintable() else "?" for letter in base)
    return Fault(f"{name}: {printable if len(printable) <= 80 else printable[:77] + '...'} {problem}")
