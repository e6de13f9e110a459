"""The standalone verifier: every change to a chain or an evidence folder has its own reason."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lineage.record import standalone_verifier

Row = dict[str, Any]


def rehash(row: Row) -> Row:
    """The row with the hash of its columns, as a forger would write it."""
    text = "\n".join(str(row[name]) for name in ("seq", "at", "kind", "subject", "actor", "previous", "payload"))
    return row | {"hash": hashlib.sha256(text.encode()).hexdigest()}


def chain(*payloads: Row, kind: str = "batch.admitted") -> list[Row]:
    """An intact chain with one row per payload."""
    rows: list[Row] = []
    for seq, payload in enumerate(payloads, 1):
        previous = rows[-1]["hash"] if rows else "0" * 64
        stored = json.dumps(payload, separators=(",", ":"))
        rows.append(
            rehash(
                {
                    "seq": seq,
                    "at": f"2026-01-0{seq}T00:00:00Z",
                    "kind": kind,
                    "subject": f"b-{seq}",
                    "actor": "erik",
                    "payload": stored,
                    "previous": previous,
                }
            )
        )
    return rows


@pytest.fixture
def four_events() -> list[Row]:
    """An intact chain of four events."""
    return chain(*({"units": number} for number in range(4)))


def test_an_intact_chain_has_no_reason_and_ends_in_its_last_hash(four_events: list[Row]) -> None:
    assert standalone_verifier.check_chain(four_events, None) == ([], 4, four_events[-1]["hash"])
    assert standalone_verifier.check_chain([], None) == ([], 0, "0" * 64)


@pytest.mark.parametrize("column", ["at", "kind", "subject", "actor", "payload"])
def test_a_changed_column_breaks_the_hash_of_its_event(four_events: list[Row], column: str) -> None:
    four_events[1][column] += "x"
    assert standalone_verifier.check_chain(four_events, None)[0] == ["event 2 was changed after it was written"]


@pytest.mark.parametrize("position", [0, 1, 2])
def test_an_event_rewritten_with_a_new_hash_is_found_by_the_next_event(four_events: list[Row], position: int) -> None:
    four_events[position] = rehash(four_events[position] | {"payload": '{"units":9}'})
    assert standalone_verifier.check_chain(four_events, None)[0] == [
        f"event {position + 2} does not follow the event before it"
    ]


def test_the_first_event_must_follow_the_genesis_hash(four_events: list[Row]) -> None:
    rows = [rehash(four_events[0] | {"previous": "1" * 64})]
    assert standalone_verifier.check_chain(rows, None)[0] == ["event 1 does not follow the event before it"]


@pytest.mark.parametrize(
    ("order", "reasons"),
    [
        ([1, 2, 3], ["event 1 is missing", "event 2 does not follow the event before it"]),
        ([0, 1, 3], ["event 3 is missing", "event 4 does not follow the event before it"]),
        ([0, 1, 1, 2, 3], ["event 3 is missing", "event 2 does not follow the event before it"]),
        ([0, 2, 1, 3], ["event 2 is missing", "event 3 does not follow the event before it"]),
    ],
    ids=["first dropped", "third dropped", "second twice", "two swapped"],
)
def test_dropped_repeated_and_swapped_events_are_named(
    four_events: list[Row], order: list[int], reasons: list[str]
) -> None:
    assert standalone_verifier.check_chain([four_events[position] for position in order], None)[0][:2] == reasons


def test_a_renumbered_chain_does_not_hide_a_dropped_event(four_events: list[Row]) -> None:
    rows = [four_events[0], *(row | {"seq": row["seq"] - 1} for row in four_events[2:])]
    assert "event 2 was changed after it was written" in standalone_verifier.check_chain(rows, None)[0]


@pytest.mark.parametrize("position", [0, 2, 3])
def test_a_noted_head_may_be_any_event_of_the_chain(four_events: list[Row], position: int) -> None:
    assert standalone_verifier.check_chain(four_events, (position + 1, four_events[position]["hash"]))[0] == []


@pytest.mark.parametrize(
    ("seq", "position"), [(1, None), (5, None), (1, 1), (5, 3)], ids=["hash", "both", "number", "later"]
)
def test_a_noted_head_must_match_in_number_and_hash(four_events: list[Row], seq: int, position: int | None) -> None:
    value = "ab" * 32 if position is None else four_events[position]["hash"]
    reasons, _, _ = standalone_verifier.check_chain(four_events, (seq, value))
    assert reasons == [f"event {seq} was noted elsewhere with the hash {value[:12]}…, which is not in this chain"]


MANIFEST = '{"release": "r-1"}'


def _write(folder: Path, rows: list[Row], cited: list[Row], missing: list[str]) -> None:
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "ledger.jsonl").write_text(lines, encoding="utf-8")
    events = [row | {"payload": json.loads(row["payload"])} for row in cited]
    (folder / "evidence.json").write_text(json.dumps({"events": events, "missing": missing}))
    _write_hashes(folder)


def _write_hashes(folder: Path) -> None:
    """Write the list of hashes of all files in the folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "SHA256SUMS")
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder).as_posix()}" for path in files]
    (folder / "SHA256SUMS").write_text("\n".join(sums) + "\n")


