"""Atomic replacement of files: kill, full disk, modes and fsync."""

from __future__ import annotations

import os
import resource
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from lineage import atomic_write

KILLED_WRITER = """
import os, signal, sys
from pathlib import Path
from lineage import atomic_write
with atomic_write.replace_file(Path(sys.argv[1])) as temporary:
    temporary.write_bytes(b"half of the new con")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_new_content_replaces_the_old(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    atomic_write.write_text(path, "old\n")
    atomic_write.write_text(path, "a,ü\n", durable=True)
    assert path.read_bytes() == "a,ü\n".encode()
    assert list(tmp_path.iterdir()) == [path]


def test_undecodable_bytes_are_written_as_they_were_read(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(b"caf\xe9")
    atomic_write.write_text(path, path.read_text(encoding="utf-8", errors="surrogateescape") + "!")
    assert path.read_bytes() == b"caf\xe9!"


def test_a_killed_writer_leaves_the_old_content_and_the_next_one_succeeds(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("old")
    process = subprocess.run([sys.executable, "-c", KILLED_WRITER, str(path)], check=False, timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert path.read_text() == "old" and (tmp_path / "table.csv.part").is_file()
    atomic_write.write_text(path, "new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_the_old_content_and_no_temporary_file(tmp_path: Path) -> None:
    """A limit on the size of files stands for the full disk: write(2) fails after a part of the content."""
    path = tmp_path / "table.csv"
    path.write_text("old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
        with pytest.raises(OSError):
            atomic_write.write_bytes(path, b"x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("umask", "mode"), [(0o077, 0o600), (0o022, 0o644)])
def test_the_mode_follows_the_umask(umask: int, mode: int, tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("old")
    path.chmod(0o666)
    earlier_umask = os.umask(umask)
    try:
        atomic_write.write_bytes(path, b"new")
    finally:
        os.umask(earlier_umask)
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_a_hard_link_to_the_old_file_keeps_its_content(tmp_path: Path) -> None:
    path, link = tmp_path / "table.csv", tmp_path / "copy.csv"
    path.write_text("old")
    link.hardlink_to(path)
    leftover = tmp_path / "table.csv.part"
    leftover.hardlink_to(path)
    atomic_write.write_text(path, "new")
    assert (path.read_text(), link.read_text()) == ("new", "old")


def test_a_read_only_temporary_file_of_a_killed_writer_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "object"
    (tmp_path / "object.part").touch(0o444)
    atomic_write.write_bytes(path, b"new")
    assert path.read_bytes() == b"new"


def test_an_error_in_the_block_is_raised(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(ValueError, match="no column"), atomic_write.replace_file(path) as temporary:
        temporary.write_text("half")
        raise ValueError("no column")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_durable_write_syncs_the_file_before_the_rename_and_the_folder_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ledger.head"
    path.write_text("old")
    syncs = []
    real_fsync = os.fsync

    def record_sync(descriptor: int) -> None:
        syncs.append((str(Path(f"/proc/self/fd/{descriptor}").readlink()), path.read_text()))
        real_fsync(descriptor)

    monkeypatch.setattr(os, "fsync", record_sync)
    atomic_write.write_text(path, "new")
    assert syncs == []
    atomic_write.write_text(path, "newer", durable=True)
    assert syncs == [(str(tmp_path / "ledger.head.part"), "new"), (str(tmp_path), "newer")]
