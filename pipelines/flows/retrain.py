"""Flow: pinned worktree -> DVC stages -> challenger -> gate -> approval -> promote -> release."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.task_runners import ThreadPoolTaskRunner

from data.dataset import shards
from lineage import current_state, fingerprint, json_files, mlflow_registry, model_files
from lineage.record import database, ledger
from lineage.record.events import EventKind
from lineage.record.verdict import Outcome, Verdict
from pipelines import params, warm_start_pins
from pipelines.flows import artifacts, remote_fit, remote_transfer, retrain_plan, work_pool
from pipelines.models import promote
from pipelines.workspace import dvc, stage_log
from pipelines.workspace.workspace import hold_lock
from training import mlflow_runs
from training.evaluation import evaluate
from training.promotion import comparison, gate, test_set_budget

log = logging.getLogger(__name__)

STAGE_SLOTS = threading.BoundedSemaphore(2)  # a stage that waits for a worker uses a thread, but no slot


@flow(name="retrain", task_runner=ThreadPoolTaskRunner(max_workers=64))
def retrain(task: str | None = None, reason: str = "asked by hand", pool: str = "") -> dict[str, Any]:
    """Train and judge a model of every task with admitted data (or of one task); promote and release what passes.

    With `pool`, fits run on workers of that Prefect work pool, which may be on other machines.
    """
    if pool:
        work_pool.register_fit(pool)
    with hold_lock("workspace"):
        names = retrain_plan.trainable_tasks(task)
        tree = retrain_plan.pin_worktree()
        run_stages(str(tree), names, pool)
        version = dvc.commit_products(tree, Path.cwd(), f"Retrain {', '.join(names)}: {reason}")
        results = [
            judge_challenger.with_options(name=f"gate {name}")(str(tree), name, version, reason) for name in names
        ]
        release = promote.release_champions()
    artifacts.publish_table([_verdict_row(result) for result in results], "retrain", "Verdicts of the training gate")
    return {"data_version": version, "models": results, "release": release}


def run_stages(tree: str, names: list[str], pool: str = "") -> None:
    """Run all stages of all tasks: in order within a task, two tasks at a time. Fits of a pool run all at once."""
    futures: list[Any] = []
    for name in names:
        task_futures: list[Any] = []
        for stage in dvc.STAGES:
            stage_pool = pool if stage == "fit" else ""
            stage_run = run_stage.with_options(name=f"{stage}@{name}")
            task_futures.append(stage_run.submit(tree, stage, name, stage_pool, wait_for=task_futures[-1:]))
        futures += task_futures
    for future in futures:
        future.result()


@task(persist_result=False)
def run_stage(tree: str, stage: str, name: str, pool: str = "") -> bool:
    """Run one DVC stage of a task in the pinned worktree and stream its log, or run a fit on a worker of a pool.

    Returns whether the stage ran; an unchanged stage does not.
    """
    logger = get_run_logger()
    if pool and remote_transfer.is_fit_due(Path(tree), name):
        logger.info("%s@%s waits for a worker of %s", stage, name, pool)
        work_pool.run_fit(pool, remote_fit.send_fit(Path(tree), name), f"{stage}@{name}")
        with STAGE_SLOTS:
            ran_on_worker = remote_transfer.pull_or_run_fit(Path(tree), name)
        place = f"by a worker of {pool}" if ran_on_worker else "here: the remote has no result of these inputs"
        logger.info("%s@%s done %s", stage, name, place)
        return True
    with STAGE_SLOTS, stage_log.follow_log(stage_log.stage_log_path(stage, name), logger.info):
        changed = dvc.reproduce(Path(tree), stage, name)
    logger.info("%s@%s %s", stage, name, "done" if changed else "unchanged")
    return changed


@task(persist_result=False)
def judge_challenger(tree: str, name: str, data_version: str, reason: str) -> dict[str, Any]:
    """Register the trained model, judge it once against champion and anchor, and act on the verdict."""
    logger = get_run_logger()
    version, is_new = register_challenger(Path(tree), name, data_version, reason)
    result = {"task": name, "version": version, "new": is_new}
    earlier_verdicts = ledger.events(kind=EventKind.VERDICT, subject=f"{name}/{version}")
    if earlier_verdicts:
        return result | {"verdict": earlier_verdicts[-1].payload, "decision": "unchanged"}
    files = mlflow_runs.artifact_hashes(Path(tree, "evaluation", name), Path(tree, "models", name))
    model_files.record_hashes(name, version, files, "judged by the training gate")
    verdict = judge_version(Path(tree), name, version)
    ledger.record_verdict(verdict, task=name, version=version, data_version=data_version)
    if spent_batches := test_set_budget.exhausted_batches(verdict.figures):
        ledger.append(EventKind.COHORT_SPENT, name, {"version": version, "batches": spent_batches})
    mlflow_runs.log_verdict(mlflow_registry.tags(name, version)["run_id"], verdict)
    artifacts.publish_verdict(verdict, f"training-{name}")
    for line in verdict.reasons:
        logger.info("%s/%s %s: %s", name, version, verdict.outcome.value, line)
    decision = promote.apply_verdict(name, version, verdict)
    return result | {"verdict": verdict.to_dict(), "decision": decision}


def register_challenger(tree: Path, name: str, data_version: str, reason: str) -> tuple[str, bool]:
    """Log this training to MLflow and the ledger, once per lock hash. Returns the version and whether it is new."""
    lock_hash = dvc.lock_hash(tree, name)
    if logged_version := retrain_plan.find_logged_version(name, lock_hash):
        return logged_version, False
    settings = params.load()
    code_record = json_files.read_json(tree / "code.json")
    facts = {
        "lock_hash": lock_hash,
        "data_version": data_version,
        "params_digest": settings.digest,
        "code_digest": fingerprint.digest(code_record),
        "reason": reason,
        "batches": sorted(path.stem for path in Path("data/batches", name).glob("*.dvc")),
        **warm_start_pins.parent_record(tree, name),
    }
    if note := settings.task(name).note:
        facts["note"] = note
    tags = {key: str(value) for key, value in facts.items()}
    run_id = mlflow_runs.find_run(name, lock_hash) or mlflow_runs.log_run(
        name, tree / "evaluation" / name, tree / "models" / name, params.raw(), tags
    )
    version = mlflow_registry.register(name, run_id, "model", {"run_id": run_id, **tags})
    ledger.append(EventKind.MODEL_LOGGED, name, {"version": version, "run_id": run_id, **facts})
    return version, True


def judge_version(tree: Path, name: str, version: str) -> Verdict:
    """The training gate's verdict: the challenger's own figures, and its comparison with champion and anchor.

    All are paired on the same test units.
    """
    settings = params.load()
    units = shards.load_units(tree / "data" / "processed" / name)
    predictions = evaluate.read_predictions(tree / "evaluation" / name)
    metrics = json_files.read_json(tree / "evaluation" / name / "metrics.json")
    roles = current_state.roles(name)
    verdicts = [(event.at, event.payload) for event in ledger.events(kind=EventKind.VERDICT)]
    past_looks = test_set_budget.read_looks(verdicts, name, database.now())
    comparisons = {}
    for role in ("champion", "anchor"):
        rival = roles.get(role)
        if rival is not None:
            folder = mlflow_registry.download(name, rival)
            rival_predictions = evaluate.predict_held_out(units, folder, settings.task(name), settings.serving.engine)
            comparisons[role] = comparison.compare(
                predictions,
                rival_predictions,
                settings.promotion,
                f"{role} {rival}",
                units.table,
                test_set_budget.decided_batches(past_looks),
            )
    return gate.judge_challenger(
        f"{name}/{version}",
        metrics,
        comparisons.get("champion"),
        comparisons.get("anchor"),
        settings.promotion,
        past_looks,
    )


def _verdict_row(result: dict[str, Any]) -> dict[str, Any]:
    verdict = result["verdict"]
    return {
        "task": result["task"],
        "version": result["version"],
        "verdict": verdict["outcome"],
        "decision": result["decision"],
        "why": "; ".join(verdict["reasons"]),
    }


def worst_outcome(result: dict[str, Any]) -> Outcome:
    """The worst outcome of a retraining, for the exit code."""
    outcomes = {Outcome(model["verdict"]["outcome"]) for model in result["models"]}
    order = (Outcome.FAIL, Outcome.INCONCLUSIVE, Outcome.PASS)
    return next(outcome for outcome in order if outcome in outcomes)
