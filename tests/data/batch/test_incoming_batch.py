"""An incoming batch is read once, and the state of its folder shows every change of a file."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from data.batch.folder_files import folder_state
from data.batch.incoming_batch import read_incoming_batch
from data.batch.manifest import index_batch, index_incoming
from data.core_types import Task
from lineage.errors import Fault

Row = dict[str, str]
Edit = Callable[[Callable[[list[Row]], object]], None]


def append_byte(folder: Path) -> None:
    with next(folder.glob("*.dcm")).open("ab") as stream:
        stream.write(b"\0")


def overwrite_in_place(folder: Path) -> None:
    path = next(folder.glob("*.dcm"))
    content, facts = path.read_bytes(), path.stat()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))


def touch(folder: Path) -> None:
    os.utime(folder / "metadata.csv", (0, 0))


def add_file(folder: Path) -> None:
    (folder / "deep").mkdir()
    (folder / "deep" / "new.png").write_bytes(b"x")


def rename_file(folder: Path) -> None:
    next(folder.glob("*.dcm")).rename(folder / "renamed.dcm")


def replace_by_link(folder: Path) -> None:
    path = next(folder.glob("*.dcm"))
    path.rename(folder.parent / path.name)
    path.symlink_to(folder.parent / path.name)


CHANGES = (
    append_byte,
    overwrite_in_place,
    touch,
    add_file,
    rename_file,
    replace_by_link,
    lambda folder: next(folder.glob("*.dcm")).unlink(),
)


@pytest.mark.parametrize("change", CHANGES)
def test_every_kind_of_change_shows_in_the_state_of_a_folder(
    batch: Path, lung: Task, change: Callable[[Path], None]
) -> None:
    incoming = read_incoming_batch(batch, {lung.name: lung})
    assert incoming.is_unchanged() and folder_state(batch) == incoming.state
    change(batch)
    assert not incoming.is_unchanged() and folder_state(batch).signature != incoming.state.signature


def test_the_state_of_a_folder_does_not_depend_on_its_name(batch: Path) -> None:
    before = folder_state(batch)
    assert folder_state(batch.rename(batch.with_name("renamed"))).signature == before.signature


def test_an_incoming_batch_has_task_table_remarks_and_hashes(batch: Path, lung: Task, tmp_path: Path) -> None:
    (batch / "report.pdf").write_bytes(b"x")
    incoming = read_incoming_batch(batch, {lung.name: lung})
    assert (incoming.name, incoming.task, incoming.is_correction) == (batch.name, lung, False)
    assert len(incoming.table) == 12 and set(incoming.scan_hashes) == set(incoming.table["file_name"])
    assert [text for text in incoming.remarks if "were left out: 1 .pdf" in text]
    indexed = index_incoming(incoming, tmp_path / "incoming")
    assert indexed.digest == incoming.digest == index_batch(batch, tmp_path / "folder", lung).digest


def test_its_text_names_no_patient_and_no_file(batch: Path, edit: Edit, lung: Task) -> None:
    def name_patient(rows: list[Row]) -> None:
        for row in rows:
            row["patient_id"] = "Quillfeather"

    edit(name_patient)
    text = repr(read_incoming_batch(batch, {lung.name: lung}))
    assert "Quillfeather" not in text and ".dcm" not in text


def test_a_scan_that_changes_before_it_is_indexed_stops_the_batch(batch: Path, lung: Task, tmp_path: Path) -> None:
    incoming = read_incoming_batch(batch, {lung.name: lung})
    append_byte(batch)
    with pytest.raises(Fault, match="1 files of the folder changed while the batch was judged"):
        index_incoming(incoming, tmp_path / "incoming")


def test_a_folder_that_is_missing_or_of_another_task_is_no_batch(batch: Path, brain: Task) -> None:
    with pytest.raises(Fault, match="does not exist"):
        read_incoming_batch(batch / "nothing", {brain.name: brain})
    with pytest.raises(Fault, match=f"the task in its metadata.csv is none of {brain.name}"):
        read_incoming_batch(batch, {brain.name: brain})
