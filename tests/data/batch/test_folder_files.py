"""Every file of a folder is listed once, passed over, or left out with a reason; links count as their targets."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from data.batch.folder_files import survey_complete_folder, survey_folder
from lineage.errors import Fault


def write_files(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())


def test_system_files_are_passed_over_and_counted(tmp_path: Path) -> None:
    write_files(
        tmp_path, "a.dcm", "._a.dcm", ".DS_Store", "p/Thumbs.db", "p/DICOMDIR", "__MACOSX/x/._a", "p/desktop.ini", "p/b"
    )
    files = survey_folder(tmp_path)
    assert files.names == ["a.dcm", "p/b"] and not files.left_out and files.count == 8
    assert files.passed_over["__MACOSX/"] == 1 and len(files.passed_over) == 6


def test_unreadable_files_are_left_out_by_name(tmp_path: Path) -> None:
    write_files(tmp_path, "a.dcm", "odd\nname.dcm", "back\\slash.dcm")
    (tmp_path / "empty.dcm").touch()
    os.mkfifo(tmp_path / "pipe.dcm")
    files = survey_folder(tmp_path)
    assert files.names == ["a.dcm"] and files.count == 5
    assert files.left_out["empty.dcm"] == "is empty" and files.left_out["pipe.dcm"] == "is no regular file"
    assert files.left_out["'odd\\nname.dcm'"] == files.left_out["back\\slash.dcm"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_files_without_permission_are_named(tmp_path: Path) -> None:
    write_files(tmp_path, "a.dcm", "p/b.dcm")
    (tmp_path / "a.dcm").chmod(0)
    assert survey_folder(tmp_path).left_out == {"a.dcm": "may not be read"}
    (tmp_path / "p").chmod(0)
    with pytest.raises(Fault, match=r"p: cannot be read"):
        survey_folder(tmp_path)


def test_links_count_as_their_targets(tmp_path: Path) -> None:
    write_files(tmp_path / "disk", "p2/b.dcm", "c.dcm")
    write_files(tmp_path / "set", "p1/a.dcm", ".git/annex/objects/KEY")
    (tmp_path / "set" / "p2").symlink_to(tmp_path / "disk" / "p2")
    (tmp_path / "set" / "p1" / "c.dcm").symlink_to("../../disk/c.dcm")
    (tmp_path / "set" / "p1" / "annexed.dcm").symlink_to("../.git/annex/objects/KEY")
    files = survey_complete_folder(tmp_path / "set")
    assert files.names == ["p1/a.dcm", "p1/annexed.dcm", "p1/c.dcm", "p2/b.dcm"] and not files.left_out


def test_links_to_listed_files_are_left_out(tmp_path: Path) -> None:
    write_files(tmp_path, "p1/a.dcm")
    (tmp_path / "p2").symlink_to("p1")
    (tmp_path / "p1" / "again.dcm").symlink_to("a.dcm")
    (tmp_path / "p1" / "up").symlink_to("..")
    files = survey_folder(tmp_path)
    assert files.names == ["p1/a.dcm"]
    assert set(files.left_out) >= {"p2/a.dcm", "p2/again.dcm", "p1/again.dcm", "p1/up"}
    assert files.left_out["p2/a.dcm"] == "is a link to p1/a.dcm, which is there under its own name"
    assert files.left_out["p1/up"] == "is a link to a folder that contains it"


def test_broken_links_stop_an_import(tmp_path: Path) -> None:
    write_files(tmp_path, "p1/a.dcm")
    (tmp_path / "p1" / "b.dcm").symlink_to(".git/annex/objects/KEY")
    (tmp_path / "._b.dcm").symlink_to("nothing")
    with pytest.raises(Fault, match=r"1 links lead nowhere \(p1/b\.dcm\); fetch their content"):
        survey_complete_folder(tmp_path)
    assert survey_folder(tmp_path).left_out == {"p1/b.dcm": "is a link that leads nowhere"}
