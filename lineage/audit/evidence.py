"""Evidence: all that stands behind one release, in a folder that anybody can check without Oncoloop."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lineage.audit import trace
from lineage.errors import Fault
from lineage.fingerprint import canonical, file_sha256, tree
from lineage.keys import sign
from lineage.paths import home
from lineage.record import database, evidence_check, ledger

SUMMARY = """\
Evidence of the release {release}, written {at}

  manifest.json   what is served: classes, preprocessing, thresholds, metrics, hashes
  evidence.json   the events that stand behind it: batches, versions, verdicts, approvals, the release itself
  ledger.jsonl    the whole ledger as stored, one event on each line, up to {head}
  SHA256SUMS      the hash of every file here
  verify.py       checks all of it with Python's standard library alone: python verify.py

Research use only. Not a medical device, not for clinical decisions.

{verdicts}
"""


def write(release_id: str, folder: Path) -> Path:
    """Write the evidence of a release into `folder`/evidence-<release>; the folder that was made.

    Fault if the ledger does not know the release, or the evidence was written there already.
    """
    if not ledger.events("release.built", release_id):
        raise Fault(f"the ledger has no release {release_id!r}; `oncoloop status` lists the releases")
    target = folder / f"evidence-{release_id}"
    if target.exists():
        raise Fault(f"{target} exists already; name another folder, evidence is never written over")
    fresh = folder / f".evidence-{release_id}.new"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    _fill(fresh, release_id)
    fresh.rename(target)
    return target


def _fill(folder: Path, release: str) -> None:
    missing: list[str] = []
    manifest = home() / "releases" / release / "manifest.json"
    if manifest.is_file():
        shutil.copyfile(manifest, folder / "manifest.json")
    else:
        missing.append(f"the manifest of {release} is not among the releases that are kept")
    events = _events(release)
    missing += _gaps(release, events)
    record = ledger.verify()
    (folder / "evidence.json").write_text(
        canonical(
            {
                "release": release,
                "written_at": database.now(),
                "events": [asdict(event) for event in events],
                "missing": missing,
                "ledger": record.to_dict(),
            }
        )
        + "\n"
    )
    _write_ledger(folder / "ledger.jsonl")
    shutil.copyfile(str(evidence_check.__file__), folder / "verify.py")
    (folder / "README.txt").write_text(_summary(release, events, str(record.figures["head"])))
    sums = "".join(f"{value}  {name}\n" for name, value in tree(folder).items())
    (folder / evidence_check.SUMS).write_text(sums)
    ledger.append(
        "evidence.written",
        release,
        {"sums_sha256": file_sha256(folder / evidence_check.SUMS), "signature": sign(sums.encode())},
    )


def _events(release: str) -> list[ledger.Event]:
    """The events about everything that stands behind a release, in the ledger's order."""
    found = {event.seq: event for subject in trace.subjects(release) for event in ledger.events(subject=subject)}
    return [found[seq] for seq in sorted(found)]


def _gaps(release: str, events: list[ledger.Event]) -> list[str]:
    """A sentence for every subject of a verdict that has none."""
    judged = {event.subject for event in events if event.kind == "verdict"}
    tasks = {task for event in events if event.kind == "release.built" for task in event.payload.get("tasks", {})}
    wanted = [name for name in trace.subjects(release) if name not in tasks]
    return [f"the ledger has no verdict on {name}" for name in wanted if name not in judged]


def _write_ledger(path: Path) -> None:
    with path.open("w") as stream:
        stream.writelines(canonical(row) + "\n" for row in ledger.stored())


def _summary(release: str, events: list[ledger.Event], head: str) -> str:
    lines = [_verdict_line(event.at, event.subject, event.payload) for event in events if event.kind == "verdict"]
    return SUMMARY.format(release=release, at=database.now(), head=head, verdicts="\n".join(lines))


def _verdict_line(at: str, subject: str, payload: dict[str, Any]) -> str:
    return f"{at}  {payload['gate']} gate on {subject}: {payload['outcome']} - {'; '.join(payload['reasons'])}"
