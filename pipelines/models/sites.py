"""Accept a site for a task: judge the champion on a labelled local batch, confirm or withdraw as a person."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data.core_types import Side, Task
from data.dataset import cohorts as dataset_cohorts
from data.dataset import shards
from data.dataset.shards import Units
from lineage import current_state, decisions, json_files, mlflow_registry, paths, site_hash
from lineage.current_state import SiteJudgement
from lineage.errors import Fault
from lineage.record import ledger
from lineage.record.events import EventKind
from lineage.record.ledger import Event
from lineage.record.verdict import Outcome
from pipelines import params
from pipelines.models import site_entries, site_sources

MIN_CLUSTERS = 2  # patients that a cross-fitted evaluation needs


def judge(name: str, task_name: str, batch: str, reason: str, actor: str) -> Event:
    """Judge the champion on an admitted batch of a site and recalibrate it for the site. Returns the recorded verdict.

    Patients on the champion's training or validation side are not used. Fault if there is no champion, the batch is
    not admitted or names another site, or too few patients are left.
    """
    settings = params.load()
    task, site = settings.task(task_name), _site(name)
    version = _champion(task_name)
    units = local_units(task, version, batch)
    if other_sites := sorted(set(units.table["site"].map(site_hash.hash_site)) - {"", site}):
        raise Fault(f"{batch} has scans of {len(other_sites)} other sites; accept each site with a batch of its own")
    source = mlflow_registry.download(task_name, version)
    metrics, calibration = _evaluate(settings, task, units, source)
    from training.promotion import site_gate

    verdict = site_gate.judge_site(current_state.site_subject(task_name, site), metrics, settings.promotion.site)
    admitted = site_sources.read_sources(task_name, [batch]).assign(site_key=site)
    judged = admitted[admitted["unit_id"].isin(units.table["unit_id"])]
    labels = units.table.set_index("unit_id")["label"]
    is_positive = judged["unit_id"].map(labels).isin(task.positive)
    facts = {
        "task": task_name,
        "version": version,
        "site": site,
        "institutions": site_sources.institutions(site, judged),
        "scanners": site_sources.accepted_scanners(judged, is_positive, judged, settings.promotion.site_clusters),
        "calibration": calibration,
        "batch": batch,
        "reason": reason,
    }
    site_sources.write_names()
    return ledger.record_verdict(verdict, actor, **facts)


def confirm(name: str, task: str, reason: str, actor: str) -> Event:
    """Sign the acceptance of a site by its newest verdict. Fault if the gate said fail, or judged another version."""
    judgement = newest_judgement(task, _site(name))
    if judgement is None or judgement.version != _champion(task):
        advice = f"`oncoloop site accept {name} --task {task} --batch BATCH`"
        raise Fault(f"the site gate has not judged the champion of {task} at {name}; run {advice}")
    if judgement.decision is not None:
        raise Fault(f"{name} is accepted for {task} by this verdict already")
    facts = judgement.verdict.payload
    if facts["outcome"] == Outcome.FAIL:
        raise Fault(f"the site gate said fail on {task} at {name}: {facts['reasons'][0]}; a fail can't be confirmed")
    if not reason.strip():
        raise Fault("a confirmation needs a reason (--reason)")
    return decisions.record(EventKind.SITE_ACCEPTED, judgement.verdict.subject, judgement.decision_facts(reason), actor)


def withdraw(name: str, task: str, reason: str, actor: str) -> Event:
    """Sign the withdrawal of a site: the next release withholds its answers, whatever accepted it."""
    params.load().task(task)
    site = _site(name)
    facts = {"task": task, "site": site, "reason": reason}
    return decisions.record(EventKind.SITE_WITHDRAWN, current_state.site_subject(task, site), facts, actor)


def newest_judgement(task: str, site: str) -> SiteJudgement | None:
    """The newest verdict of the site gate on a site, with the decision on it."""
    judgements = [entry for entry in current_state.site_judgements(task) if entry.site == site]
    return judgements[0] if judgements else None


def local_units(task: Task, version: str, batch: str) -> Units:
    """The units of an admitted batch whose patients neither fitted nor calibrated a version. Fault for too few."""
    folder = site_sources.BATCHES / task.name / batch
    if not (folder / "manifest.csv").is_file():
        raise Fault(f"{batch} is no admitted batch of {task.name}; put it into inbox/ and run `oncoloop ingest` first")
    folders = [path.parent for path in sorted((site_sources.BATCHES / task.name).glob("*/manifest.csv"))]
    table = dataset_cohorts.read_cohorts(Path("data/cohorts", f"{task.name}.csv"))
    cohorts = dataset_cohorts.restore_cluster_names(table, folders)
    with tempfile.TemporaryDirectory(dir=paths.state_path("staging", "x").parent) as target:
        shards.pack_shards([folder], cohorts, task, Path(target))
        units = shards.load_units(Path(target))
    used_clusters = _clusters_behind(task.name, version, cohorts)
    units = units.where(~units.table["cluster"].isin(used_clusters))
    if units.table["cluster"].nunique() < MIN_CLUSTERS:
        raise Fault(
            f"the champion {task.name}/{version} was fitted or calibrated on patients of {batch}; take a newer batch"
        )
    return units


def _clusters_behind(task: str, version: str, cohorts: pd.DataFrame) -> set[str]:
    """The clusters on the training and validation sides of the batches of a version.

    Validation patients stopped the fit, and their scores are the prior of the site's calibration.
    """
    clusters = set(site_sources.read_sources(task, site_sources.version_batches(task, version))["cluster"])
    is_used = (cohorts["task"] == task) & cohorts["side"].isin([Side.TRAINING.value, Side.VALIDATION.value])
    return clusters & set(cohorts.loc[is_used, "cluster"])


def _evaluate(
    settings: params.Params, task: Task, units: Units, source: Path
) -> tuple[dict[str, Any], Mapping[str, Any]]:
    """The cross-fitted metrics of the champion at a site, and its calibration for the manifest."""
    from serving.inference.graph import Graph
    from training.evaluation import evaluate, site_calibration, site_evaluation

    calibrated = json_files.read_json(source / evaluate.CALIBRATION)
    if not calibrated.get("scores"):
        calibrated["scores"] = site_calibration.reference_of_predictions(evaluate.read_predictions(source), task)
    graph = Graph.load(source / evaluate.GRAPH, settings.serving.engine, calibrated["precision"])
    logits, _ = graph.run(units.pixels)
    clusters = np.asarray(units.table["cluster"].to_numpy(str))
    metrics = site_evaluation.evaluate_site(
        logits,
        units.labels,
        clusters,
        task,
        settings.calibrate,
        settings.evaluate,
        calibrated,
        settings.serving.abstain_below,
    )
    site = site_calibration.recalibrate(logits, units.labels, clusters, task, settings.calibrate, calibrated)
    conformal = site_entries.conformal_facts(site.conformal)
    return metrics, {"temperature": site.temperature, "threshold": site.threshold, "conformal": conformal}


def _champion(task: str) -> str:
    params.load().task(task)
    version = current_state.roles(task).get("champion")
    if not version:
        raise Fault(f"{task} has no champion yet; train and approve a model first")
    return version


def _site(name: str) -> str:
    site = site_hash.hash_site(name)
    if not site:
        raise Fault("give the name of the site, as in the column `site` of metadata.csv")
    return site
