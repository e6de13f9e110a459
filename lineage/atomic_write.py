"""Atomic replacement of files: a reader sees the old content or the new one, never a part of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replace_file(path: Path, *, durable: bool = False, temporary: Path | None = None) -> Iterator[Path]:
    """Yield the path of a temporary file in the same folder, which replaces `path` when the block ends.

    After an error the old file stays and the temporary file is deleted. After a kill the old file stays. The temporary
    file is `<name>.part`: the next call deletes it, and a backup leaves it out. Where several processes may write the
    same file at once, `temporary` is a name of this process. `durable`: the new file is on disk when the block ends
    (rename(2), fsync(2)).
    """
    temporary = temporary or path.with_name(f"{path.name}.part")
    temporary.unlink(missing_ok=True)
    try:
        yield temporary
        if durable:
            _sync(temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        _sync(path.parent)


def write_bytes(path: Path, content: bytes, *, durable: bool = False) -> None:
    """Replace a file atomically. Its mode follows the umask."""
    with replace_file(path, durable=durable) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str, *, durable: bool = False) -> None:
    """Replace a text file atomically: UTF-8; undecodable bytes that were read with `surrogateescape` are restored."""
    write_bytes(path, text.encode("utf-8", "surrogateescape"), durable=durable)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
