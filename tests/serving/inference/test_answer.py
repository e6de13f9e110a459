from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy

from lineage import accounts
from lineage.errors import Fault
from lineage.record import database, journal
from serving.bundle import bento_build
from serving.inference.answer import Withheld, answer
from serving.inference.predict import Upload
from serving.inference.release import Release, load_release
from serving.inference.request import Asker, clean_name
from tests.serving.conftest import dicom, manifest


@pytest.fixture
def release(tiny: Path, home: Path) -> Release:
    return load_release(bento_build.assemble(home / "releases" / "r1", manifest(), {"tiny-mr": tiny}))


def test_an_answer_is_journalled_under_its_id_and_who_asked(release: Release) -> None:
    said = answer(release, [Upload("a.dcm", dicom(True))], None, "eve")
    kept = journal.get(said["id"])
    assert (kept["actor"], kept["answer"], kept["at"]) == ("eve", said["answer"], said["at"])
    assert kept["duration_ms"] == said["duration_ms"] > 0


def test_each_answer_has_an_id_of_its_own(release: Release) -> None:
    first, second = (answer(release, [Upload("a.dcm", dicom(True))], "tiny-mr", "eve") for _ in range(2))
    assert first["id"] != second["id"] and first["probabilities"] == second["probabilities"]
    assert journal.count() == 2


def test_a_second_try_of_a_request_is_told_what_the_first_wrote_down(release: Release) -> None:
    asker, scan = Asker("eve", key="k-1"), [Upload("a.dcm", dicom(True))]
    first, second = (answer(release, scan, None, asker) for _ in range(2))
    assert first == second and journal.count() == 1
    assert journal.get(first["id"])["duration_ms"] == second["duration_ms"]


def test_a_key_ties_nothing_but_the_same_request_of_the_same_account(release: Release) -> None:
    scan = [Upload("a.dcm", dicom(True))]
    told = [
        answer(release, scan, None, Asker("eve", key="k-1")),
        answer(release, scan, None, Asker("eve", key="k-2")),
        answer(release, scan, None, Asker("adam", key="k-1")),
        answer(release, [Upload("b.dcm", dicom(False))], None, Asker("eve", key="k-1")),
    ]
    assert len({said["id"] for said in told}) == 4 == journal.count()


def test_a_shadow_answers_behind_an_answer_and_only_in_its_own_name(release: Release) -> None:
    scan = [Upload("a.dcm", dicom(True))]
    live = answer(release, scan, None, Asker("eve", shadows="0" * 32))
    assert journal.get(live["id"])["shadows"] == "", "nobody else can hide an answer"
    dark = answer(release, scan, None, Asker(accounts.SHADOW_ACCOUNT, shadows=live["id"]))
    assert journal.get(dark["id"])["shadows"] == live["id"] and journal.count() == 1
    with pytest.raises(Fault, match="only behind another answer"):
        answer(release, scan, None, Asker(accounts.SHADOW_ACCOUNT))


def test_no_row_no_answer(release: Release) -> None:
    with database.engine().begin() as connection:
        connection.execute(sqlalchemy.text("DROP TABLE journal"))
    with pytest.raises(Withheld, match="could not be written to the journal"):
        answer(release, [Upload("a.dcm", dicom(True))], None, "eve")


def test_what_is_wrong_with_a_file_is_no_withheld_answer(release: Release) -> None:
    with pytest.raises(Fault, match=r"junk\.dcm") as caught:
        answer(release, [Upload("junk.dcm", b"x")], None, "eve")
    assert not isinstance(caught.value, Withheld) and journal.count() == 0


@pytest.mark.parametrize(
    ("name", "cleaned"),
    [
        ("a.dcm", "a.dcm"),
        ("../../etc/passwd", "passwd"),
        (r"C:\scans\b.dcm", "b.dcm"),
        ("a\0b\r\nc.png", "abc.png"),
        ("", "upload"),
        ("/", "upload"),
        ("x" * 99 + ".nii.gz", "x" * 53 + ".nii.gz"),
    ],
)
def test_a_senders_file_name_is_made_safe(name: str, cleaned: str) -> None:
    assert clean_name(name) == cleaned
