from __future__ import annotations

import io
import stat
import struct
import zipfile
from pathlib import Path

import pytest

from data.scan import zip_archive
from lineage.errors import Fault

Members = dict[str, bytes]


def zipped(files: Members, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


def zip_member(info: zipfile.ZipInfo, content: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(info, content)
    return stream.getvalue()


def read(content: bytes) -> Members:
    return dict(zip_archive.read_members("a.zip", content))


def test_members_are_in_order_and_without_files_of_systems() -> None:
    system_files = {"__MACOSX/._b.dcm": b"m", "s/.DS_Store": b"d", "DICOMDIR": b"i", "s/Thumbs.db": b"t"}
    assert read(zipped({"s/b.dcm": b"2", "s/a.dcm": b"1"} | system_files)) == {"s/a.dcm": b"1", "s/b.dcm": b"2"}
    assert list(read(zipped({"s/b": b"2", "s/a": b"1"}))) == ["s/a", "s/b"]


def test_packed_bytes_depend_only_on_names_and_contents() -> None:
    packed = zip_archive.pack_files({"b": b"2", "a": b"1" * 1000})
    assert packed == zip_archive.pack_files({"a": b"1" * 1000, "b": b"2"}) and zip_archive.is_archive(packed)
    assert read(packed) == {"a": b"1" * 1000, "b": b"2"}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../evil.dcm", r"a\.zip: evil\.dcm has a path that leaves the archive"),
        ("x/../../evil.dcm", "leaves the archive"),
        ("/etc/evil.dcm", "leaves the archive"),
        ("C:/evil.dcm", "leaves the archive"),
        ("..\\evil.dcm", "leaves the archive"),
        ("a//evil.dcm", "leaves the archive"),
        ("evil\n.dcm", r"a\.zip: evil\?\.dcm has a name that no file may have"),
        ("n" * 300, "has a name that no file may have"),
    ],
)
def test_names_that_leave_the_archive_or_are_invalid_are_refused(name: str, reason: str, tmp_path: Path) -> None:
    content = zipped({"fine.dcm": b"1", name: b"2"})
    with pytest.raises(Fault, match=reason):
        read(content)
    (tmp_path / "a.zip").write_bytes(content)
    (tmp_path / "in").mkdir()
    with pytest.raises(Fault, match=reason):
        zip_archive.unpack(tmp_path / "a.zip", tmp_path / "in")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.zip", "in"]


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO, stat.S_IFBLK])
def test_links_and_devices_are_refused(kind: int) -> None:
    info = zipfile.ZipInfo("innocent.dcm")
    info.external_attr = (kind | 0o777) << 16
    with pytest.raises(Fault, match=r"innocent\.dcm is a link or a device"):
        read(zip_member(info, b"/etc/passwd"))


def test_encrypted_members_and_other_compression_methods_are_refused() -> None:
    content = bytearray(zipped({"secret.dcm": b"1"}))
    position = content.index(b"PK\x01\x02")
    content[position + 8] |= 1
    with pytest.raises(Fault, match=r"secret\.dcm is encrypted"):
        read(bytes(content))
    with pytest.raises(Fault, match="another method than deflate"):
        read(zipped({"a": b"1" * 100}, zipfile.ZIP_LZMA))


def test_names_that_are_not_utf_8_are_refused() -> None:
    content = zipped({"xx.dcm": b"1"}).replace(b"xx.dcm", b"\xe4\xff.dcm")
    with pytest.raises(Fault, match=r"a\.zip: .* has a name that is not UTF-8"):
        read(content)
    position = content.index(b"PK\x01\x02") + 8
    flagged = content[:position] + struct.pack("<H", 0x800) + content[position + 2 :]
    with pytest.raises(Fault, match="a file name in it is not UTF-8"):
        read(flagged)
    assert read(zipped({"ä.dcm": b"1"})) == {"ä.dcm": b"1"}


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_repeated_name_is_refused() -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a.dcm", b"1")
        archive.writestr("A.dcm", b"2")
    with pytest.raises(Fault, match=r"A\.dcm is in it twice"):
        read(stream.getvalue())


