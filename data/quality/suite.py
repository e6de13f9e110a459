"""Great Expectations over the manifest and the descriptions: which units, or which whole batch, must stay out."""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from html import escape
from operator import and_
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import pandas as pd

from data.batch.manifest import TEXT
from data.dataset import training_population
from data.dataset.training_population import Population
from data.quality.expectations import rules
from data.quality.reader_agreement import Agreement
from data.record import Task
from data.scan.slice_rules import Rule
from data.settings import IngestSettings

log = logging.getLogger(__name__)
SOURCE = "batches"
UNBALANCED = 10  # times as many clusters in the largest class as in the smallest
ELSEWHERE = re.compile(r'\b(src|href)="https?://[^"]*"')
NOTHING = re.compile(r'<img\b[^>]*data-left-out-src=""[^>]*>|<footer\b.*?</footer>', re.DOTALL)  # logo, news


@dataclass(frozen=True)
class Validation:
    """What the suite found: units that must stay out, errors of the batch, warnings, and the page that shows it."""

    success: bool
    failing: Mapping[str, list[str]]
    batch_errors: list[str]
    warnings: list[str]
    page: Path
    figures: Mapping[str, Any]


def validate(
    manifest: pd.DataFrame,
    task: Task,
    settings: IngestSettings,
    gx_home: Path,
    batch: str,
    reference: Population | None = None,
    agreement: Agreement | None = None,
) -> Validation:
    """Run the task's suite over a batch. Context, results and Data Docs stay under `gx_home`; `page` is this batch's.

    A rule that speaks of units keeps those out; a rule that speaks of the table keeps the batch out; a rule that is
    no error is a warning. So is what readers disagree on, and what differs from `reference`, the population that the
    champion learned from: both are told at the head of the page.
    """
    asked = rules(task, settings)
    table = _nulls(manifest)
    results, page = _run(table, task, asked, gx_home, batch)
    failing: defaultdict[str, list[str]] = defaultdict(list)
    errors, warnings = [], _unbalanced(manifest, task)
    for number, result in sorted(results.items()):
        rule = asked[number]
        units = [str(row["unit_id"]) for row in result.result.get("unexpected_index_list") or []]
        if result.success:
            continue
        if not rule.error:
            warnings.append(f"{len(units)} of {len(table)} units: {rule.meaning}" if units else rule.meaning)
        elif units:
            for unit in units:
                failing[unit] += [rule.meaning] if rule.meaning not in failing[unit] else []
        else:
            errors.append(rule.meaning)
    figures: dict[str, Any] = {
        "expectations": len(results),
        "met": sum(bool(result.success) for result in results.values()),
    }
    figures |= _balance(manifest)
    if agreement is not None:
        warnings += agreement.warnings()
        figures["agreement"] = agreement.figures()
    if reference is not None:
        different, figures["population"] = training_population.compare_populations(
            training_population.describe_population(manifest), reference
        )
        warnings += different
    _tell(page, warnings, dict(failing), figures)
    success = not failing and not errors
    return Validation(success, dict(failing), errors, warnings, page, figures)


def _run(table: pd.DataFrame, task: Task, asked: list[Rule], gx_home: Path, batch: str) -> tuple[dict[int, Any], Path]:
    """One checkpoint run: the result of each rule by its number, and the page of the run in the Data Docs."""
    import great_expectations as gx

    gx_home.mkdir(parents=True, exist_ok=True)
    context = gx.get_context(mode="file", project_root_dir=gx_home)
    context.variables.progress_bars = {"globally": False}
    asset = _asset(context.data_sources.add_or_update_pandas(SOURCE), batch)
    suite = context.suites.add_or_update(gx.ExpectationSuite(name=task.name, expectations=_expectations(asked)))
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
    _keep_local(gx_home)
    found = {int(one.expectation_config.meta["rule"]): one for one in result.results}
    return found, Path(unquote(urlparse(address).path))


