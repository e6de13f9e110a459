"""Every file of a folder is there once, passed over, or left out with its reason; links stand for what they lead to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from data.batch.folder_files import complete, survey
from lineage.errors import Fault


def put(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())


def test_what_systems_leave_behind_is_passed_over_and_counted(tmp_path: Path) -> None:
    put(
        tmp_path, "a.dcm", "._a.dcm", ".DS_Store", "p/Thumbs.db", "p/DICOMDIR", "__MACOSX/x/._a", "p/desktop.ini", "p/b"
    )
    found = survey(tmp_path)
    assert found.names == ["a.dcm", "p/b"] and not found.left_out and found.count == 8
    assert found.passed_over["__MACOSX/"] == 1 and len(found.passed_over) == 6


def test_what_cannot_be_read_is_left_out_by_name(tmp_path: Path) -> None:
    put(tmp_path, "a.dcm", "odd\nname.dcm", "back\\slash.dcm")
    (tmp_path / "empty.dcm").touch()
    os.mkfifo(tmp_path / "pipe.dcm")
    found = survey(tmp_path)
    assert found.names == ["a.dcm"] and found.count == 5
    assert found.left_out["empty.dcm"] == "is empty" and found.left_out["pipe.dcm"] == "is no regular file"
    assert found.left_out["'odd\\nname.dcm'"] == found.left_out["back\\slash.dcm"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_named(tmp_path: Path) -> None:
    put(tmp_path, "a.dcm", "p/b.dcm")
    (tmp_path / "a.dcm").chmod(0)
    assert survey(tmp_path).left_out == {"a.dcm": "may not be read"}
    (tmp_path / "p").chmod(0)
    with pytest.raises(Fault, match=r"p: cannot be read"):
        survey(tmp_path)


def test_links_stand_for_what_they_lead_to(tmp_path: Path) -> None:
    put(tmp_path / "disk", "p2/b.dcm", "c.dcm")
    put(tmp_path / "set", "p1/a.dcm", ".git/annex/objects/KEY")
    (tmp_path / "set" / "p2").symlink_to(tmp_path / "disk" / "p2")
    (tmp_path / "set" / "p1" / "c.dcm").symlink_to("../../disk/c.dcm")
    (tmp_path / "set" / "p1" / "annexed.dcm").symlink_to("../.git/annex/objects/KEY")
    found = complete(tmp_path / "set")
    assert found.names == ["p1/a.dcm", "p1/annexed.dcm", "p1/c.dcm", "p2/b.dcm"] and not found.left_out


def test_links_to_what_is_there_already_are_left_out(tmp_path: Path) -> None:
    put(tmp_path, "p1/a.dcm")
    (tmp_path / "p2").symlink_to("p1")
    (tmp_path / "p1" / "again.dcm").symlink_to("a.dcm")
    (tmp_path / "p1" / "up").symlink_to("..")
    found = survey(tmp_path)
    assert found.names == ["p1/a.dcm"]
    assert set(found.left_out) >= {"p2/a.dcm", "p2/again.dcm", "p1/again.dcm", "p1/up"}
    assert found.left_out["p2/a.dcm"] == "is a link to p1/a.dcm, which is there under its own name"
    assert found.left_out["p1/up"] == "is a link to a folder that it lies in"


def test_links_that_lead_nowhere_stop_an_import(tmp_path: Path) -> None:
    put(tmp_path, "p1/a.dcm")
    (tmp_path / "p1" / "b.dcm").symlink_to(".git/annex/objects/KEY")
    (tmp_path / "._b.dcm").symlink_to("nothing")
    with pytest.raises(Fault, match=r"1 links lead nowhere \(p1/b\.dcm\); fetch their content"):
        complete(tmp_path)
    assert survey(tmp_path).left_out == {"p1/b.dcm": "is a link that leads nowhere"}
