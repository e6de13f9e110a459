"""The current state, derived from the ledger: roles and versions of models, releases, the shadow, admitted batches.

No other file derives these from events. A decision counts only if it is signed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from lineage import decisions
from lineage.errors import Fault
from lineage.record import ledger
from lineage.record.events import EventKind
from lineage.record.ledger import Event
from lineage.record.verdict import Outcome, Verdict, from_dict

ROLES = ("champion", "previous", "anchor")
BUILT = (EventKind.RELEASE_BUILT, EventKind.SHADOW_BUILT)
PROMOTABLE = (Outcome.PASS, Outcome.INCONCLUSIVE)


@dataclass(frozen=True)
class Activation:
    """A release that answers or has answered, the address of its server, and the number of the event."""

    release: str
    url: str
    seq: int


@dataclass(frozen=True)
class Shadow:
    """The version in shadow, the release that holds it, since when, and its address (empty until it is ready)."""

    task: str
    version: str
    release: str
    seq: int
    since: str
    url: str = ""
    ready_since: str = ""


@dataclass(frozen=True)
class ModelVersion:
    """One version of a task's model: its roles, the verdicts on it, and what was decided about it.

    `decision` is the newest one that holds or waits; `result` is `promoted`, `rejected` or empty.
    """

    task: str
    version: str
    logged: Event
    roles: tuple[str, ...]
    verdict: Event | None
    shadow_verdict: Event | None
    decision: Event | None
    result: str

    @property
    def note(self) -> str:
        """What must be said wherever the task shows; empty if nothing."""
        return str(self.logged.payload.get("note", ""))

    @property
    def is_waiting(self) -> bool:
        """Whether a person may still approve or reject it."""
        is_promotable = self.verdict is not None and self.verdict.payload["outcome"] in PROMOTABLE
        return is_promotable and self.decision is None and not self.result


@dataclass(frozen=True)
class SiteJudgement:
    """One verdict of the site gate on a task's version at a site (a hash), and the acceptance that it led to."""

    task: str
    version: str
    site: str
    verdict: Event
    decision: Event | None

    @property
    def is_promotable(self) -> bool:
        """Whether a person may accept the site by this verdict."""
        return self.verdict.payload["outcome"] in PROMOTABLE

    def decision_facts(self, reason: str) -> dict[str, Any]:
        """The facts of the decision that accepts the site by this verdict."""
        return {
            "task": self.task,
            "version": self.version,
            "site": self.site,
            "verdict": self.verdict.seq,
            "reason": reason,
        }


def activations() -> list[Activation]:
    """Every release that answers or has answered, newest first."""
    events = ledger.events(EventKind.RELEASE_ACTIVATED)
    return [Activation(event.subject, str(event.payload["url"]), event.seq) for event in reversed(events)]


def live_release() -> Activation | None:
    """The release that answers; None before the first one."""
    events = ledger.events(EventKind.RELEASE_ACTIVATED, limit=1)
    return Activation(events[0].subject, str(events[0].payload["url"]), events[0].seq) if events else None


def build_of(release: str) -> Event | None:
    """The newest event that says how a release was built, for traffic or for a shadow."""
    events = [event for kind in BUILT for event in ledger.events(kind, release)]
    return events[-1] if events else None


def servable_releases() -> list[Event]:
    """The built releases whose check passed, oldest first."""
    verdicts = (event for event in ledger.events(EventKind.VERDICT) if event.payload["gate"] == "release")
    passed = {event.subject for event in verdicts if event.payload["outcome"] == Outcome.PASS}
    return [event for event in ledger.events(EventKind.RELEASE_BUILT) if event.subject in passed]


def release_to_serve() -> Event | None:
    """The release to serve: the newest servable one, unless a later signed rollback chose another."""
    candidates = servable_releases()
    if not candidates:
        return None
    rollbacks = [event for event in ledger.events(EventKind.RELEASE_WANTED) if decisions.is_signed(event)]
    if rollbacks and rollbacks[-1].seq > candidates[-1].seq:
        return next(event for event in reversed(candidates) if event.subject == rollbacks[-1].subject)
    return candidates[-1]


