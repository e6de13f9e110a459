"""retrain, approve, reject, rollback, reproduce, crossval, stage: models and who lets them through."""

from __future__ import annotations

import argparse
import logging
import os
import uuid
from collections.abc import Mapping
from pathlib import Path

from lineage import decisions
from lineage.errors import Fault
from lineage.record.verdict import EXIT_CODES
from pipelines import params
from pipelines.cli import Answer
from pipelines.workspace import command_line_session, workspace

log = logging.getLogger(__name__)


def retrain(args: argparse.Namespace) -> Answer:
    """Train, gate, and release what passes; says so where nothing changed."""
    from pipelines.flows import retrain_plan

    params.load()
    with workspace.alone("workspace"):
        due = retrain_plan.due(args.task)
    if not due:
        return Answer(
            {"changed": False, "models": []}, "nothing new: data, params and code are those of the last retraining"
        )
    from pipelines.flows import retrain as flow

    who = command_line_session.authorised_person("retrain")
    wish = {"key": f"by hand/{uuid.uuid4().hex}", "reason": args.reason}
    asked = decisions.record("retrain.asked", args.task or "all", wish, who)
    decisions.use(asked)
    result = flow.retrain(args.task, args.reason, args.pool)
    lines = [f"data version {result['data_version'][:12]}"]
    for entry in result["models"]:
        lines.append(f"{entry['task']}/{entry['version']}: {entry['verdict']['outcome']}, {entry['decision']}")
        lines += [f"  - {reason}" for reason in entry["verdict"]["reasons"]]
        lines += [f"  {note}"] if (note := params.load().task(entry["task"]).note) else []
    if result["release"]:
        lines.append(f"release {result['release']} is built")
    code = EXIT_CODES[flow.said_no(result)] if any(e["decision"] != "unchanged" for e in result["models"]) else 0
    return Answer({"changed": True, **result}, "\n".join(lines), code)


def _decide(args: argparse.Namespace, decision: str) -> Answer:
    from pipelines.flows.scheduled_flows import decide
    from pipelines.models import promote, verdicts

    params.load().task(args.task)
    verdicts.judged(args.task, args.version)
    sign = promote.approve if decision == "approve" else promote.reject
    approval = sign(args.task, args.version, command_line_session.authorised_person("approve"), args.reason)
    outcome = next((each for each in decide() if each["decision"] == approval.seq), None)
    if outcome is None or outcome["refused"]:
        raise Fault(
            outcome["refused"] if outcome else f"the decision {approval.seq} was not acted on; see `oncoloop status`"
        )
    release = f"; release {outcome['release']} is built" if outcome["release"] else ""
    result = {"task": args.task, "version": args.version, "decision": decision, "release": outcome["release"]}
    return Answer(result, f"{args.task}/{args.version}: {decision}d{release}".replace("rejectd", "rejected"))


def approve(args: argparse.Namespace) -> Answer:
    """A person lets a version through."""
    return _decide(args, "approve")


def reject(args: argparse.Namespace) -> Answer:
    """A person turns a version down."""
    return _decide(args, "reject")


def rollback(args: argparse.Namespace) -> Answer:
    """Back to the release before this one; `up` moves the traffic within a second or two."""
    from pipelines.models import promote

    release, moved = promote.rollback(command_line_session.authorised_person("traffic"), args.reason)
    return Answer(
        {"release": release, "models": moved},
        f"release {release} is wanted again; {', '.join(moved) or 'no model changed'}",
    )


def reproduce(args: argparse.Namespace) -> Answer:
    """Train a version again from its data, params and code, and compare."""
    from pipelines.models import reproduce as models_reproduce

    params.load().task(args.task)
    result = models_reproduce.reproduce(args.task, args.version)
    lines = [f"{args.task}/{args.version}, trained again: " + ("the same" if result["same"] else "not the same")]
    lines += [f"  {name}: {old} then, {new} now" for name, (old, new) in result["figures"].items()]
    lines += [f"  note: {note}" for note in result["notes"]]
    return Answer(result, "\n".join(lines), 0 if result["same"] else 1)


def crossval(args: argparse.Namespace) -> Answer:
    """Judge the network of these settings on all admitted data; no version is made, no test cohort spent."""
    from data.dataset import shards
    from lineage import paths
    from pipelines.flows import retrain_plan
    from pipelines.workspace import dvc
    from training.evaluation import cross_validation as validation

    settings = params.load()
    task = settings.task(args.task)
    with workspace.alone("workspace"):
        retrain_plan.trainable(task.name)
        tree = retrain_plan.pin()
        dvc.reproduce(tree, "prepare", task.name)
        units = shards.load(tree / "data" / "processed" / task.name)
        target = paths.place("crossval", task.name)
        told = validation.crossval(
            units, task, settings.fit_of(task.name), settings.calibrate, settings.evaluate, args.folds, target
        )
    lines = [f"{task.name}, {told['folds']} folds of {told['counts']['clusters']} clusters; written to {target}"]
    for name in ("auroc", "balanced_accuracy"):
        mine, simple = told["test"][name], told["baseline"][name]
        lines.append(f"{name.replace('_', ' ')} {_interval(mine)}, {told['baseline']['model']} {_interval(simple)}")
    return Answer(told, "\n".join(lines))


def _interval(figure: Mapping[str, float | None]) -> str:
    """A figure with its interval by cluster."""
    if figure["value"] is None:
        return "unknown"
    return f"{figure['value']:.3f}" + (f" ({figure['low']:.3f} to {figure['high']:.3f})" if figure["low"] else "")


def stage(args: argparse.Namespace) -> Answer:
    """One DVC stage, in the folder that DVC chose; its log goes where the flow follows it."""
    from lineage import child_process, paths
    from pipelines import stages
    from pipelines.workspace import stage_log

    child_process.follow_holder()
    if not Path(params.NAME).is_file():
        raise Fault("`oncoloop stage` runs in a workspace or its worktree; DVC calls it")
    os.environ.setdefault("ONCOLOOP_HOME", str(Path("var").absolute()))
    paths.set_environment()
    handler = logging.FileHandler(stage_log.path(args.stage, args.task))
    handler.setFormatter(logging.Formatter("%(name)s: %(message)s"))
    logging.getLogger().addHandler(handler)
    log.info("%s@%s starts", args.stage, args.task)
    stages.RUN[args.stage](args.task)
    return Answer({"stage": args.stage, "task": args.task}, f"{args.stage}@{args.task} done")
