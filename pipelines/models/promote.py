"""From a verdict to a served release: decide, approve or reject, promote, build, roll back."""

from __future__ import annotations

import logging

from lineage import decisions, fingerprint, registry
from lineage.audit import evidence
from lineage.errors import Fault
from lineage.record import ledger
from lineage.record.ledger import Event
from lineage.record.verdict import Outcome, Verdict
from pipelines import params
from pipelines.models import release
from pipelines.models.verdicts import champions, judged

log = logging.getLogger(__name__)
digest = fingerprint.digest


def decide(task: str, version: str, verdict: Verdict) -> str:
    """What follows from a verdict: promoted, rejected, or waiting for a person."""
    if verdict.outcome is Outcome.FAIL:
        ledger.append("model.rejected", task, {"version": version, "reason": "the training gate said fail"})
        return "rejected"
    if verdict.outcome is Outcome.PASS and params.load().promotion.approval == "automatic":
        promote(task, version, "system", "passed the gate; approval is automatic")
        return "promoted"
    return "waiting for approval"


def approve(task: str, version: str, actor: str, reason: str) -> Event:
    """A person lets a version through that passed or was inconclusive: the signed row, on which `act` acts. Fault for
    one that failed, here or in shadow, and for one that is the champion."""
    from pipelines.models import shadow  # pandas and the gate: a rollback does not wait for them

    verdict = judged(task, version)
    if verdict.outcome is Outcome.FAIL:
        raise Fault(f"the gate said fail on {task}/{version}: {verdict.reasons[0]}; a fail can't be approved")
    if not reason.strip():
        raise Fault("an approval needs a reason (--reason)")
    shadow.check_comparison(task, version)
    is_champion = registry.roles(task).get("champion") == version
    if is_champion and not pending_release():  # else an approval was interrupted, and the same command finishes it
        raise Fault(f"{task}/{version} is the champion already")
    registry.check_artifacts(task, version)
    return _sign(task, version, "approve", actor, reason)


def reject(task: str, version: str, actor: str, reason: str) -> Event:
    """A person turns a version down: the signed row, on which `act` acts."""
    judged(task, version)
    if registry.roles(task).get("champion") == version:
        raise Fault(f"{task}/{version} is the champion; `oncoloop rollback` takes it back")
    return _sign(task, version, "reject", actor, reason)


def _sign(task: str, version: str, decision: str, actor: str, reason: str) -> Event:
    return decisions.record("approval", f"{task}/{version}", {"decision": decision, "reason": reason}, actor)


def act(event: Event) -> None:
    """Carry out what `decisions.check` has found good: promote or turn down. Begun before a kill, it is finished.

    Fault where that can't be done any more: the gate said fail, or the version has failed in shadow.
    """
    from pipelines.models import shadow

    task, _, version = event.subject.rpartition("/")
    for other in ledger.events("decision.used", event.subject):
        if other.seq > event.seq and "refused" not in other.payload:
            raise Fault(f"{event.subject} was decided by somebody else at the same time")
    verdict, reason = judged(task, version), str(event.payload["reason"])
    if event.payload["decision"] == "reject":
        shadow.end_of(task, version, event.actor, "the version is turned down")
        if registry.roles(task).get("champion") == version:
            raise Fault(f"{task}/{version} is the champion; `oncoloop rollback` takes it back")
        ledger.append("model.rejected", task, {"version": version, "reason": reason}, actor=event.actor)
        return
    if verdict.outcome is Outcome.FAIL:
        raise Fault(f"the gate said fail on {task}/{version}: {verdict.reasons[0]}; a fail can't be approved")
    if registry.roles(task).get("champion") != version:
        shadow.admit(task, version, event.actor)
        registry.check_artifacts(task, version)
        promote(task, version, event.actor, reason)


def promote(task: str, version: str, actor: str, reason: str) -> None:
    """Make a version the champion: decided in the ledger, projected to MLflow's aliases.

    Fault where a file of the version is not what the gate judged.
    """
    registry.check_artifacts(task, version)
    event = ledger.events(kind="verdict", subject=f"{task}/{version}")[-1]
    tags = registry.tags(task, version)
    facts: dict[str, object] = {
        "run_id": tags["run_id"],
        "data_version": tags["data_version"],
        "verdict_seq": event.seq,
        "outcome": event.payload["outcome"],
        "reason": reason,
    }
    registry.promote(task, version, facts, actor)


def pending_release() -> bool:
    """Whether the newest checked release holds other versions than the champions."""
    checked = {event.subject for event in ledger.events(kind="verdict") if event.payload["gate"] == "release"}
    built = [event for event in ledger.events(kind="release.built") if event.subject in checked]
    return bool(champions()) and (not built or built[-1].payload["tasks"] != champions())


def release_champions() -> str | None:
    """Build and check a release of all champions if the newest one is not that; its id, or None if nothing to do."""
    for task in champions():
        if wrong := registry.mismatches(task):
            log.warning("%s; the ledger decides, the aliases are set again", wrong[0])
            registry.project(task)
    if not pending_release():
        return None
    settings = params.load()
    built = release.build(settings, champions())
    ledger.append("release.built", built.id, built.facts())
    verdict = release.check(built)
    ledger.record(verdict, release=built.id)
    if not (built.folder.parent / f"evidence-{built.id}").exists():
        evidence.write(built.id, built.folder.parent)
    return built.id


def rollback(actor: str, reason: str) -> tuple[str, list[str]]:
    """Name the release before the one that answers now as the wanted one; models follow it. Returns id and tasks.

    Traffic follows what the ledger says as soon as that stands there; MLflow's aliases, which take seconds, come last.
    """
    current, previous = release.wanted(), release.previous()
    if current is None or previous is None:
        raise Fault("there is no earlier release to go back to")
    moved = []
    for task, version in previous.payload["tasks"].items():
        if registry.roles(task).get("champion") != version:
            facts = {"version": version, "release": previous.subject, "reason": reason}
            ledger.append("model.rolled-back", task, facts, actor=actor)
            moved.append((task, version))
    facts = {"instead_of": current.subject, "reason": reason}
    decisions.record("release.wanted", previous.subject, facts, actor)
    for task, _ in moved:
        registry.project(task)
    return previous.subject, [f"{task}/{version}" for task, version in moved]
