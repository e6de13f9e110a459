"""retrain, approve, reject, rollback, reproduce, crossval, stage: train models and decide on them."""

from __future__ import annotations

import argparse
import logging
import os
import uuid
from collections.abc import Mapping
from pathlib import Path

from lineage import decisions
from lineage.errors import Fault
from lineage.record.events import EventKind
from lineage.record.verdict import EXIT_CODES
from pipelines import params
from pipelines.cli import Answer
from pipelines.workspace import command_line_session, workspace

log = logging.getLogger(__name__)


def retrain(args: argparse.Namespace) -> Answer:
    """Train, judge, and release versions that pass; without new inputs, do nothing."""
    from pipelines.flows import retrain_plan

    params.load()
    with workspace.hold_lock("workspace"):
        due = retrain_plan.pending_work(args.task)
    if not due:
        return Answer(
            {"changed": False, "models": []},
            "nothing new: data, params and code are the same as in the last retraining",
        )
    from pipelines.flows import retrain as flow

    person = command_line_session.authorised_person("retrain")
    payload = {"key": f"by hand/{uuid.uuid4().hex}", "reason": args.reason}
    request = decisions.record(EventKind.RETRAIN_ASKED, args.task or "all", payload, person)
    decisions.mark_used(request)
    result = flow.retrain(args.task, args.reason, args.pool)
    lines = [f"data version {result['data_version'][:12]}"]
    for entry in result["models"]:
        lines.append(f"{entry['task']}/{entry['version']}: {entry['verdict']['outcome']}, {entry['decision']}")
        lines += [f"  - {reason}" for reason in entry["verdict"]["reasons"]]
        lines += [f"  {note}"] if (note := params.load().task(entry["task"]).note) else []
    if result["release"]:
        lines.append(f"release {result['release']} is built")
    code = EXIT_CODES[flow.worst_outcome(result)] if any(e["decision"] != "unchanged" for e in result["models"]) else 0
    return Answer({"changed": True, **result}, "\n".join(lines), code)


def _decide(args: argparse.Namespace, decision: str) -> Answer:
    from lineage import current_state
    from pipelines.flows.scheduled_flows import decide
    from pipelines.models import promote

    params.load().task(args.task)
    current_state.version_verdict(args.task, args.version)
    sign = promote.approve if decision == "approve" else promote.reject
    approval = sign(args.task, args.version, command_line_session.authorised_person("approve"), args.reason)
    outcome = next((entry for entry in decide() if entry["decision"] == approval.seq), None)
    if outcome is None or outcome["refused"]:
        raise Fault(
            outcome["refused"] if outcome else f"the decision {approval.seq} took no effect; see `oncoloop status`"
        )
    release = f"; release {outcome['release']} is built" if outcome["release"] else ""
    result = {"task": args.task, "version": args.version, "decision": decision, "release": outcome["release"]}
    return Answer(result, f"{args.task}/{args.version}: {decision}d{release}".replace("rejectd", "rejected"))


def approve(args: argparse.Namespace) -> Answer:
    """Approve a version as a person."""
    return _decide(args, "approve")


def reject(args: argparse.Namespace) -> Answer:
    """Reject a version as a person."""
    return _decide(args, "reject")


def rollback(args: argparse.Namespace) -> Answer:
    """Return to the previous release; `oncoloop up` moves the traffic within one or two seconds."""
    from pipelines.models import promote

    release, moved = promote.rollback(command_line_session.authorised_person("traffic"), args.reason)
    return Answer(
        {"release": release, "models": moved},
        f"release {release} is wanted again; {', '.join(moved) or 'no model changed'}",
    )


def reproduce(args: argparse.Namespace) -> Answer:
    """Train a version again from its data, params and code, and compare the results."""
    from pipelines.models import reproduce as models_reproduce

    params.load().task(args.task)
    result = models_reproduce.reproduce(args.task, args.version)
    lines = [f"{args.task}/{args.version}, trained again: " + ("the same" if result["same"] else "not the same")]
    lines += [
        f"  {name}: {original} originally, {reproduced} now"
        for name, (original, reproduced) in result["figures"].items()
    ]
    lines += [f"  note: {note}" for note in result["notes"]]
    return Answer(result, "\n".join(lines), 0 if result["same"] else 1)


def crossval(args: argparse.Namespace) -> Answer:
    """Cross-validate the settings of a task on all admitted data; makes no version and uses up no test cohort."""
    from data.dataset import shards
    from lineage import paths
    from pipelines.flows import retrain_plan
    from pipelines.workspace import dvc
    from training.evaluation import cross_validation as validation

    settings = params.load()
    task = settings.task(args.task)
    with workspace.hold_lock("workspace"):
        retrain_plan.trainable_tasks(task.name)
        tree = retrain_plan.pin_worktree()
        dvc.reproduce(tree, "prepare", task.name)
        units = shards.load_units(tree / "data" / "processed" / task.name)
        target = paths.state_path("crossval", task.name)
        result = validation.cross_validate(
            units,
            task,
            settings.fit_of(task.name),
            settings.calibrate,
            settings.evaluate,
            args.folds,
            target,
            settings.serving.abstain_below,
        )
    lines = [f"{task.name}, {result['folds']} folds of {result['counts']['clusters']} clusters; written to {target}"]
    for name in ("auroc", "balanced_accuracy"):
        figure, baseline = result["test"][name], result["baseline"][name]
        lines.append(
            f"{name.replace('_', ' ')} {_interval(figure)}, {result['baseline']['model']} {_interval(baseline)}"
        )
    lines.append(f"answered {_interval(result['test']['coverage'])} of the units")
    lines += [
        f"auroc of {name} alone {_interval(entry['auroc'])}, the network there {entry['network_auroc']:.3f}"
        for name, entry in result["baselines"].items()
        if entry["status"] == "known"
    ]
    return Answer(result, "\n".join(lines))


def _interval(figure: Mapping[str, float | None]) -> str:
    """A figure with its interval, which resamples clusters, as text."""
    if figure["value"] is None:
        return "unknown"
    return f"{figure['value']:.3f}" + (f" ({figure['low']:.3f} to {figure['high']:.3f})" if figure["low"] else "")


def stage(args: argparse.Namespace) -> Answer:
    """Run one DVC stage in the current folder, which DVC chooses; the flow follows its log file."""
    from lineage import child_process, paths
    from pipelines import dvc_stages
    from pipelines.workspace import stage_log

    child_process.follow_holder()
    if not Path(params.NAME).is_file():
        raise Fault("`oncoloop stage` runs in a workspace or its worktree; DVC calls it")
    os.environ.setdefault("ONCOLOOP_HOME", str(Path("var").absolute()))
    paths.set_environment()
    handler = logging.FileHandler(stage_log.stage_log_path(args.stage, args.task))
    handler.setFormatter(logging.Formatter("%(name)s: %(message)s"))
    logging.getLogger().addHandler(handler)
    log.info("%s@%s starts", args.stage, args.task)
    dvc_stages.STAGES[args.stage](args.task)
    return Answer({"stage": args.stage, "task": args.task}, f"{args.stage}@{args.task} done")
