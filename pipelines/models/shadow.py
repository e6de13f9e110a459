"""A challenger in shadow: a release with it in the champion's place, which answers behind the live one, seen by nobody.

Decided in the ledger: `shadow.started` and `shadow.stopped` (a person), `shadow.served` (where its server answers).
Its answers are rows of the journal that name the answers which they stand behind; their comparison is a verdict.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import pandas as pd

from lineage import accounts, decisions, registry
from lineage.errors import Fault
from lineage.record import journal, ledger
from lineage.record.ledger import Event
from lineage.record.verdict import Outcome, Verdict, from_dict
from monitoring import late_labels, window
from pipelines import params
from pipelines.models import release, verdicts
from training.promotion import shadow_comparison as gate

log = logging.getLogger(__name__)
COLUMNS = {"answer": "", "score": "_score", "duration_ms": "_ms"}


@dataclass(frozen=True)
class Shadow:
    """The version that stands in shadow, the release that holds it, and since when (number of the event, time)."""

    task: str
    version: str
    release: str
    seq: int
    since: str


def wanted() -> Shadow | None:
    """What should run in shadow now."""
    started, stopped = _last("shadow.started"), _last("shadow.stopped")
    if started is None or (stopped is not None and stopped.seq > started.seq):
        return None
    facts = started.payload
    return Shadow(started.subject, str(facts["version"]), str(facts["release"]), started.seq, started.at)


def served(dark: Shadow, url: str) -> None:
    """Tell the desk where the shadow answers, once for each address."""
    told = _last("shadow.served")
    if told is None or told.seq < dark.seq or told.payload["url"] != url:
        ledger.append("shadow.served", dark.task, {"release": dark.release, "version": dark.version, "url": url})
        log.info("%s/%s answers in shadow at %s", dark.task, dark.version, url)


def start(task: str, version: str, actor: str) -> str:
    """Build and check a release with this version in the champion's place, and let it stand in shadow; its id."""
    if (now := wanted()) is not None:
        raise Fault(f"{now.task}/{now.version} stands in shadow; `oncoloop shadow {now.task} {now.version} --stop`")
    verdict = verdicts.judged(task, version)
    if verdict.outcome is Outcome.FAIL:
        raise Fault(f"the gate said fail on {task}/{version}: {verdict.reasons[0]}; it is not worth a shadow")
    champions = verdicts.champions()
    if champions.get(task) in (None, version):
        raise Fault(f"{task} has no other champion that {task}/{version} could stand behind")
    built = release.build(params.load(), champions | {task: version})
    if not ledger.events("shadow.built", built.id):
        ledger.append("shadow.built", built.id, built.facts(), actor)
    checked = release.check(built)
    ledger.record(checked, release=built.id)
    if checked.outcome is Outcome.FAIL:
        raise Fault(f"the release of {task}/{version} did not pass its check: {checked.reasons[0]}")
    begin(task, version, built.id, actor)
    return built.id


def begin(task: str, version: str, release: str, actor: str) -> None:
    """Let a built release stand in shadow from now on, and open the account that its answers are journalled for."""
    if accounts.SHADOW not in [person.name for person in accounts.people()]:
        accounts.add(accounts.SHADOW, "engineer")
    decisions.record("shadow.started", task, {"version": version, "release": release}, actor)


def stop(actor: str, reason: str = "asked by hand") -> Verdict:
    """End the shadow, and write down how it compared. Fault if there is none."""
    now = wanted()
    if now is None:
        raise Fault("nothing stands in shadow; `oncoloop shadow TASK VERSION` starts one")
    decisions.record("shadow.stopped", now.task, {"version": now.version, "reason": reason}, actor)
    return judge(now, actor)


def end_of(task: str, version: str, actor: str, reason: str) -> None:
    """End the shadow if it is this version's."""
    if (now := wanted()) is not None and (now.task, now.version) == (task, version):
        stop(actor, reason)


def judge(dark: Shadow, actor: str = accounts.SYSTEM) -> Verdict:
    """Compare what the shadow said with what was answered, and write the verdict down."""
    settings = params.load()
    both, unpaired = pairs(dark)
    subject = of(dark.task, dark.version)
    verdict = gate.compare(subject, both, unpaired, settings.task(dark.task).positive, settings.promotion.shadow)
    ledger.record(verdict, actor, task=dark.task, version=dark.version, release=dark.release)
    return verdict


def of(task: str, version: str) -> str:
    """The subject of a shadow's verdicts, apart from those of the training gate on the same version."""
    return f"{task}/{version} in shadow"


def admit(task: str, version: str, actor: str) -> None:
    """Before an approval: end the version's own shadow, and refuse what its newest comparison has failed. Fault."""
    end_of(task, version, actor, "the version is to be approved")
    check_comparison(task, version)


def check_comparison(task: str, version: str) -> None:
    """Fault where a version's newest comparison in shadow has failed."""
    found = ledger.events("verdict", of(task, version), limit=1)
    if found and (said := from_dict(found[0].payload)).outcome is Outcome.FAIL:
        raise Fault(f"in shadow {task}/{version} failed: {said.reasons[0]}; it can't be approved")


def pairs(dark: Shadow) -> tuple[pd.DataFrame, int]:
    """What `training.promotion.shadow_comparison.compare` takes: the pairs since the shadow began, and how many
    answers have none.

    Counted are the champion's answers after the shadow's server was first ready; those of release checks are not.
    """
    served_since = [event for event in ledger.events("shadow.served", dark.task) if event.seq > dark.seq]
    live = window.window(dark.task, since=served_since[0].at) if served_since else window.window(dark.task).iloc[:0]
    live = live[live["version"] == registry.roles(dark.task)["champion"]]
    behind = journal.rows(dark.task, since=dark.since, release=dark.release, shadows=True)
    kept = ["id", "cluster", *COLUMNS]
    labels = late_labels.labels().rename(columns={"prediction_id": "id"})[["id", "label"]]
    both = live[kept].merge(behind[["shadows", *COLUMNS]], left_on="id", right_on="shadows", suffixes=("_l", "_d"))
    named: dict[str, Any] = {"cluster": both["cluster"]}
    for column, ending in COLUMNS.items():
        named |= {f"live{ending}": both[f"{column}_l"], f"dark{ending}": both[f"{column}_d"]}
    label = both[["id"]].merge(labels, on="id", how="left")["label"]
    return pd.DataFrame(named | {"label": label}), len(live) - len(both)


def _last(kind: str) -> Event | None:
    """The newest row of a kind; of decisions the newest that is signed."""
    found = ledger.events(kind=kind)
    return next((e for e in reversed(found) if kind not in decisions.KINDS or decisions.is_signed(e)), None)
