"""Judged folders of the inbox are not read again until a file changes; the ledger decides what is judged."""

from __future__ import annotations

import argparse
import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from data.batch import metadata_table
from data.csv_table import CsvTable
from data.phantom import batch as phantom_batch
from data.phantom import scanner
from lineage import fingerprint, paths
from lineage.errors import Fault
from lineage.record import ledger
from lineage.record.events import EventKind
from pipelines import params
from pipelines.commands import ingest as commands_ingest
from pipelines.flows import ingest
from pipelines.workspace import inbox_digests
from tests.pipelines.admissions import run_admission

TASK = "brain-mr"


class ReadCounter:
    """Counts the table reads, and the hashes of each file of the inbox."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tables: Counter[str] = Counter()
        self.hashes: Counter[str] = Counter()
        read_table, file_sha256 = metadata_table.read_table, fingerprint.file_sha256

        def count_table(path: Path, expected: tuple[str, ...]) -> CsvTable:
            self.tables[str(path)] += 1
            return read_table(path, expected)

        def count_hash(path: Path) -> str:
            if "inbox" in path.parts:
                self.hashes[str(path)] += 1
            return file_sha256(path)

        monkeypatch.setattr(metadata_table, "read_table", count_table)
        monkeypatch.setattr(fingerprint, "file_sha256", count_hash)

    def clear(self) -> None:
        self.tables.clear()
        self.hashes.clear()


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> ReadCounter:
    return ReadCounter(monkeypatch)


@pytest.fixture
def inbox(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The inbox with one folder; changes count as old at once, so that no test waits for two seconds."""
    monkeypatch.setattr(inbox_digests, "SETTLING", 0)
    write_batch("first", 60)
    return workspace / "inbox"


def write_batch(name: str, seed: int) -> None:
    task = params.load().tasks[TASK]
    phantom_batch.write_batch(Path("inbox", name), task, 2, scanner.SCANNERS["alder-mr"], seed, 1, masks=True)


def record_judgement(kind: str = "batch.quarantined") -> None:
    """Record in the ledger that every unjudged batch was judged."""
    for batch in ingest.unjudged_batches(None):
        ledger.append(kind, batch.name, {"task": TASK, "batch": batch.name, "digest": batch.digest})


def test_one_ingest_reads_the_table_once_and_hashes_each_file_once(workspace: Path, counter: ReadCounter) -> None:
    """The whole command, with its flow: examination compares the bytes that it reads with the same hashes."""
    write_batch("first", 60)
    files = {str(path) for path in Path("inbox/first").rglob("*") if path.is_file()}
    answer = commands_ingest.ingest(argparse.Namespace(folder=None, again=False))
    assert [batch["batch"] for batch in answer.result["batches"]] == ["first"], answer.text
    assert counter.tables == {"inbox/first/metadata.csv": 1}
    assert counter.hashes == dict.fromkeys(files, 1)


def test_a_second_look_at_an_unchanged_inbox_reads_nothing(inbox: Path, counter: ReadCounter) -> None:
    record_judgement()
    write_batch("second", 61)
    record_judgement()
    counter.clear()
    assert ingest.unjudged_batches(None) == []
    assert not counter.tables and not counter.hashes


def test_an_unjudged_folder_is_read_again_each_time(inbox: Path) -> None:
    first, second = ingest.unjudged_batches(None), ingest.unjudged_batches(None)
    assert [batch.digest for batch in first] == [batch.digest for batch in second] != []


def flip_last_byte(folder: Path) -> None:
    path = next(folder.glob("*.nii.gz"))
    content, facts = path.read_bytes(), path.stat()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))


def change_label(folder: Path) -> None:
    table = (folder / "metadata.csv").read_text()
    (folder / "metadata.csv").write_text(table.replace("no_tumour", "tumour"))


