"""A challenger in shadow: its release answers the same requests as the champion's, and nobody sees its answers.

The ledger decides: `shadow.started` and `shadow.stopped` (by a person), `shadow.served` (the address of its server).
A shadow answer is a journal row that names the live answer to the same request. Their comparison is a verdict.
"""

from __future__ import annotations

import logging
from typing import Any

import pandas as pd

from lineage import accounts, current_state, decisions
from lineage.errors import Fault
from lineage.record import journal, ledger
from lineage.record.events import EventKind
from lineage.record.verdict import Outcome, Verdict, from_dict
from monitoring import late_labels, window
from pipelines import params
from pipelines.models import release
from training.promotion import shadow_comparison as gate

log = logging.getLogger(__name__)
COLUMNS = {"answer": "", "score": "_score", "duration_ms": "_ms"}


def record_address(shadow: current_state.Shadow, url: str) -> None:
    """Record the address of the shadow's server for the desk, once for each address."""
    if shadow.url != url:
        ledger.append(
            EventKind.SHADOW_SERVED, shadow.task, {"release": shadow.release, "version": shadow.version, "url": url}
        )
        log.info("%s/%s answers in shadow at %s", shadow.task, shadow.version, url)


def start(task: str, version: str, actor: str) -> str:
    """Build and check a release with this version in the champion's place, and start its shadow. Returns its id.

    Fault if a shadow runs already, if the gate or the release check failed, or if there is no other champion.
    """
    if (active := current_state.active_shadow()) is not None:
        raise Fault(
            f"{active.task}/{active.version} is in shadow; `oncoloop shadow {active.task} {active.version} --stop`"
        )
    verdict = current_state.version_verdict(task, version)
    if verdict.outcome is Outcome.FAIL:
        raise Fault(f"the gate said fail on {task}/{version}: {verdict.reasons[0]}; it is not worth a shadow")
    champions = current_state.champions(params.load().tasks)
    if champions.get(task) in (None, version):
        raise Fault(f"{task} has no other champion that {task}/{version} could be compared with in shadow")
    built = release.build(params.load(), champions | {task: version})
    if not ledger.events(EventKind.SHADOW_BUILT, built.id):
        ledger.append(EventKind.SHADOW_BUILT, built.id, built.facts(), actor)
    release_verdict = release.check(built)
    ledger.record_verdict(release_verdict, release=built.id)
    if release_verdict.outcome is Outcome.FAIL:
        raise Fault(f"the release of {task}/{version} did not pass its check: {release_verdict.reasons[0]}")
    record_start(task, version, built.id, actor)
    return built.id


def record_start(task: str, version: str, release: str, actor: str) -> None:
    """Record the start of a built release's shadow, and make sure that the account of its journal rows exists."""
    if accounts.SHADOW_ACCOUNT not in [person.name for person in accounts.people()]:
        accounts.add(accounts.SHADOW_ACCOUNT, "engineer")
    decisions.record(EventKind.SHADOW_STARTED, task, {"version": version, "release": release}, actor)


def stop(actor: str, reason: str = "asked by hand") -> Verdict:
    """Stop the shadow and record its comparison. Fault if there is none."""
    active = current_state.active_shadow()
    if active is None:
        raise Fault("no version is in shadow; `oncoloop shadow TASK VERSION` starts one")
    decisions.record(EventKind.SHADOW_STOPPED, active.task, {"version": active.version, "reason": reason}, actor)
    return judge_shadow(active, actor)


def stop_version(task: str, version: str, actor: str, reason: str) -> None:
    """Stop the shadow if it is that of this version."""
    if (active := current_state.active_shadow()) is not None and (active.task, active.version) == (task, version):
        stop(actor, reason)


def judge_shadow(shadow: current_state.Shadow, actor: str = accounts.SYSTEM) -> Verdict:
    """Compare the shadow's answers with the live answers, and record the verdict."""
    settings = params.load()
    pairs, unpaired_count = paired_answers(shadow)
    subject = current_state.shadow_subject(shadow.task, shadow.version)
    positive = settings.task(shadow.task).positive
    verdict = gate.compare(subject, pairs, unpaired_count, positive, settings.promotion.shadow)
    ledger.record_verdict(verdict, actor, task=shadow.task, version=shadow.version, release=shadow.release)
    return verdict


def prepare_approval(task: str, version: str, actor: str) -> None:
    """Stop the version's own shadow before an approval. Fault if its newest comparison in shadow has failed."""
    stop_version(task, version, actor, "the version is to be approved")
    check_comparison(task, version)


def check_comparison(task: str, version: str) -> None:
    """Fault if a version's newest comparison in shadow has failed."""
    event = current_state.shadow_verdict(task, version)
    if event and (verdict := from_dict(event.payload)).outcome is Outcome.FAIL:
        raise Fault(f"in shadow {task}/{version} failed: {verdict.reasons[0]}; it can't be approved")


def paired_answers(shadow: current_state.Shadow) -> tuple[pd.DataFrame, int]:
    """The pairs for `training.promotion.shadow_comparison.compare`, and the number of unpaired live answers.

    Live answers are those of the champion since the shadow's server was first ready, without those of release checks.
    """
    live = (
        window.read_window(shadow.task, since=shadow.ready_since)
        if shadow.ready_since
        else window.read_window(shadow.task).iloc[:0]
    )
    live = live[live["version"] == current_state.roles(shadow.task)["champion"]]
    shadow_rows = journal.rows(shadow.task, since=shadow.since, release=shadow.release, shadows=True)
    live_columns, shadow_columns = ["id", "cluster", *COLUMNS], ["shadows", *COLUMNS]
    labels = late_labels.labels().rename(columns={"prediction_id": "id"})[["id", "label"]]
    merged = live[live_columns].merge(
        shadow_rows[shadow_columns], left_on="id", right_on="shadows", suffixes=("_live", "_shadow")
    )
    pairs: dict[str, Any] = {"cluster": merged["cluster"]}
    for column, suffix in COLUMNS.items():
        pairs |= {f"live{suffix}": merged[f"{column}_live"], f"dark{suffix}": merged[f"{column}_shadow"]}
    label = merged[["id"]].merge(labels, on="id", how="left")["label"]
    return pd.DataFrame(pairs | {"label": label}), len(live) - len(merged)
