"""The accepted sites of a version, for the manifest of a release: by its promotion, and by decisions of people."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data.core_types import Side
from lineage import current_state, json_files
from pipelines.models import site_sources
from pipelines.params import Params
from serving.inference.accepted_sites import ACCEPTANCE, PROMOTION

Entry = dict[str, Any]


def accepted_sites(
    settings: Params, task: str, version: str, source: Path, calibration: Mapping[str, Any]
) -> list[Entry]:
    """The entries of a version's accepted sites, the newest acceptance first, then those by promotion.

    `source` is the folder of the version's files; `calibration` has the temperature, threshold and conformal quantiles
    of the model itself. A site that a person has withdrawn since is left out.
    """
    judged = current_state.training_verdict(task, version)
    verdict_number = judged.seq if judged else 0
    withdrawn = {site for site, seq in current_state.withdrawn_sites(task).items() if seq > verdict_number}
    by_promotion = promoted_sites(settings, task, version, source)
    return [_acceptance_entry(acceptance) for acceptance in current_state.site_acceptances(task, version)] + [
        {**entry, **calibration, "basis": PROMOTION, "verdict": verdict_number, "at": judged.at if judged else ""}
        for entry in by_promotion
        if entry["site"] not in withdrawn
    ]


def promoted_sites(settings: Params, task: str, version: str, source: Path) -> list[Entry]:
    """The sites whose test patients the training gate has judged in sufficient number, with their sufficient scanners.

    The site of all test patients is judged with the model. Scans without a source are a site of their own, "", which
    counts only if no admitted unit names a site.
    """
    from training.evaluation import evaluate

    predictions = evaluate.read_predictions(source)
    admitted = site_sources.read_sources(task, site_sources.version_batches(task, version))
    test = predictions[predictions["side"] == Side.TEST.value].drop(columns=["site", "scanner"])
    test = test.merge(admitted.drop(columns="cluster"), on="unit_id", how="inner").reset_index(drop=True)
    is_positive, least = test["positive"].astype(bool), settings.promotion.site_clusters
    metrics = json_files.read_json(source / "metrics.json")
    names_no_site = bool((admitted["site_key"] == "").all())
    site_count, entries = test["site_key"].nunique(), []
    for site, units in test.groupby("site_key", sort=True):
        is_sufficient = site_count == 1 or site_sources.enough_patients(units, is_positive, least)
        if not is_sufficient or (site == "" and not names_no_site):
            continue
        of_site = admitted[admitted["site_key"] == site]
        figures = metrics["test"] if site_count == 1 else metrics.get("sites", {}).get(units["site"].iloc[0], {})
        entries.append(
            {
                "site": str(site),
                "institutions": site_sources.institutions(str(site), admitted),
                "scanners": site_sources.accepted_scanners(units, is_positive, of_site, least),
                "clusters": int(units["cluster"].nunique()),
                **{name: figures.get(name) for name in ("sensitivity", "specificity")},
            }
        )
    return entries


def _acceptance_entry(acceptance: current_state.SiteJudgement) -> Entry:
    facts = acceptance.verdict.payload
    figures = facts["figures"]
    return {
        **{name: facts[name] for name in ("site", "institutions", "scanners")},
        **facts["calibration"],
        "clusters": figures["clusters"],
        "sensitivity": figures.get("sensitivity"),
        "specificity": figures.get("specificity"),
        "basis": ACCEPTANCE,
        "verdict": acceptance.verdict.seq,
        "at": acceptance.decision.at if acceptance.decision else "",
    }


def conformal_facts(calibrated: Mapping[str, Any]) -> dict[str, Any] | None:
    """The conformal level and quantiles for the serving gate. None if a class had too few clusters for a quantile."""
    if calibrated["status"] != "calibrated":
        return None
    quantiles = [entry["quantile"] for entry in calibrated["classes"].values()]
    return {"level": calibrated["level"], "quantiles": quantiles}