def test_bombs_are_refused_before_they_are_inflated(monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = zipped({"bomb.dcm": bytes(20_000_000)})
    with pytest.raises(Fault, match=r"bomb\.dcm inflates to more than 250 times its size"):
        read(bomb)
    monkeypatch.setattr(zip_archive, "MEMBER_BYTES", 1_000_000)
    with pytest.raises(Fault, match="inflates beyond 0 MiB"):
        read(bomb)
    monkeypatch.setattr(zip_archive, "SCAN_BYTES", 5000)
    with pytest.raises(Fault, match=r"b makes it more than 0 MiB inflated"):
        read(zipped({"a": bytes(3000), "b": bytes(3000)}))


def test_archives_inside_archives_are_refused() -> None:
    inner = zipped({"x": b"1"})
    for name in ("inner.zip", "inner.dcm"):
        with pytest.raises(Fault, match=f"{name} is an archive inside an archive"):
            read(zipped({name: inner}))


def test_a_member_with_a_wrong_size_is_refused() -> None:
    content = bytearray(zipped({"a.dcm": bytes(100_000)}))
    position = content.index(b"PK\x01\x02")
    content[position + 24 : position + 28] = struct.pack("<I", 10)
    with pytest.raises(Fault, match=r"a\.dcm is "):
        read(bytes(content))
    content[position + 24 : position + 28] = struct.pack("<I", 100_001)
    with pytest.raises(Fault, match=r"a\.dcm is "):
        read(bytes(content))


def test_overlapping_members_are_refused() -> None:
    content = bytearray(zipped({"a": b"1" * 500, "b": b"1" * 500}, zipfile.ZIP_STORED))
    position = content.index(b"PK\x01\x02")
    content[position + 20 : position + 28] = struct.pack("<II", 5000, 5000)
    with pytest.raises(Fault, match="its files overlap"):
        read(bytes(content))


def test_too_many_members_and_huge_directories_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zip_archive, "MEMBERS", 10)
    with pytest.raises(Fault, match="holds 11 files, more than 10"):
        read(zipped({str(number): b"" for number in range(11)}))
    with pytest.raises(Fault, match="a directory for more than 10 files"):
        read(zipped({str(number): b"" for number in range(1000)}))
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, 0x7FFFFFFF, 0, 0)
    with pytest.raises(Fault, match="a directory for more than"):
        read(b"PK\x03\x04" + bytes(100) + end)


def test_every_truncated_and_every_altered_archive_is_read_or_refused_by_name() -> None:
    content = zipped({"a/one.dcm": bytes(range(256)), "two.dcm": b"2" * 300})
    original = read(content)
    for index in range(len(content)):
        altered = content[:index] + bytes([content[index] ^ 0xFF]) + content[index + 1 :]
        for damaged in (content[:index], altered):
            try:
                files = read(damaged)
            except Fault as fault:
                assert str(fault).startswith("a.zip: ") and "\n" not in str(fault)
            else:
                assert set(files.values()) <= set(original.values())  # a changed time or comment is harmless


def test_a_data_set_is_unpacked_below_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"set/normal/a.dcm": b"1", "set/normal/b.dcm": b"2", "set/.hidden": b"3"}
    (tmp_path / "a.zip").write_bytes(zipped(files))
    (tmp_path / "in").mkdir()
    assert zip_archive.unpack(tmp_path / "a.zip", tmp_path / "in") == 2
    assert (tmp_path / "in/set/normal/b.dcm").read_bytes() == b"2" and not (tmp_path / "in/set/.hidden").exists()
    (tmp_path / "b.zip").write_bytes(zipped({"a": b"1", "a/b": b"2"}))
    (tmp_path / "b").mkdir()
    with pytest.raises(Fault, match="is a file and a folder at once"):
        zip_archive.unpack(tmp_path / "b.zip", tmp_path / "b")
    monkeypatch.setattr("shutil.disk_usage", lambda _path: type("Usage", (), {"free": 1})())
    with pytest.raises(Fault, match="needs 2 bytes unpacked, and 1 are free"):
        zip_archive.unpack(tmp_path / "a.zip", tmp_path / "in")