def previous_release() -> Event | None:
    """The servable release before the one to serve."""
    current = release_to_serve()
    earlier = [event for event in servable_releases() if current and event.seq < current.seq]
    return earlier[-1] if earlier else None


def active_shadow() -> Shadow | None:
    """The version that stands in shadow; None if there is none."""
    started, stopped = _newest_signed(EventKind.SHADOW_STARTED), _newest_signed(EventKind.SHADOW_STOPPED)
    if started is None or (stopped is not None and stopped.seq > started.seq):
        return None
    task, facts = started.subject, started.payload
    shadow = Shadow(task, str(facts["version"]), str(facts["release"]), started.seq, started.at)
    served = [event for event in ledger.events(EventKind.SHADOW_SERVED, task) if event.seq > started.seq]
    return replace(shadow, url=str(served[-1].payload["url"]), ready_since=served[0].at) if served else shadow


def roles(task: str) -> dict[str, str | None]:
    """Which version has which role.

    A promotion makes the champion previous. A rollback swaps the two, or goes to the version that it names. The first
    promoted version is the anchor until a person sets another.
    """
    versions: dict[str, str | None] = dict.fromkeys(ROLES)
    for event in ledger.events(subject=task):
        version = str(event.payload.get("version"))
        if event.kind == EventKind.ANCHOR_SET:
            versions["anchor"] = version
        elif event.kind in (EventKind.MODEL_PROMOTED, EventKind.MODEL_ROLLED_BACK) and version != versions["champion"]:
            versions["previous"] = versions["champion"]
            versions["champion"] = version
            versions["anchor"] = versions["anchor"] or version
    return versions


def champions(tasks: Iterable[str]) -> dict[str, str]:
    """The champion version of every one of these tasks that has one."""
    versions = {task: roles(task)["champion"] for task in tasks}
    return {task: version for task, version in versions.items() if version}


def tasks_with_versions() -> list[str]:
    """Every task that ever had a version."""
    return sorted({event.subject for event in ledger.events(EventKind.MODEL_LOGGED)})


def model_versions(task: str) -> list[ModelVersion]:
    """The versions of a task, newest first. The newest one that waits for a decision has the role `challenger`."""
    events, versions_by_role, shadow = ledger.events(subject=task), roles(task), active_shadow()
    promoted = {str(event.payload["version"]) for event in events if event.kind == EventKind.MODEL_PROMOTED}
    rejected = {str(event.payload["version"]) for event in events if event.kind == EventKind.MODEL_REJECTED}
    versions: list[ModelVersion] = []
    for logged in reversed([event for event in events if event.kind == EventKind.MODEL_LOGGED]):
        version = str(logged.payload["version"])
        own = ledger.events(subject=f"{task}/{version}")
        own_roles = tuple(role for role, holder in versions_by_role.items() if holder == version)
        if shadow and (shadow.task, shadow.version) == (task, version):
            own_roles = (*own_roles, "shadow")
        result = "promoted" if version in promoted else "rejected" if version in rejected else ""
        entry = ModelVersion(
            task,
            version,
            logged,
            own_roles,
            training_verdict(task, version),
            shadow_verdict(task, version),
            _decision(own),
            result,
        )
        if entry.is_waiting and not any("challenger" in newer.roles for newer in versions):
            entry = replace(entry, roles=(*own_roles, "challenger"))
        versions.append(entry)
    return versions


def undecided_versions(task: str) -> list[str]:
    """The logged versions that were neither promoted nor rejected, oldest first. It needs no keys of the workspace."""
    events = ledger.events(subject=task)
    decided = (EventKind.MODEL_PROMOTED, EventKind.MODEL_REJECTED)
    versions = {str(event.payload["version"]) for event in events if event.kind in decided}
    logged = [str(event.payload["version"]) for event in events if event.kind == EventKind.MODEL_LOGGED]
    return [version for version in logged if version not in versions]


def training_verdict(task: str, version: str) -> Event | None:
    """The newest verdict of the training gate on a version; None if the gate has not judged it."""
    events = ledger.events(EventKind.VERDICT, f"{task}/{version}", limit=1)
    return events[0] if events else None


