"""Evidence of a release: all records behind it, in a folder that can be verified without Oncoloop."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lineage.audit import trace
from lineage.errors import Fault
from lineage.fingerprint import canonical, file_sha256, hash_folder
from lineage.keys import sign
from lineage.paths import home
from lineage.record import database, ledger, standalone_verifier
from lineage.record.events import EventKind

SUMMARY = """\
Evidence of the release {release}, written {at}

  manifest.json   what is served: classes, preprocessing, thresholds, metrics, hashes
  evidence.json   the events behind the release: batches, versions, verdicts, approvals, the release itself
  ledger.jsonl    the complete ledger as stored, one event per line, up to {head}
  SHA256SUMS      the hash of every file in this folder
  verify.py       verifies all files with Python's standard library alone: python verify.py

Research use only. Not a medical device, not for clinical decisions.

{verdicts}
"""


def write(release_id: str, folder: Path) -> Path:
    """Write the evidence of a release into `folder`/evidence-<release>; that folder.

    Fault if the ledger has no such release, or the evidence folder exists already.
    """
    if not ledger.events(EventKind.RELEASE_BUILT, release_id):
        raise Fault(f"the ledger has no release {release_id!r}; `oncoloop status` lists the releases")
    target = folder / f"evidence-{release_id}"
    if target.exists():
        raise Fault(f"{target} exists already; name another folder, evidence is never written over")
    new_folder = folder / f".evidence-{release_id}.new"
    shutil.rmtree(new_folder, ignore_errors=True)
    new_folder.mkdir(parents=True)
    _write_files(new_folder, release_id)
    new_folder.rename(target)
    return target


def _write_files(folder: Path, release: str) -> None:
    missing: list[str] = []
    manifest = home() / "releases" / release / "manifest.json"
    if manifest.is_file():
        shutil.copyfile(manifest, folder / "manifest.json")
    else:
        missing.append(f"the manifest of {release} is not among the releases that are kept")
    events = _events(release)
    missing += _missing_verdicts(release, events)
    verdict = ledger.verify()
    (folder / "evidence.json").write_text(
        canonical(
            {
                "release": release,
                "written_at": database.now(),
                "events": [asdict(event) for event in events],
                "missing": missing,
                "ledger": verdict.to_dict(),
            }
        )
        + "\n"
    )
    _write_ledger(folder / "ledger.jsonl")
    shutil.copyfile(str(standalone_verifier.__file__), folder / "verify.py")
    (folder / "README.txt").write_text(_summary(release, events, str(verdict.figures["head"])))
    sums = "".join(f"{value}  {name}\n" for name, value in hash_folder(folder).items())
    (folder / standalone_verifier.SUMS).write_text(sums)
    ledger.append(
        EventKind.EVIDENCE_WRITTEN,
        release,
        {"sums_sha256": file_sha256(folder / standalone_verifier.SUMS), "signature": sign(sums.encode())},
    )


def _events(release: str) -> list[ledger.Event]:
    """The events of all subjects behind a release, in the ledger's order."""
    events = {event.seq: event for subject in trace.subjects(release) for event in ledger.events(subject=subject)}
    return [events[seq] for seq in sorted(events)]


def _missing_verdicts(release: str, events: list[ledger.Event]) -> list[str]:
    """A sentence for every subject without its verdict."""
    judged = {event.subject for event in events if event.kind == EventKind.VERDICT}
    tasks = {
        task for event in events if event.kind == EventKind.RELEASE_BUILT for task in event.payload.get("tasks", {})
    }
    names = [name for name in trace.subjects(release) if name not in tasks]
    return [f"the ledger has no verdict on {name}" for name in names if name not in judged]


def _write_ledger(path: Path) -> None:
    with path.open("w") as stream:
        stream.writelines(canonical(row) + "\n" for row in ledger.stored_rows())


def _summary(release: str, events: list[ledger.Event], head: str) -> str:
    lines = [
        _verdict_line(event.at, event.subject, event.payload) for event in events if event.kind == EventKind.VERDICT
    ]
    return SUMMARY.format(release=release, at=database.now(), head=head, verdicts="\n".join(lines))


def _verdict_line(at: str, subject: str, payload: dict[str, Any]) -> str:
    return f"{at}  {payload['gate']} gate on {subject}: {payload['outcome']} - {'; '.join(payload['reasons'])}"
