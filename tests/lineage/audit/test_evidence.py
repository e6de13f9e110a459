"""Evidence can be verified with Python alone, and every change to it is found."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lineage import keys
from lineage.audit import evidence
from lineage.errors import Fault
from lineage.fingerprint import file_sha256
from lineage.record import ledger, standalone_verifier
from lineage.record.events import EventKind


@pytest.fixture
def folder(released: Path, tmp_path: Path) -> Path:
    """The evidence of a release."""
    return evidence.write("r-1", tmp_path / "audit")


def _run_verifier(folder: Path, *arguments: str) -> tuple[int, str]:
    """Run verify.py with Python alone; its exit code and output."""
    command = [sys.executable, "-I", "-S", "-B", "verify.py", *arguments]
    process = subprocess.run(command, cwd=folder, capture_output=True, text=True, env={})
    return process.returncode, process.stdout + process.stderr


def _rewrite_hashes(folder: Path) -> None:
    """Rewrite the list of hashes, as a forger would."""
    names = [line.partition("  ")[2] for line in (folder / "SHA256SUMS").read_text().splitlines()]
    (folder / "SHA256SUMS").write_text("".join(f"{file_sha256(folder / name)}  {name}\n" for name in names))


def test_evidence_can_be_verified_without_oncoloop(folder: Path) -> None:
    assert folder.name == "evidence-r-1"
    assert {path.name for path in folder.iterdir()} == {
        "manifest.json",
        "evidence.json",
        "ledger.jsonl",
        "README.txt",
        "SHA256SUMS",
        "verify.py",
    }
    code, text = _run_verifier(folder)
    assert code == 0, text
    assert text.startswith("pass\n")


def test_evidence_contains_every_event_behind_the_release(folder: Path) -> None:
    content = json.loads((folder / "evidence.json").read_text())
    assert content["missing"] == [] and content["ledger"]["outcome"] == "pass"
    assert [event["kind"] for event in content["events"]] == [
        "batch.admitted",
        "verdict",
        "model.logged",
        "verdict",
        "approval",
        "model.promoted",
        "anchor.set",
        "release.built",
        "verdict",
        "release.activated",
    ]
    text = (folder / "README.txt").read_text()
    assert "training gate on lung-ct/1: inconclusive" in text and "Research use only" in text


def test_the_ledger_records_and_signs_the_hashes_of_written_evidence(folder: Path) -> None:
    event = ledger.events(EventKind.EVIDENCE_WRITTEN, "r-1")[0]
    assert event.payload["sums_sha256"] == file_sha256(folder / "SHA256SUMS")
    assert keys.verify_signature((folder / "SHA256SUMS").read_bytes(), event.payload["signature"])


def _replace_text(name: str, old: str, new: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text((folder / name).read_text().replace(old, new))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_replace_text("manifest.json", "r-1", "r-2"), "manifest.json was changed"),
        (_replace_text("README.txt", "inconclusive", "pass"), "README.txt was changed"),
        (lambda folder: (folder / "manifest.json").unlink(), "manifest.json is missing"),
        (lambda folder: (folder / "more.txt").write_text(""), "more.txt was added later"),
        (lambda folder: (folder / "evidence.json").write_text("{"), "can't be read"),
        (lambda folder: (folder / "SHA256SUMS").unlink(), "can't be read"),
    ],
)
def test_a_changed_file_is_named(folder: Path, change: Callable[[Path], object], reason: str) -> None:
    change(folder)
    code, text = _run_verifier(folder)
    assert code == 3 and reason in text, text


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_replace_text("ledger.jsonl", "few patients", "many patients"), "was changed after it was written"),
        (_replace_text("evidence.json", "few patients", "many patients"), "cites event 7 differently"),
        (_replace_text("manifest.json", "r-1", "r-2"), "not the manifest whose hash"),
        (
            lambda f: (f / "ledger.jsonl").write_text("".join((f / "ledger.jsonl").open().readlines()[1:])),
            "event 1 is missing",
        ),
    ],
)
def test_a_change_is_found_even_if_the_hashes_were_rewritten(
    folder: Path, change: Callable[[Path], object], reason: str
) -> None:
    change(folder)
    _rewrite_hashes(folder)
    code, text = _run_verifier(folder)
    assert code == 3 and reason in text, text


def test_a_hash_noted_earlier_must_be_in_the_chain(folder: Path) -> None:
    noted = ledger.events()[2].hash
    assert _run_verifier(folder, "--head", noted)[0] == 0
    code, text = _run_verifier(folder, "--head", "0" * 64)
    assert code == 3 and "which you noted earlier" in text


def test_missing_records_are_reported_as_inconclusive(released: Path, tmp_path: Path) -> None:
    (released / "manifest.json").unlink()
    ledger.append(EventKind.RELEASE_BUILT, "r-2", {"tasks": {"lung-ct": "5"}, "manifest_sha256": "?"})
    folder = evidence.write("r-2", tmp_path)
    code, text = _run_verifier(folder)
    assert code == 4 and text.startswith("inconclusive")
    assert "the manifest of r-2" in text and "no verdict on lung-ct/5" in text and "no verdict on r-2" in text


def test_existing_evidence_is_not_overwritten(folder: Path) -> None:
    with pytest.raises(Fault, match="exists already"):
        evidence.write("r-1", folder.parent)
    with pytest.raises(Fault, match="no release 'r-9'"):
        evidence.write("r-9", folder.parent)


def test_an_empty_chain_has_no_reasons_unless_a_head_was_noted() -> None:
    rows: list[dict[str, object]] = []
    assert standalone_verifier.check_chain(rows, None) == ([], 0, standalone_verifier.GENESIS)
    assert "noted elsewhere" in standalone_verifier.check_chain(rows, (1, "ab" * 32))[0][0]