@pytest.fixture
def rows() -> list[Row]:
    """Two releases with a manifest each; the second is the cited one."""
    value = hashlib.sha256(MANIFEST.encode()).hexdigest()
    return chain({"manifest_sha256": "0" * 64}, {"manifest_sha256": value}, kind="release.built")


@pytest.fixture
def folder(tmp_path: Path, rows: list[Row]) -> Path:
    """An intact evidence folder: manifest, a page in a sub-folder, two cited events."""
    evidence_folder = tmp_path / "evidence-r-1"
    (evidence_folder / "pages").mkdir(parents=True)
    (evidence_folder / "pages" / "a.txt").write_text("a page")
    (evidence_folder / "manifest.json").write_text(MANIFEST)
    _write(evidence_folder, rows, rows, [])
    return evidence_folder


def test_intact_evidence_passes_and_names_the_head(folder: Path, rows: list[Row]) -> None:
    reason = f"every file is as it was written; 2 events form one chain that ends in {rows[-1]['hash']}"
    assert standalone_verifier.check(folder) == ("pass", [reason])


def test_python_bytecode_is_no_added_file(folder: Path) -> None:
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "verify.cpython-311.pyc").write_bytes(b"code")
    assert standalone_verifier.check(folder)[0] == "pass"


@pytest.mark.parametrize(
    ("change", "reasons"),
    [
        (lambda f: (f / "pages" / "a.txt").write_text("another"), ["pages/a.txt was changed"]),
        (lambda f: (f / "pages" / "a.txt").unlink(), ["pages/a.txt is missing"]),
        (lambda f: (f / "pages" / "b.txt").write_text(""), ["pages/b.txt was added later"]),
        (
            lambda f: (f / "pages" / "a.txt").rename(f / "pages" / "b.txt"),
            ["pages/a.txt is missing", "pages/b.txt was added later"],
        ),
    ],
    ids=["changed", "removed", "added", "renamed"],
)
def test_each_file_is_compared_with_the_list(
    folder: Path, change: Callable[[Path], object], reasons: list[str]
) -> None:
    change(folder)
    assert standalone_verifier.check(folder) == ("fail", reasons)


def test_a_broken_chain_fails_even_with_correct_file_hashes(folder: Path, rows: list[Row]) -> None:
    forged = [rehash(rows[0] | {"actor": "forger"}), rows[1]]
    _write(folder, forged, rows[1:], [])
    assert standalone_verifier.check(folder) == ("fail", ["event 2 does not follow the event before it"])


@pytest.mark.parametrize(
    "changed",
    [{"seq": 9}, {"actor": "forger"}, {"payload": '{"manifest_sha256":"f"}'}, {"hash": "0" * 64}],
    ids=["number", "actor", "payload", "hash"],
)
def test_a_cited_event_must_equal_the_ledgers(folder: Path, rows: list[Row], changed: Row) -> None:
    _write(folder, rows, [rows[0] | changed, rows[1]], [])
    number = changed.get("seq", 1)
    assert standalone_verifier.check(folder) == (
        "fail",
        [f"the evidence cites event {number} differently from the ledger"],
    )


