"""From a verdict to a served release: decide, approve or reject, promote, build, roll back."""

from __future__ import annotations

import logging

from lineage import current_state, decisions, mlflow_registry
from lineage.audit import evidence
from lineage.current_state import version_verdict
from lineage.errors import Fault
from lineage.record import ledger
from lineage.record.events import EventKind
from lineage.record.ledger import Event
from lineage.record.verdict import Outcome, Verdict
from pipelines import params
from pipelines.models import release
from serving.inference import accepted_sites

log = logging.getLogger(__name__)


def apply_verdict(task: str, version: str, verdict: Verdict) -> str:
    """Act on a verdict of the training gate: promoted, rejected, or waiting for approval."""
    if verdict.outcome is Outcome.FAIL:
        ledger.append(EventKind.MODEL_REJECTED, task, {"version": version, "reason": "the training gate said fail"})
        return "rejected"
    if verdict.outcome is Outcome.PASS and params.load().promotion.approval == "automatic":
        promote_version(task, version, "system", "passed the gate; approval is automatic")
        return "promoted"
    return "waiting for approval"


def approve(task: str, version: str, actor: str, reason: str) -> Event:
    """Sign the approval of a version that passed or was inconclusive.

    Returns the ledger row that `carry_out_decision` carries out. Fault if the version failed the gate or its shadow
    comparison, or if it is already the champion.
    """
    from pipelines.models import shadow  # imports pandas and the gate, which a rollback does not need

    verdict = version_verdict(task, version)
    if verdict.outcome is Outcome.FAIL:
        raise Fault(f"the gate said fail on {task}/{version}: {verdict.reasons[0]}; a fail can't be approved")
    if not reason.strip():
        raise Fault("an approval needs a reason (--reason)")
    shadow.check_comparison(task, version)
    is_champion = current_state.roles(task).get("champion") == version
    if is_champion and not is_release_pending():  # a pending release: an approval was interrupted and may be repeated
        raise Fault(f"{task}/{version} is the champion already")
    mlflow_registry.check_artifacts(task, version)
    return _sign(task, version, "approve", actor, reason)


def reject(task: str, version: str, actor: str, reason: str) -> Event:
    """Sign the rejection of a version. Returns the ledger row for `carry_out_decision`. Fault for the champion."""
    version_verdict(task, version)
    _check_not_champion(task, version)
    return _sign(task, version, "reject", actor, reason)


def _check_not_champion(task: str, version: str) -> None:
    if current_state.roles(task).get("champion") == version:
        raise Fault(f"{task}/{version} is the champion; `oncoloop rollback` takes it back")


def _sign(task: str, version: str, decision: str, actor: str, reason: str) -> Event:
    return decisions.record(EventKind.APPROVAL, f"{task}/{version}", {"decision": decision, "reason": reason}, actor)


def carry_out_decision(event: Event) -> None:
    """Carry out a decision that `decisions.check` accepted: promote or reject. After a kill it can be repeated.

    Fault if that is no longer possible: the gate said fail, or the version has failed in shadow.
    """
    from pipelines.models import shadow

    task, _, version = event.subject.rpartition("/")
    for later_use in ledger.events(EventKind.DECISION_USED, event.subject):
        if later_use.seq > event.seq and "refused" not in later_use.payload:
            raise Fault(f"{event.subject} was decided by somebody else at the same time")
    verdict, reason = version_verdict(task, version), str(event.payload["reason"])
    if event.payload["decision"] == "reject":
        shadow.stop_version(task, version, event.actor, "the version is rejected")
        _check_not_champion(task, version)
        ledger.append(EventKind.MODEL_REJECTED, task, {"version": version, "reason": reason}, actor=event.actor)
        return
    if verdict.outcome is Outcome.FAIL:
        raise Fault(f"the gate said fail on {task}/{version}: {verdict.reasons[0]}; a fail can't be approved")
    if current_state.roles(task).get("champion") != version:
        shadow.prepare_approval(task, version, event.actor)
        mlflow_registry.check_artifacts(task, version)
        promote_version(task, version, event.actor, reason)


def promote_version(task: str, version: str, actor: str, reason: str) -> None:
    """Make a version the champion: in the ledger, then in MLflow's aliases.

    Fault if a file of the version is not the one that the gate judged.
    """
    mlflow_registry.check_artifacts(task, version)
    event = ledger.events(kind=EventKind.VERDICT, subject=f"{task}/{version}")[-1]
    tags = mlflow_registry.tags(task, version)
    facts: dict[str, object] = {
        "run_id": tags["run_id"],
        "data_version": tags["data_version"],
        "verdict_seq": event.seq,
        "outcome": event.payload["outcome"],
        "reason": reason,
    }
    mlflow_registry.promote(task, version, facts, actor)


def champions() -> dict[str, str]:
    """The champion version of every task that has one."""
    return current_state.champions(params.load().tasks)


def is_release_pending() -> bool:
    """Whether the newest checked release has other versions than the champions, or other decisions on their sites.

    A release of an earlier version has no record of sites; it counts as one without decisions, with default settings.
    """
    checked = {event.subject for event in ledger.events(kind=EventKind.VERDICT) if event.payload["gate"] == "release"}
    built = [event for event in ledger.events(kind=EventKind.RELEASE_BUILT) if event.subject in checked]
    versions = champions()
    if not versions or not built or built[-1].payload["tasks"] != versions:
        return bool(versions)
    default = {"decisions": [], "unknown_sites": accepted_sites.WITHHOLD, "own": ""}
    return bool(built[-1].payload.get(release.SITES, default) != release.site_state(params.load(), versions))


def release_champions() -> str | None:
    """Build and check a release of all champions, unless the newest one holds them. Returns its id, or None."""
    for task in champions():
        if mismatches := mlflow_registry.mismatches(task):
            log.warning("%s; the ledger decides, the aliases are set again", mismatches[0])
            mlflow_registry.update_aliases(task)
    if not is_release_pending():
        return None
    settings = params.load()
    built = release.build(settings, champions())
    ledger.append(EventKind.RELEASE_BUILT, built.id, built.facts())
    verdict = release.check(built)
    ledger.record_verdict(verdict, release=built.id)
    if not (built.folder.parent / f"evidence-{built.id}").exists():
        evidence.write(built.id, built.folder.parent)
    return built.id


def rollback(actor: str, reason: str) -> tuple[str, list[str]]:
    """Go back to the release before the served one, champions included. Returns its id and the moved task/version.

    Traffic follows the ledger at once. MLflow's aliases take seconds, so they are set last.
    """
    current, previous = current_state.release_to_serve(), current_state.previous_release()
    if current is None or previous is None:
        raise Fault("there is no earlier release to go back to")
    moved = []
    for task, version in previous.payload["tasks"].items():
        if current_state.roles(task).get("champion") != version:
            facts = {"version": version, "release": previous.subject, "reason": reason}
            ledger.append(EventKind.MODEL_ROLLED_BACK, task, facts, actor=actor)
            moved.append((task, version))
    facts = {"instead_of": current.subject, "reason": reason}
    decisions.record(EventKind.RELEASE_WANTED, previous.subject, facts, actor)
    for task, _ in moved:
        mlflow_registry.update_aliases(task)
    return previous.subject, [f"{task}/{version}" for task, version in moved]
