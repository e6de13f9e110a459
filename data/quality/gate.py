"""The data gate: judge the findings of Great Expectations and the leakage checks by the settings of `ingest`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from data.batch.manifest import RefusedFile
from data.quality.findings import Finding, merge_findings, sentences_by_unit
from data.quality.leakage import Findings
from data.quality.suite import Validation
from data.settings import IngestSettings
from lineage.record.verdict import Outcome, Verdict

MAX_NAMED = 5  # units or files in one reason


def admit(
    batch: str,
    validation: Validation,
    findings: Findings,
    refused: Sequence[RefusedFile],
    total_units: int,
    settings: IngestSettings,
    warnings: Sequence[str] = (),
) -> tuple[Verdict, dict[str, list[str]]]:
    """Judge a batch of `total_units`; a refused file counts as one unit. Pure function.

    `warnings` are warnings on the whole batch, in addition to those of the suite and the leakage checks. Returns the
    verdict, and the reasons of each unit that must stay out, by `unit_id`. With `pass` some units can still stay out;
    `fail` keeps the whole batch out.
    """
    merged = merge_findings((*validation.findings, *findings.findings))
    all_findings = [finding for findings_of_unit in merged.values() for finding in findings_of_unit]
    failing = sentences_by_unit(all_findings)
    rejected_count = len(failing) + len(refused)
    batch_reasons = _batch_reasons([*validation.batch_errors, *findings.errors], rejected_count, total_units, settings)
    reasons = [*batch_reasons, *_unit_sentences(all_findings), *_file_sentences(refused)]
    reasons += [f"warning: {text}" for text in (*validation.warnings, *findings.warnings, *warnings)]
    if not batch_reasons:
        admitted = f"{total_units - rejected_count} of {total_units} units are admitted"
        reasons.insert(0, f"{admitted}, {rejected_count} stay out" if rejected_count else admitted)
    figures: dict[str, Any] = {"units": total_units, "failing": len(failing), "refused": len(refused)}
    figures |= {"failing_share": round(rejected_count / total_units, 4) if total_units else 0.0}
    figures |= {"leakage": dict(findings.figures), "validation": dict(validation.figures)}
    outcome = Outcome.FAIL if batch_reasons else Outcome.PASS
    return Verdict("data", batch, outcome, tuple(reasons), figures, asdict(settings)), failing


def _batch_reasons(batch_errors: Sequence[str], rejected_count: int, total: int, settings: IngestSettings) -> list[str]:
    """The reasons that keep the whole batch out."""
    reasons = list(batch_errors)
    if rejected_count >= total:
        return [*reasons, f"nothing can be admitted: all {total} units fail" if total else "the batch holds no unit"]
    if settings.quarantine == "batch" and rejected_count:
        reasons.append(f"{rejected_count} of {total} units fail, and ingest.quarantine is `batch`")
    elif rejected_count / total > settings.max_failing:
        share, limit = f"{rejected_count / total:.1%}", f"{settings.max_failing:.1%}"
        reasons.append(f"{share} of the units fail, more than ingest.max_failing ({limit})")
    return reasons


def _unit_sentences(findings: Iterable[Finding]) -> list[str]:
    """One sentence per phrase of findings, with the first units that have one."""
    units_by_phrase: defaultdict[str, dict[str, None]] = defaultdict(dict)
    for finding in findings:
        units_by_phrase[finding.phrase][finding.unit] = None
    ordered = sorted(units_by_phrase.items(), key=lambda item: (-len(item[1]), item[0]))
    return [f"{_count(len(units), 'unit')} out, {phrase}: {_first_units(list(units))}" for phrase, units in ordered]


def _file_sentences(refused: Sequence[RefusedFile]) -> list[str]:
    if not refused:
        return []
    listed = [f"{item.file} ({item.reason})" for item in refused[:MAX_NAMED]]
    more = f" and {len(refused) - MAX_NAMED} more" if len(refused) > MAX_NAMED else ""
    return [f"{_count(len(refused), 'file')} refused: {'; '.join(listed)}{more}"]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _first_units(units: Sequence[str]) -> str:
    more = f" and {len(units) - MAX_NAMED} more" if len(units) > MAX_NAMED else ""
    return ", ".join(units[:MAX_NAMED]) + more