def test_the_manifest_must_be_that_of_the_release_built_last(folder: Path, rows: list[Row]) -> None:
    reason = "manifest.json is not the manifest whose hash the ledger has for this release"
    _write(folder, rows, rows[:1], [])
    assert standalone_verifier.check(folder) == ("fail", [reason])
    (folder / "manifest.json").write_text(MANIFEST + " ")
    _write(folder, rows, rows, [])
    assert standalone_verifier.check(folder) == ("fail", [reason])
    unhashed = chain({}, kind="release.built")
    _write(folder, unhashed, unhashed, [])
    assert standalone_verifier.check(folder) == ("fail", [reason]), (
        "a release event without a hash confirms no manifest"
    )


def test_without_manifest_or_release_nothing_is_compared(folder: Path, rows: list[Row]) -> None:
    admitted = chain({"units": 3})
    _write(folder, admitted, admitted, [])
    assert standalone_verifier.check(folder)[0] == "pass"
    (folder / "manifest.json").unlink()
    _write(folder, rows, rows, [])
    assert standalone_verifier.check(folder)[0] == "pass"


def test_missing_records_are_inconclusive_and_never_hide_a_change(folder: Path, rows: list[Row]) -> None:
    _write(folder, rows, rows, ["the ledger has no verdict on r-1"])
    assert standalone_verifier.check(folder) == ("inconclusive", ["the ledger has no verdict on r-1"])
    (folder / "manifest.json").write_text("")
    assert standalone_verifier.check(folder)[0] == "fail"


def test_a_head_from_elsewhere_must_be_in_the_chain(folder: Path, rows: list[Row]) -> None:
    for row in rows:
        assert standalone_verifier.check(folder, row["hash"])[0] == "pass"
    outcome, reasons = standalone_verifier.check(folder, "f" * 64)
    assert outcome == "fail" and reasons == [f"the chain does not contain the hash {'f' * 64}, which you noted earlier"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("SHA256SUMS", None),
        ("ledger.jsonl", None),
        ("evidence.json", None),
        ("evidence.json", "{"),
        ("evidence.json", '{"events": []}'),
        ("evidence.json", '{"events": 3, "missing": []}'),
        ("evidence.json", '{"events": [], "missing": null}'),
        ("ledger.jsonl", "no json\n"),
        ("ledger.jsonl", '{"seq": 1}\n'),
    ],
)
def test_evidence_that_cannot_be_read_fails(folder: Path, name: str, text: str | None) -> None:
    path = folder / name
    path.unlink()
    if text is not None:
        path.write_text(text)
        _write_hashes(folder)
    outcome, reasons = standalone_verifier.check(folder)
    assert outcome == "fail" and reasons[0].startswith("the evidence can't be read: ")


def test_the_command_prints_outcome_and_reasons_and_returns_the_exit_code(
    folder: Path, rows: list[Row], capsys: pytest.CaptureFixture[str]
) -> None:
    assert standalone_verifier.main([str(folder), "--head", rows[0]["hash"]]) == 0
    assert capsys.readouterr().out.startswith("pass\n  every file is as it was written")
    _write(folder, rows, rows, ["one verdict", "another"])
    assert standalone_verifier.main([str(folder)]) == 4
    assert capsys.readouterr().out == "inconclusive\n  one verdict\n  another\n"
    assert standalone_verifier.main([str(folder), "--head", "f" * 64]) == 3
    assert capsys.readouterr().out.startswith("fail\n  the chain does not contain")


def test_without_an_argument_the_command_checks_its_own_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert standalone_verifier.main([]) == 3, "the source folder is no evidence folder"
    assert str(Path(standalone_verifier.__file__).parent / "SHA256SUMS") in capsys.readouterr().out


def test_the_command_has_a_help_text(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        standalone_verifier.main(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert exit_info.value.code == 0
    for sentence in ("Check release evidence.", "the chain must contain it", "example: python verify.py"):
        assert sentence in text


def test_a_copy_runs_without_oncoloop(folder: Path) -> None:
    (folder / "verify.py").write_bytes(Path(standalone_verifier.__file__).read_bytes())
    command = [sys.executable, "-I", "-S", "-B", "verify.py"]
    process = subprocess.run(command, cwd=folder, capture_output=True, text=True, env={})
    assert (process.returncode, process.stdout) == (3, "fail\n  verify.py was added later\n")
