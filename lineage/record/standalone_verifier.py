"""Verifies a ledger chain and release evidence with Python's standard library alone.

A copy is in every evidence folder: `python verify.py`. It imports nothing of Oncoloop, so that an auditor need not
trust the software that wrote the evidence.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

GENESIS = "0" * 64
SUMS = "SHA256SUMS"
COLUMNS = ("seq", "at", "kind", "subject", "actor", "previous", "payload")
EXIT_CODES = {"pass": 0, "fail": 3, "inconclusive": 4}


def hashed_text(row: dict[str, Any]) -> str:
    """The text whose SHA-256 is an event's hash: the other columns as stored, one per line, payload last."""
    return "\n".join(str(row[name]) for name in COLUMNS)


def check_chain(rows: Iterable[dict[str, Any]], noted: tuple[int, str] | None) -> tuple[list[str], int, str]:
    """Reasons why a chain is broken (empty if it is intact), the number of its events, and the last hash.

    `noted` is a sequence number and hash that were noted elsewhere: the chain must contain them.
    """
    reasons: list[str] = []
    count, previous_hash, previous_seq, contains_noted = 0, GENESIS, 0, noted is None
    for row in rows:
        count += 1
        if row["seq"] != previous_seq + 1:
            reasons.append(f"event {previous_seq + 1} is missing")
        if row["previous"] != previous_hash:
            reasons.append(f"event {row['seq']} does not follow the event before it")
        if hashlib.sha256(hashed_text(row).encode()).hexdigest() != row["hash"]:
            reasons.append(f"event {row['seq']} was changed after it was written")
        contains_noted = contains_noted or (row["seq"], row["hash"]) == noted
        previous_seq, previous_hash = row["seq"], row["hash"]
    if noted and not contains_noted:
        reasons.append(
            f"event {noted[0]} was noted elsewhere with the hash {noted[1][:12]}…, which is not in this chain"
        )
    return reasons, count, previous_hash


def check(folder: Path, head: str | None = None) -> tuple[str, list[str]]:
    """The outcome (pass, fail, inconclusive) and the reasons, for an evidence folder.

    `head` is the hash of any event that the reader noted earlier or got from someone else.
    """
    try:
        problems = _file_problems(folder)
        with (folder / "ledger.jsonl").open(encoding="utf-8") as stream:
            rows = [json.loads(line) for line in stream]
        evidence = json.loads((folder / "evidence.json").read_text(encoding="utf-8"))
        broken, count, last = check_chain(rows, None)
        problems += broken + _citation_problems(rows, evidence, folder)
        missing = list(evidence["missing"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        return "fail", [f"the evidence can't be read: {type(error).__name__}: {error}"]
    if head and head not in {row["hash"] for row in rows}:
        problems.append(f"the chain does not contain the hash {head}, which you noted earlier")
    if problems:
        return "fail", problems
    if missing:
        return "inconclusive", missing
    return "pass", [f"every file is as it was written; {count} events form one chain that ends in {last}"]


def _file_problems(folder: Path) -> list[str]:
    """A sentence for each file that differs from the list of hashes, is missing, or is not on the list."""
    lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
    listed_hashes = {name: hash_value for hash_value, _, name in (line.partition("  ") for line in lines)}
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    files.pop(SUMS)
    problems = [f"{name} is missing" for name in sorted(listed_hashes.keys() - files.keys())]
    problems += [
        f"{name} was added later" for name in sorted(files.keys() - listed_hashes.keys()) if "__pycache__" not in name
    ]
    for name in sorted(listed_hashes.keys() & files.keys()):
        if hashlib.sha256(files[name].read_bytes()).hexdigest() != listed_hashes[name]:
            problems.append(f"{name} was changed")
    return problems


def _citation_problems(rows: list[dict[str, Any]], evidence: dict[str, Any], folder: Path) -> list[str]:
    """A sentence for each cited event that differs from the ledger, and for a manifest that is not the released one."""
    stored = {row["seq"]: row for row in rows}
    problems = [
        f"the evidence cites event {event['seq']} differently from the ledger"
        for event in evidence["events"]
        if event["seq"] not in stored
        or {**stored[event["seq"]], "payload": json.loads(stored[event["seq"]]["payload"])} != event
    ]
    manifest = folder / "manifest.json"
    built = [event for event in evidence["events"] if event["kind"] == "release.built"]
    if manifest.exists() and built:
        manifest_hash = hashlib.sha256(manifest.read_bytes()).hexdigest()
        if manifest_hash != built[-1]["payload"].get("manifest_sha256"):
            problems.append("manifest.json is not the manifest whose hash the ledger has for this release")
    return problems


def main(arguments: list[str] | None = None) -> int:
    """Check the folder of this file, or another one; the exit code: 0 pass, 3 fail, 4 inconclusive."""
    parser = argparse.ArgumentParser(description="Check release evidence.", epilog="example: python verify.py")
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).resolve().parent)
    parser.add_argument("--head", help="the hash of an event that you noted earlier; the chain must contain it")
    options = parser.parse_args(arguments)
    outcome, reasons = check(options.folder, options.head)
    sys.stdout.write("\n".join([outcome, *(f"  {reason}" for reason in reasons)]) + "\n")
    return EXIT_CODES[outcome]


if __name__ == "__main__":
    sys.exit(main())
