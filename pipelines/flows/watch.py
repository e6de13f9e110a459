"""Flow: window of the journal -> drift, outcomes -> gate -> ask for retraining."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from typing import Any

from prefect import flow, get_run_logger, task

from lineage import current_state, decisions, mlflow_registry, paths
from lineage.errors import Fault
from lineage.record import ledger
from lineage.record.database import now
from lineage.record.events import EventKind
from lineage.record.verdict import Outcome, Verdict
from monitoring import evidently_report, gate, late_labels, reference, triage, window
from pipelines import params
from pipelines.flows import artifacts
from pipelines.models.retrain_requests import ask_for_retraining
from pipelines.workspace.workspace import hold_lock

log = logging.getLogger(__name__)


@flow(name="watch")
def watch(task: str | None = None) -> list[dict[str, Any]]:
    """Compare recent predictions with the reference patients, for every task with a champion or for one task."""
    names = tasks_with_champion(task)
    return [watch_task(name) for name in names]


def tasks_with_champion(name: str | None) -> list[str]:
    """The tasks that have a champion, or the one named. Fault if there is none."""
    candidates = [params.load().task(name).name] if name else list(params.load().tasks)
    tasks = [candidate for candidate in candidates if current_state.roles(candidate).get("champion")]
    if not tasks:
        raise Fault(f"no champion answers for {name or 'any task'} yet; `oncoloop retrain` makes the first one")
    return tasks


def watch_task(name: str) -> dict[str, Any]:
    """Examine one task's window, record the verdict, and request a retraining if it fails."""
    with hold_lock(f"watch-{name}"):
        verdict, page = examine_window.with_options(name=f"watch {name}")(name)
        version = current_state.roles(name)["champion"]
        event = ledger.record_verdict(verdict, task=name, version=version, page=paths.relative(page))
        artifacts.publish_verdict(verdict, f"watch-{name}", paths.relative(page))
        is_requested = False
        if verdict.outcome is Outcome.FAIL:
            is_requested = request_retraining(name, str(version), verdict, event.seq)
        return {"task": name, "verdict": verdict.to_dict(), "page": page, "asked": is_requested}


@task(persist_result=False)
def examine_window(name: str) -> tuple[Verdict, str]:
    """Compare the journal's window with held-out reference patients, and late labels with the operating point.

    Returns the verdict and the path of Evidently's page ("" without drift figures: they need two patients).
    """
    settings, version = params.load(), str(current_state.roles(name)["champion"])
    task_settings, monitoring = settings.task(name), settings.monitoring
    rows = window.read_window(name, monitoring.window_hours)
    current = rows[rows["version"].astype(str) == version] if len(rows) else rows
    clusters = window.count_patients(current)
    get_run_logger().info("%s/%s: %d predictions of %d patients in the window", name, version, len(current), clusters)
    reference_set = reference.read(mlflow_registry.download(name, version))
    drift = None
    if clusters > 1:
        drift = evidently_report.report_drift(
            reference_set, current, monitoring, paths.home() / "evidently", task_settings
        )
    verdict = gate.judge_window(
        task_settings, drift, late_labels.compute_outcomes(task_settings, current), monitoring, clusters
    )
    if len(current):
        ranked = triage.rank(current, reference_set, limit=20)
        artifacts.publish_table(
            [{str(key): str(value) for key, value in row.items()} for row in ranked.to_dict("records")],
            f"triage-{name}",
            "What a person should look at first",
        )
    return verdict, str(drift.page) if drift else ""


def request_retraining(name: str, version: str, verdict: Verdict, seq: int) -> bool:
    """Request a retraining, unless a person acknowledged the drift or the cooldown is not over. Whether it did."""
    settings = params.load().monitoring
    for event in ledger.events(kind=EventKind.DRIFT_ACKNOWLEDGED, subject=name):
        if event.payload["version"] == version and decisions.is_signed(event):
            log.info("the drift of %s is acknowledged by %s: %s", name, event.actor, event.payload["reason"])
            return False
    requests = [
        event
        for event in ledger.events(kind=EventKind.DRIFT_ASKED, subject=name)
        if event.payload["version"] == version
    ]
    cooldown = timedelta(hours=settings.cooldown_hours)
    if requests and _parse_time(now()) - _parse_time(requests[-1].at) < cooldown:
        return False
    reason = verdict.reasons[0]
    ask_for_retraining(name, f"drift/{name}/{version}/{seq}", f"the watch: {reason}")
    ledger.append(EventKind.DRIFT_ASKED, name, {"version": version, "verdict_seq": seq, "reason": reason})
    return True


def _parse_time(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))
