"""Flow: window of the journal -> drift, outcomes -> gate -> ask for retraining."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from typing import Any

from prefect import flow, get_run_logger, task

from lineage import decisions, paths, registry
from lineage.errors import Fault
from lineage.record import ledger
from lineage.record.database import now
from lineage.record.verdict import Outcome, Verdict
from monitoring import evidently_report, gate, late_labels, reference, triage, window
from pipelines import params
from pipelines.flows import artifacts
from pipelines.models.retrain_requests import ask_for_retraining
from pipelines.workspace.workspace import alone

log = logging.getLogger(__name__)


@flow(name="watch")
def watch(task: str | None = None) -> list[dict[str, Any]]:
    """Watch every task with a champion (or one): is what comes in still what the model was judged on?"""
    names = watched(task)
    return [watch_task(name) for name in names]


def watched(name: str | None) -> list[str]:
    """The tasks that a champion answers for."""
    known = [params.load().task(name).name] if name else list(params.load().tasks)
    found = [each for each in known if registry.roles(each).get("champion")]
    if not found:
        raise Fault(f"no champion answers for {name or 'any task'} yet; `oncoloop retrain` makes the first one")
    return found


def watch_task(name: str) -> dict[str, Any]:
    """One task's window through the monitoring gate."""
    with alone(f"watch-{name}"):
        verdict, link = examine.with_options(name=f"watch {name}")(name)
        version = registry.roles(name)["champion"]
        event = ledger.record(verdict, task=name, version=version, page=paths.relative(link))
        artifacts.verdict(verdict, f"watch-{name}", paths.relative(link))
        asked = ask(name, str(version), verdict, event.seq) if verdict.outcome is Outcome.FAIL else False
        return {"task": name, "verdict": verdict.to_dict(), "page": link, "asked": asked}


@task(persist_result=False)
def examine(name: str) -> tuple[Verdict, str]:
    """Compare the journal's window with held-out reference patients, and late labels with the operating point."""
    settings, version = params.load(), str(registry.roles(name)["champion"])
    asked, monitoring = settings.task(name), settings.monitoring
    rows = window.window(name, monitoring.window_hours)
    current = rows[rows["version"].astype(str) == version] if len(rows) else rows
    clusters = window.clusters(current)
    get_run_logger().info("%s/%s: %d predictions of %d patients in the window", name, version, len(current), clusters)
    known = reference.read(registry.download(name, version))
    found = (
        evidently_report.drift(known, current, monitoring, paths.home() / "evidently", asked) if clusters > 1 else None
    )
    verdict = gate.ask(asked, found, late_labels.outcomes(asked, current), monitoring, clusters)
    if len(current):
        ranked = triage.rank(current, known, limit=20)
        artifacts.table(
            [{str(k): str(v) for k, v in row.items()} for row in ranked.to_dict("records")],
            f"triage-{name}",
            "What a person should look at first",
        )
    return verdict, str(found.page) if found else ""


def ask(name: str, version: str, verdict: Verdict, seq: int) -> bool:
    """Ask once for the retraining of a task, unless a person acknowledged the drift or it was asked of late."""
    settings = params.load().monitoring
    for event in ledger.events(kind="drift.acknowledged", subject=name):
        if event.payload["version"] == version and decisions.is_signed(event):
            log.info("the drift of %s is acknowledged by %s: %s", name, event.actor, event.payload["reason"])
            return False
    asked = [e for e in ledger.events(kind="drift.asked", subject=name) if e.payload["version"] == version]
    cooldown = timedelta(hours=settings.cooldown_hours)
    if asked and _time(now()) - _time(asked[-1].at) < cooldown:
        return False
    reason = verdict.reasons[0]
    ask_for_retraining(name, f"drift/{name}/{version}/{seq}", f"the watch: {reason}")
    ledger.append("drift.asked", name, {"version": version, "verdict_seq": seq, "reason": reason})
    return True


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))