def _keep_local(gx_home: Path) -> None:
    """Take out of the Data Docs what would call other servers when a page is opened: style sheets, scripts, a logo."""
    for page in gx_home.rglob("local_site/**/*.html"):
        text = page.read_text(encoding="utf-8")
        if ELSEWHERE.search(text):
            page.write_text(NOTHING.sub("", ELSEWHERE.sub(r'data-left-out-\1=""', text)), encoding="utf-8")


def _tell(page: Path, warnings: list[str], failing: Mapping[str, list[str]], figures: Mapping[str, Any]) -> None:
    """At the head of a page: the failing scans with their reasons, how far readers agree, the warnings."""
    text = page.read_text(encoding="utf-8")
    page.write_text(text.replace("<body>", "<body>" + "".join(_head(warnings, failing, figures)), 1), encoding="utf-8")


def _head(warnings: list[str], failing: Mapping[str, list[str]], figures: Mapping[str, Any]) -> Iterator[str]:
    yield '<section id="in-short" style="margin: 24px 48px; font: 16px/1.5 sans-serif"><h2>In short</h2>'
    agreement = figures.get("agreement")
    if agreement:
        kappa = "not defined" if agreement["kappa"] is None else f"{agreement['kappa']:.2f}"
        yield (
            f"<p>{agreement['readers']} readers gave one label to {agreement['agreed']:.0%} of {agreement['units']} "
            f"units; {escape(agreement['statistic'])} kappa {kappa} on {agreement['rated']} units</p>"
        )
    for title, lines in (
        (f"Failing scans: {len(failing)}", [f"{unit}: {'; '.join(why)}" for unit, why in sorted(failing.items())]),
        (f"Warnings: {len(warnings)}", warnings),
    ):
        yield f"<h3>{title}</h3><ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"
    yield "</section>"


def _asset(source: Any, batch: str) -> Any:
    """The batch's asset in the data source: made anew, since a batch that comes again may hold other rows."""
    if batch in {asset.name for asset in source.assets}:
        source.delete_asset(batch)
    return source.add_dataframe_asset(batch)


def _expectations(asked: list[Rule]) -> list[Any]:
    from great_expectations import expectations
    from great_expectations.expectations.row_conditions import Column

    def asked_of(rule: Rule) -> dict[str, Any]:
        every = [
            Column(column) == value if sign == "==" else Column(column) > value
            for column, sign, value in rule.conditions
        ]
        return {"row_condition": reduce(and_, every)} if every else {}

    return [
        getattr(expectations, f"Expect{rule.kind}")(
            **rule.arguments,
            **asked_of(rule),
            severity="critical" if rule.error else "warning",
            meta={"rule": number},
            notes=rule.meaning,
        )
        for number, rule in enumerate(asked)
    ]


def _nulls(manifest: pd.DataFrame) -> pd.DataFrame:
    """Empty text as null: Great Expectations then asks nothing of it but to be there."""
    texts = [name for name in TEXT if name in manifest]
    return manifest.assign(**{name: manifest[name].replace("", None) for name in texts})


def _unbalanced(manifest: pd.DataFrame, task: Task) -> list[str]:
    clusters = manifest.groupby("label")["cluster"].nunique().reindex(list(task.classes)).dropna().astype(int)
    if clusters.empty or clusters.max() <= UNBALANCED * clusters.min():
        return []
    counted = ", ".join(f"{count} of {name}" for name, count in clusters.items())
    return [f"unbalanced classes: clusters {counted}"]


def _balance(manifest: pd.DataFrame) -> dict[str, Any]:
    """Units and clusters of each label as it was sent."""
    by_label = manifest.groupby("label")["cluster"]
    return {
        "units_by_label": {str(name): int(count) for name, count in by_label.size().items()},
        "clusters_by_label": {str(name): int(count) for name, count in by_label.nunique().items()},
    }