def version_verdict(task: str, version: str) -> Verdict:
    """The newest verdict of the training gate on a version. Fault if there is none."""
    event = training_verdict(task, version)
    if event is None:
        raise Fault(f"there is no verdict on {task}/{version}; `oncoloop status` lists the versions")
    return from_dict(event.payload)


def shadow_subject(task: str, version: str) -> str:
    """The subject of a shadow's verdicts, apart from those of the training gate on the same version."""
    return f"{task}/{version} in shadow"


def shadow_verdict(task: str, version: str) -> Event | None:
    """The newest comparison of a version in shadow with the champion; None if there is none."""
    events = ledger.events(EventKind.VERDICT, shadow_subject(task, version), limit=1)
    return events[0] if events else None


def admitted_batches(task: str | None = None) -> list[Event]:
    """The admitted batches of a task, or of all tasks, oldest first."""
    events = ledger.events(EventKind.BATCH_ADMITTED)
    return [event for event in events if task is None or event.payload.get("task") == task]


def site_subject(task: str, site: str) -> str:
    """The subject of the verdicts and decisions on a site of a task; `site` is its hash (lineage/site_hash.py)."""
    return f"{task} at site {site}"


def site_judgements(task: str) -> list[SiteJudgement]:
    """The verdicts of the site gate on the sites of a task, newest first, each with the signed decision on it."""
    accepted = {
        event.payload["verdict"]: event
        for event in ledger.events(EventKind.SITE_ACCEPTED)
        if event.payload["task"] == task and decisions.is_signed(event)
    }
    return [
        SiteJudgement(task, str(event.payload["version"]), str(event.payload["site"]), event, accepted.get(event.seq))
        for event in reversed(ledger.events(EventKind.VERDICT))
        if event.payload["gate"] == "site" and event.payload.get("task") == task
    ]


def site_acceptances(task: str, version: str) -> list[SiteJudgement]:
    """The judgements by which people accepted sites for a version, newest first, without those withdrawn since."""
    withdrawn = withdrawn_sites(task)
    return [
        judgement
        for judgement in site_judgements(task)
        if judgement.version == version
        and judgement.is_promotable
        and judgement.decision is not None
        and judgement.decision.seq > withdrawn.get(judgement.site, 0)
    ]


def withdrawn_sites(task: str) -> dict[str, int]:
    """The sites that people withdrew from a task, each with the number of the newest signed decision."""
    events = [event for event in ledger.events(EventKind.SITE_WITHDRAWN) if event.payload["task"] == task]
    return {str(event.payload["site"]): event.seq for event in events if decisions.is_signed(event)}


def site_decisions(champions: Mapping[str, str]) -> list[int]:
    """The numbers of the decisions on sites that apply to these versions; a release has to agree with all of them."""
    numbers = [
        acceptance.decision.seq
        for task, version in champions.items()
        for acceptance in site_acceptances(task, version)
        if acceptance.decision is not None
    ]
    return sorted([*numbers, *(seq for task in champions for seq in withdrawn_sites(task).values())])


def withdrawn_since(model: str) -> str | None:
    """The date since which a model (`task/version`) cannot be reproduced; None while it can."""
    dates = [event.at[:10] for event in ledger.events(EventKind.PATIENT_WITHDRAWN) if model in event.payload["models"]]
    return dates[0] if dates else None


def _decision(events: list[Event]) -> Event | None:
    """The newest decision about a version that holds or waits: signed, not too old, and refused by nobody."""
    used = [event.payload for event in events if event.kind == EventKind.DECISION_USED]
    refused = {facts["decision"] for facts in used if "refused" in facts}
    approvals = [event for event in events if event.kind == EventKind.APPROVAL and event.seq not in refused]
    valid = [event for event in approvals if decisions.is_signed(event) and not decisions.is_late(event)]
    return valid[-1] if valid else None


def _newest_signed(kind: EventKind) -> Event | None:
    events = reversed(ledger.events(kind))
    return next((event for event in events if decisions.is_signed(event)), None)
