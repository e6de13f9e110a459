"""Admit? The data gate: what Great Expectations and the leakage checks found, against what `ingest` tolerates."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from data.batch.manifest import Refused
from data.quality.leakage import Findings
from data.quality.suite import Validation
from data.settings import IngestSettings
from lineage.record.verdict import Outcome, Verdict

NAMED = 5


def admit(
    batch: str,
    validation: Validation,
    findings: Findings,
    refused: Sequence[Refused],
    total_units: int,
    settings: IngestSettings,
    warnings: Sequence[str] = (),
) -> tuple[Verdict, dict[str, list[str]]]:
    """Judge a batch of `total_units` (a refused file counts as one). Pure.

    `warnings` are of the batch as a whole, beside those of the suite and the leakage checks.
    Returns the verdict and the reasons of each unit that has to stay out, by `unit_id`. `pass` may still keep units
    out, and says so; `fail` keeps the whole batch out.
    """
    failing = _joined(validation.failing, findings.failing)
    out = len(failing) + len(refused)
    against = _against([*validation.batch_errors, *findings.errors], out, total_units, settings)
    reasons = [*against, *_named_units(failing), *_named_files(refused)]
    reasons += [f"warning: {text}" for text in (*validation.warnings, *findings.warnings, *warnings)]
    if not against:
        kept = f"{total_units - out} of {total_units} units are admitted"
        reasons.insert(0, f"{kept}, {out} stay out" if out else kept)
    figures: dict[str, Any] = {"units": total_units, "failing": len(failing), "refused": len(refused)}
    figures |= {"failing_share": round(out / total_units, 4) if total_units else 0.0}
    figures |= {"leakage": dict(findings.figures), "validation": dict(validation.figures)}
    outcome = Outcome.FAIL if against else Outcome.PASS
    return Verdict("data", batch, outcome, tuple(reasons), figures, asdict(settings)), failing


def _against(batch_errors: Sequence[str], out: int, total: int, settings: IngestSettings) -> list[str]:
    """The reasons that keep the whole batch out."""
    reasons = list(batch_errors)
    if out >= total:
        return [*reasons, f"nothing can be admitted: all {total} units fail" if total else "the batch holds no unit"]
    if settings.quarantine == "batch" and out:
        reasons.append(f"{out} of {total} units fail, and ingest.quarantine is `batch`")
    elif out / total > settings.max_failing:
        share, limit = f"{out / total:.1%}", f"{settings.max_failing:.1%}"
        reasons.append(f"{share} of the units fail, more than ingest.max_failing ({limit})")
    return reasons


def _joined(*findings: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    joined: defaultdict[str, list[str]] = defaultdict(list)
    for found in findings:
        for unit, reasons in found.items():
            joined[unit] += [reason for reason in reasons if reason not in joined[unit]]
    return dict(sorted(joined.items()))


def _named_units(failing: Mapping[str, Sequence[str]]) -> list[str]:
    """One sentence for each kind of reason (its text up to the colon), with the first units that have it."""
    kinds: defaultdict[str, list[str]] = defaultdict(list)
    for unit, reasons in failing.items():
        for kind in dict.fromkeys(reason.split(":")[0] for reason in reasons):
            kinds[kind].append(unit)
    ordered = sorted(kinds.items(), key=lambda item: (-len(item[1]), item[0]))
    return [f"{_count(len(units), 'unit')} out, {kind}: {_first(units)}" for kind, units in ordered]


def _named_files(refused: Sequence[Refused]) -> list[str]:
    if not refused:
        return []
    named = [f"{item.file} ({item.reason})" for item in refused[:NAMED]]
    more = f" and {len(refused) - NAMED} more" if len(refused) > NAMED else ""
    return [f"{_count(len(refused), 'file')} refused: {'; '.join(named)}{more}"]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _first(units: Sequence[str]) -> str:
    more = f" and {len(units) - NAMED} more" if len(units) > NAMED else ""
    return ", ".join(units[:NAMED]) + more
