"""Flow: pinned worktree -> DVC stages -> challenger -> gate -> approval -> promote -> release."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.task_runners import ThreadPoolTaskRunner

from data.dataset import shards
from lineage import json_files, model_files, registry
from lineage.record import database, ledger
from lineage.record.verdict import Outcome, Verdict
from pipelines import params, warm_start_pins
from pipelines.flows import artifacts, remote_fit, remote_transfer, retrain_plan, work_pool
from pipelines.models import promote
from pipelines.workspace import dvc, stage_log
from pipelines.workspace.workspace import alone
from training import mlflow_runs
from training.evaluation import evaluate
from training.promotion import comparison, gate, test_set_budget

log = logging.getLogger(__name__)

TWO_AT_A_TIME = threading.BoundedSemaphore(2)  # a waiting stage holds a thread of the runner, but not one of these


@flow(name="retrain", task_runner=ThreadPoolTaskRunner(max_workers=64))
def retrain(task: str | None = None, reason: str = "asked by hand", pool: str = "") -> dict[str, Any]:
    """Bring every task with admitted data (or one) to a judged model; promote and release what passes.

    With `pool`, fits run on workers of that Prefect work pool, which may be other machines.
    """
    if pool:
        work_pool.offer_fit(pool)
    with alone("workspace"):
        names = retrain_plan.trainable(task)
        tree = retrain_plan.pin()
        run_stages(str(tree), names, pool)
        version = dvc.keep(tree, Path.cwd(), f"Retrain {', '.join(names)}: {reason}")
        judged = [challenge.with_options(name=f"gate {name}")(str(tree), name, version, reason) for name in names]
        release = promote.release_champions()
    artifacts.table([_row(entry) for entry in judged], "retrain", "What the training gate said")
    return {"data_version": version, "models": judged, "release": release}


def run_stages(tree: str, names: list[str], pool: str = "") -> None:
    """Every stage of every task; the stages of one task in order, two tasks at a time (fits of a pool: all at once)."""
    every: list[Any] = []
    for name in names:
        chain: list[Any] = []
        for stage in dvc.STAGES:
            made = run_stage.with_options(name=f"{stage}@{name}")
            chain.append(made.submit(tree, stage, name, pool if stage == "fit" else "", wait_for=chain[-1:]))
        every += chain
    for future in every:
        future.result()


@task(persist_result=False)
def run_stage(tree: str, stage: str, name: str, pool: str = "") -> bool:
    """One DVC stage of one task, in the pinned worktree, its log shown as it grows; or a fit, on a worker of a pool."""
    logger = get_run_logger()
    if pool and remote_transfer.due(Path(tree), name):
        logger.info("%s@%s waits for a worker of %s", stage, name, pool)
        work_pool.fit_on(pool, remote_fit.parameters(Path(tree), name), f"{stage}@{name}")
        with TWO_AT_A_TIME:
            there = remote_transfer.take(Path(tree), name)
        logger.info(
            "%s@%s done %s", stage, name, f"by a worker of {pool}" if there else "here: the remote held no such run"
        )
        return True
    with TWO_AT_A_TIME, stage_log.lines(stage_log.path(stage, name), logger.info):
        changed = dvc.reproduce(Path(tree), stage, name)
    logger.info("%s@%s %s", stage, name, "done" if changed else "unchanged")
    return changed


@task(persist_result=False)
def challenge(tree: str, name: str, data_version: str, reason: str) -> dict[str, Any]:
    """Log and register the model of this lock hash once, let it meet champion and anchor, and act on the verdict."""
    logger = get_run_logger()
    version, new = challenger(Path(tree), name, data_version, reason)
    known = ledger.events(kind="verdict", subject=f"{name}/{version}")
    if known:
        return {"task": name, "version": version, "new": new, "verdict": known[-1].payload, "decision": "unchanged"}
    files = mlflow_runs.hashes(Path(tree, "evaluation", name), Path(tree, "models", name))
    model_files.record(name, version, files, "judged by the training gate")
    verdict = judge(Path(tree), name, version)
    ledger.record(verdict, task=name, version=version, data_version=data_version)
    if spent := test_set_budget.spent(verdict.figures):
        ledger.append("cohort.spent", name, {"version": version, "batches": spent})
    mlflow_runs.log_verdict(registry.tags(name, version)["run_id"], verdict)
    artifacts.verdict(verdict, f"training-{name}")
    for line in verdict.reasons:
        logger.info("%s/%s %s: %s", name, version, verdict.outcome.value, line)
    decision = promote.decide(name, version, verdict)
    return {"task": name, "version": version, "new": new, "verdict": verdict.to_dict(), "decision": decision}


def challenger(tree: Path, name: str, data_version: str, reason: str) -> tuple[str, bool]:
    """The registered version of this training; logged to MLflow and the ledger once per lock hash."""
    lock_hash = dvc.lock_hash(tree, name)
    if known := retrain_plan.logged(name, lock_hash):
        return known, False
    settings = params.load()
    record = json_files.read_json(tree / "code.json")
    facts = {
        "lock_hash": lock_hash,
        "data_version": data_version,
        "params_digest": settings.digest,
        "code_digest": promote.digest(record),
        "reason": reason,
        "batches": sorted(path.stem for path in Path("data/batches", name).glob("*.dvc")),
        **warm_start_pins.facts(tree, name),
    }
    if note := settings.task(name).note:
        facts["note"] = note
    run_id = mlflow_runs.find_run(name, lock_hash) or mlflow_runs.log_run(
        name, tree / "evaluation" / name, tree / "models" / name, params.raw(), {k: str(v) for k, v in facts.items()}
    )
    version = registry.register(name, run_id, "model", {"run_id": run_id, **{k: str(v) for k, v in facts.items()}})
    ledger.append("model.logged", name, {"version": version, "run_id": run_id, **facts})
    return version, True


def judge(tree: Path, name: str, version: str) -> Verdict:
    """The training gate: the challenger's figures, and paired with champion and anchor on the same test units."""
    settings = params.load()
    units = shards.load(tree / "data" / "processed" / name)
    mine = evaluate.read_predictions(tree / "evaluation" / name)
    metrics = json_files.read_json(tree / "evaluation" / name / "metrics.json")
    roles = registry.roles(name)
    verdicts = [(event.at, event.payload) for event in ledger.events(kind="verdict")]
    past = test_set_budget.looks(verdicts, name, database.now())
    figures = {}
    for role in ("champion", "anchor"):
        rival = roles.get(role)
        if rival is not None:
            folder = registry.download(name, rival)
            theirs = evaluate.predictions(units, folder, settings.task(name), settings.serving.engine)
            figures[role] = comparison.compare(
                mine, theirs, settings.promotion, f"{role} {rival}", units.table, test_set_budget.decided(past)
            )
    return gate.promote(
        f"{name}/{version}", metrics, figures.get("champion"), figures.get("anchor"), settings.promotion, past
    )


def _row(entry: dict[str, Any]) -> dict[str, Any]:
    verdict = entry["verdict"]
    return {
        "task": entry["task"],
        "version": entry["version"],
        "verdict": verdict["outcome"],
        "decision": entry["decision"],
        "why": "; ".join(verdict["reasons"]),
    }


def said_no(result: dict[str, Any]) -> Outcome:
    """The worst outcome of a retraining, for the exit code."""
    outcomes = {Outcome(entry["verdict"]["outcome"]) for entry in result["models"]}
    order = (Outcome.FAIL, Outcome.INCONCLUSIVE, Outcome.PASS)
    return next(outcome for outcome in order if outcome in outcomes)