@pytest.mark.parametrize("change", [flip_last_byte, change_label])
def test_a_changed_folder_is_a_new_batch(inbox: Path, change: Callable[[Path], None]) -> None:
    record_judgement()
    assert ingest.unjudged_batches(None) == []
    change(inbox / "first")
    assert [batch.name for batch in ingest.unjudged_batches(None)] == ["first"]


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: os.utime(folder / "metadata.csv", (0, 0)),
        lambda folder: (folder / "note.txt").write_text("x"),
    ],
)
def test_a_touched_folder_is_hashed_again_and_stays_judged(
    inbox: Path, counter: ReadCounter, change: Callable[[Path], None]
) -> None:
    record_judgement()
    change(inbox / "first")
    counter.clear()
    assert ingest.unjudged_batches(None) == [] and counter.hashes
    counter.clear()
    assert ingest.unjudged_batches(None) == [] and not counter.hashes


def test_a_removed_file_makes_the_folder_broken(inbox: Path) -> None:
    record_judgement()
    next((inbox / "first").glob("*.nii.gz")).unlink()
    reasons: dict[str, str] = {}
    assert ingest.unjudged_batches(None, broken=reasons) == []
    assert "1 files that metadata.csv names are not there" in reasons["first"]


def test_a_folder_whose_task_was_removed_from_the_settings_is_reported(inbox: Path) -> None:
    record_judgement()
    record = params.raw()
    del record["tasks"][TASK]
    Path(params.NAME).write_text(yaml.safe_dump(record), encoding="utf-8")
    reasons: dict[str, str] = {}
    assert ingest.unjudged_batches(None, broken=reasons) == [] and "the task in its metadata.csv" in reasons["first"]


def test_again_judges_quarantined_batches_whatever_is_remembered(inbox: Path) -> None:
    record_judgement()
    assert ingest.unjudged_batches(None) == []
    assert [batch.name for batch in ingest.unjudged_batches(None, again=True)] == ["first"]
    assert ingest.unjudged_batches(None) == []


def test_a_batch_that_the_ledger_does_not_know_is_read_whatever_is_remembered(inbox: Path) -> None:
    record_judgement()
    remembered = inbox_digests.read_digests()
    inbox_digests.write_digests({"first": inbox_digests.FolderDigest(remembered["first"].signature, TASK, "0" * 64)})
    assert ingest.unjudged_batches(None) == []  # hashed again: the ledger names its true digest
    assert inbox_digests.read_digests() == remembered


def test_a_folder_that_was_written_a_moment_ago_is_not_remembered(
    inbox: Path, counter: ReadCounter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox_digests, "SETTLING", 3600 * 10**9)
    record_judgement()
    assert inbox_digests.read_digests() == {}
    counter.clear()
    assert ingest.unjudged_batches(None) == [] and counter.hashes


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff", b"[]", b'{"first": 1}', b'{"first": {"digest": 1, "signature": 1, "task": 1}}']
)
def test_an_unusable_file_of_digests_is_ignored_and_replaced(inbox: Path, content: bytes) -> None:
    record_judgement()
    remembered, path = inbox_digests.read_digests(), paths.state_path(inbox_digests.NAME)
    path.write_bytes(content)
    assert inbox_digests.read_digests() == {}
    assert ingest.unjudged_batches(None) == [] and inbox_digests.read_digests() == remembered != {}
    path.unlink()
    assert ingest.unjudged_batches(None) == [] and inbox_digests.read_digests() == remembered


def test_a_removed_folder_is_forgotten_and_no_file_is_named(inbox: Path) -> None:
    record_judgement()
    text = paths.state_path(inbox_digests.NAME).read_text()
    assert "first" in text and ".nii.gz" not in text
    shutil.rmtree(inbox / "first")
    assert ingest.unjudged_batches(None) == [] and inbox_digests.read_digests() == {}


def test_batches_that_changed_while_the_run_waited_are_read_again(inbox: Path, counter: ReadCounter) -> None:
    batches = ingest.unjudged_batches(None)
    shutil.rmtree(inbox / "first")
    assert ingest.ingest(batches=batches) == []
    with pytest.raises(Fault, match="does not exist"):
        ingest.ingest("inbox/first", batches=batches)


def test_batches_that_were_judged_while_the_run_waited_are_not_judged_twice(inbox: Path) -> None:
    batches = ingest.unjudged_batches(None)
    run_admission("first")
    assert ingest.ingest(batches=batches) == []
    assert len(ledger.events(kind=EventKind.BATCH_ADMITTED)) == 1
