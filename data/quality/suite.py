"""The Great Expectations suite of a task: which units of a batch, or the whole batch, must stay out."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from html import escape
from operator import and_
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import pandas as pd

from data.batch.manifest import TEXT
from data.core_types import Task
from data.dataset import training_population
from data.dataset.training_population import Population
from data.quality.expectations import rules
from data.quality.findings import Finding, read_finding, sentences_by_unit
from data.quality.reader_agreement import Agreement
from data.scan.slice_rules import Rule
from data.settings import IngestSettings

log = logging.getLogger(__name__)
SOURCE = "batches"
UNBALANCED = 10  # maximum ratio of clusters in the largest and the smallest class
REMOTE_LINK = re.compile(r'\b(src|href)="https?://[^"]*"')
LOGO_AND_FOOTER = re.compile(r'<img\b[^>]*data-left-out-src=""[^>]*>|<footer\b.*?</footer>', re.DOTALL)


@dataclass(frozen=True)
class Validation:
    """The result of the suite: findings on units, errors of the batch, warnings, and the page of the run."""

    success: bool
    findings: Sequence[Finding]
    batch_errors: list[str]
    warnings: list[str]
    page: Path
    figures: Mapping[str, Any]

    @property
    def failing(self) -> dict[str, list[str]]:
        """The units that must stay out, by `unit_id`, with the sentences of their findings."""
        return sentences_by_unit(self.findings)


def validate(
    manifest: pd.DataFrame,
    task: Task,
    settings: IngestSettings,
    gx_home: Path,
    batch: str,
    reference: Population | None = None,
    agreement: Agreement | None = None,
) -> Validation:
    """Run the suite of the task over a batch. Context, results and Data Docs are written under `gx_home`.

    A failed rule on units keeps these units out. A failed rule on the table keeps the batch out. A rule that is no
    error gives a warning. Low agreement of readers and differences from `reference`, the training population of the
    champion, are warnings too. Warnings and failing units are listed at the top of the page.
    """
    task_rules = rules(task, settings)
    table = _with_nulls(manifest)
    results, page = _run_checkpoint(table, task, task_rules, gx_home, batch)
    findings: list[Finding] = []
    errors, warnings = [], _unbalanced_warning(manifest, task)
    for number, result in sorted(results.items()):
        rule = task_rules[number]
        units = [str(row["unit_id"]) for row in result.result.get("unexpected_index_list") or []]
        if result.success:
            continue
        if not rule.error:
            warnings.append(f"{len(units)} of {len(table)} units: {rule.meaning}" if units else rule.meaning)
        elif units:
            findings += [read_finding(unit, rule.meaning) for unit in units]
        else:
            errors.append(rule.meaning)
    figures: dict[str, Any] = {
        "expectations": len(results),
        "met": sum(bool(result.success) for result in results.values()),
    }
    figures |= _label_counts(manifest)
    if agreement is not None:
        warnings += agreement.warnings()
        figures["agreement"] = agreement.figures()
    if reference is not None:
        population_warnings, figures["population"] = training_population.compare_populations(
            training_population.describe_population(manifest), reference
        )
        warnings += population_warnings
    findings = list(dict.fromkeys(findings))  # two rules can have one meaning
    _write_summary(page, warnings, sentences_by_unit(findings), figures)
    return Validation(not findings and not errors, findings, errors, warnings, page, figures)


def _run_checkpoint(
    table: pd.DataFrame, task: Task, task_rules: list[Rule], gx_home: Path, batch: str
) -> tuple[dict[int, Any], Path]:
    """Run one checkpoint: the result of each rule by its number, and the page of the run in the Data Docs."""
    import great_expectations as gx

    gx_home.mkdir(parents=True, exist_ok=True)
    context = gx.get_context(mode="file", project_root_dir=gx_home)
    context.variables.progress_bars = {"globally": False}
    asset = _new_asset(context.data_sources.add_or_update_pandas(SOURCE), batch)
    suite = context.suites.add_or_update(gx.ExpectationSuite(name=task.name, expectations=_expectations(task_rules)))
    definition = context.validation_definitions.add_or_update(
        gx.ValidationDefinition(name=batch, data=asset.add_batch_definition_whole_dataframe(batch), suite=suite)
    )
    checkpoint = context.checkpoints.add_or_update(
        gx.Checkpoint(
            name=batch,
            validation_definitions=[definition],
            actions=[gx.checkpoint.UpdateDataDocsAction(name="pages")],
            result_format={"result_format": "COMPLETE", "unexpected_index_column_names": ["unit_id"]},
        )
    )
    run = checkpoint.run(batch_parameters={"dataframe": table})
    identifier, result = next(iter(run.run_results.items()))
    address = context.get_docs_sites_urls(resource_identifier=identifier)[0]["site_url"]
    _remove_remote_links(gx_home)
    rule_results = {int(item.expectation_config.meta["rule"]): item for item in result.results}
    return rule_results, Path(unquote(urlparse(address).path))


def _remove_remote_links(gx_home: Path) -> None:
    """Remove links to other servers from the Data Docs: style sheets, scripts, the logo."""
    for page in gx_home.rglob("local_site/**/*.html"):
        text = page.read_text(encoding="utf-8")
        if REMOTE_LINK.search(text):
            page.write_text(LOGO_AND_FOOTER.sub("", REMOTE_LINK.sub(r'data-left-out-\1=""', text)), encoding="utf-8")


def _write_summary(
    page: Path, warnings: list[str], failing: Mapping[str, list[str]], figures: Mapping[str, Any]
) -> None:
    """Write the summary at the top of a page: failing scans with reasons, agreement of readers, warnings."""
    text = page.read_text(encoding="utf-8")
    page.write_text(
        text.replace("<body>", "<body>" + "".join(_summary_html(warnings, failing, figures)), 1), encoding="utf-8"
    )


def _summary_html(warnings: list[str], failing: Mapping[str, list[str]], figures: Mapping[str, Any]) -> Iterator[str]:
    yield '<section id="summary" style="margin: 24px 48px; font: 16px/1.5 sans-serif"><h2>Summary</h2>'
    agreement = figures.get("agreement")
    if agreement:
        kappa = "not defined" if agreement["kappa"] is None else f"{agreement['kappa']:.2f}"
        yield (
            f"<p>{agreement['readers']} readers gave one label to {agreement['agreed']:.0%} of {agreement['units']} "
            f"units; {escape(agreement['statistic'])} kappa {kappa} on {agreement['rated']} units</p>"
        )
    for title, lines in (
        (
            f"Failing scans: {len(failing)}",
            [f"{unit}: {'; '.join(reasons)}" for unit, reasons in sorted(failing.items())],
        ),
        (f"Warnings: {len(warnings)}", warnings),
    ):
        yield f"<h3>{title}</h3><ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"
    yield "</section>"


def _new_asset(source: Any, batch: str) -> Any:
    """A new asset of the batch in the data source.

    An old one is deleted, because a resent batch can have other rows.
    """
    if batch in {asset.name for asset in source.assets}:
        source.delete_asset(batch)
    return source.add_dataframe_asset(batch)


def _expectations(task_rules: list[Rule]) -> list[Any]:
    from great_expectations import expectations
    from great_expectations.expectations.row_conditions import Column

    def row_condition(rule: Rule) -> dict[str, Any]:
        conditions = [
            Column(column) == value if sign == "==" else Column(column) > value
            for column, sign, value in rule.conditions
        ]
        return {"row_condition": reduce(and_, conditions)} if conditions else {}

    return [
        getattr(expectations, f"Expect{rule.kind}")(
            **rule.arguments,
            **row_condition(rule),
            severity="critical" if rule.error else "warning",
            meta={"rule": number},
            notes=rule.meaning,
        )
        for number, rule in enumerate(task_rules)
    ]


def _with_nulls(manifest: pd.DataFrame) -> pd.DataFrame:
    """The manifest with empty text as null: Great Expectations then only checks that a value is present."""
    texts = [name for name in TEXT if name in manifest]
    return manifest.assign(**{name: manifest[name].replace("", None) for name in texts})


def _unbalanced_warning(manifest: pd.DataFrame, task: Task) -> list[str]:
    clusters = manifest.groupby("label")["cluster"].nunique().reindex(list(task.classes)).dropna().astype(int)
    if clusters.empty or clusters.max() <= UNBALANCED * clusters.min():
        return []
    listed = ", ".join(f"{count} of {name}" for name, count in clusters.items())
    return [f"unbalanced classes: clusters {listed}"]


def _label_counts(manifest: pd.DataFrame) -> dict[str, Any]:
    """Units and clusters of each label in the batch."""
    by_label = manifest.groupby("label")["cluster"]
    return {
        "units_by_label": {str(name): int(count) for name, count in by_label.size().items()},
        "clusters_by_label": {str(name): int(count) for name, count in by_label.nunique().items()},
    }
