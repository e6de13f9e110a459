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
from serving.inference.request import Requester, clean_name
from tests.serving.conftest import dicom, manifest


@pytest.fixture
def release(tiny: Path, home: Path) -> Release:
    return load_release(bento_build.assemble(home / "releases" / "r1", manifest(), {"tiny-mr": tiny}))


def test_an_answer_is_journalled_with_its_id_and_account(release: Release) -> None:
    result = answer(release, [Upload("a.dcm", dicom(True))], None, "eve")
    row = journal.get(result["id"])
    assert (row.actor, row.answer, row.at) == ("eve", result["answer"], result["at"])
    assert row.duration_ms == result["duration_ms"] > 0


def test_each_answer_has_its_own_id(release: Release) -> None:
    first, second = (answer(release, [Upload("a.dcm", dicom(True))], "tiny-mr", "eve") for _ in range(2))
    assert first["id"] != second["id"] and first["probabilities"] == second["probabilities"]
    assert journal.count() == 2


def test_a_second_try_of_a_request_gets_the_journalled_answer(release: Release) -> None:
    requester, scan = Requester("eve", idempotency_key="k-1"), [Upload("a.dcm", dicom(True))]
    first, second = (answer(release, scan, None, requester) for _ in range(2))
    assert first == second and journal.count() == 1
    assert journal.get(first["id"]).duration_ms == second["duration_ms"]


def test_a_key_repeats_only_the_same_request_of_the_same_account(release: Release) -> None:
    scan = [Upload("a.dcm", dicom(True))]
    answers = [
        answer(release, scan, None, Requester("eve", idempotency_key="k-1")),
        answer(release, scan, None, Requester("eve", idempotency_key="k-2")),
        answer(release, scan, None, Requester("adam", idempotency_key="k-1")),
        answer(release, [Upload("b.dcm", dicom(False))], None, Requester("eve", idempotency_key="k-1")),
    ]
    assert len({result["id"] for result in answers}) == 4 == journal.count()


def test_only_the_shadow_account_answers_as_a_shadow_and_only_after_a_live_answer(release: Release) -> None:
    scan = [Upload("a.dcm", dicom(True))]
    live = answer(release, scan, None, Requester("eve", live_answer_id="0" * 32))
    assert journal.get(live["id"]).shadows == "", "no other account can hide an answer"
    shadow = answer(release, scan, None, Requester(accounts.SHADOW_ACCOUNT, live_answer_id=live["id"]))
    assert journal.get(shadow["id"]).shadows == live["id"] and journal.count() == 1
    with pytest.raises(Fault, match="only after a live answer"):
        answer(release, scan, None, Requester(accounts.SHADOW_ACCOUNT))


def test_without_a_journal_row_there_is_no_answer(release: Release) -> None:
    with database.engine().begin() as connection:
        connection.execute(sqlalchemy.text("DROP TABLE journal"))
    with pytest.raises(Withheld, match="could not be written to the journal"):
        answer(release, [Upload("a.dcm", dicom(True))], None, "eve")


def test_a_bad_file_is_a_fault_and_not_a_withheld_answer(release: Release) -> None:
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
