"""predict, replay, watch, ack, label, trace, verify: answers, and what stands behind them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from lineage import decisions
from lineage.errors import Fault
from lineage.record import journal, ledger
from lineage.record.verdict import EXIT_CODES, Outcome, from_dict, worst
from pipelines import params
from pipelines.cli import Answer
from pipelines.models import release
from pipelines.workspace import command_line_session


def _uploads(paths: list[Path]) -> list[Any]:
    from serving.inference.predict import Upload

    for path in paths:
        if not path.is_file():
            raise Fault(f"{path} is not a file; give the scans to read")
    return [Upload(path.name, path.read_bytes()) for path in paths]


def _release(name: str | None = None) -> Any:
    from lineage import paths as lineage_paths
    from serving.inference.release import load_release

    if name is None:
        wanted = release.wanted()
        if wanted is None:
            raise Fault("there is no release yet; `oncoloop retrain` makes the first one")
        name = wanted.subject
    return load_release(lineage_paths.home() / "releases" / name)


def predict(args: argparse.Namespace) -> Answer:
    """Answer one case in this process, through the code that serves; journalled like any answer."""
    from serving.inference.answer import answer

    uploads = _uploads(args.files)
    prediction = answer(_release(), uploads, args.task, command_line_session.current_person())
    return Answer(prediction, _told(prediction), EXIT_CODES[Outcome(prediction["verdict"]["outcome"])])


def _told(said: dict[str, Any]) -> str:
    verdict = said["verdict"]
    first = f"{said['title']}: {said['answer']}" if said["answer"] else f"{said['title']}: no answer is given"
    chances = ", ".join(f"{name} {value:.3f}" for name, value in said["probabilities"].items())
    reasons = [f"  - {reason}" for reason in verdict["reasons"]]
    reasons += [f"  - left out: {one['file']} ({one['reason']})" for one in said["left_out"]]
    return "\n".join(
        [first, *reasons, f"  {chances}", f"  prediction {said['id']}, release {said['release']}", said["note"]]
    )


def replay(args: argparse.Namespace) -> Answer:
    """Answer again with the release of that time, and say whether the answer is the same."""
    import hashlib

    from serving.inference import predict as serving

    before = journal.get(args.prediction)
    uploads = _uploads(args.files)
    hashes = [hashlib.sha256(upload.content).hexdigest() for upload in uploads]
    if sorted(hashes) != sorted(before["inputs"]):
        raise Fault(f"these are not the files of prediction {args.prediction}: their SHA-256 differ from the journal's")
    now = serving.to_json(serving.predict(_release(before["release"]), uploads, before["task"]))
    difference = max(abs(a - b) for a, b in zip(now["probabilities"].values(), before["probabilities"], strict=True))
    same = difference == 0.0 and now["answer"] == before["answer"]
    result = {
        "same": same,
        "difference": difference,
        "engine_then": before["engine"],
        "engine_now": now["engine"],
        "answer": now["answer"],
    }
    word = "the same answer" if same else "another answer"
    return Answer(result, f"{word}: {now['answer']}, largest difference {difference:.3g}", 0 if same else 1)


def watch(args: argparse.Namespace) -> Answer:
    """Look for drift; a fail asks for retraining."""
    params.load()
    from pipelines.flows import watch as flow

    flow.watched(args.task)
    results = flow.watch(args.task)
    verdicts = [from_dict(result["verdict"]) for result in results]
    lines = []
    for result, verdict in zip(results, verdicts, strict=True):
        lines += [f"{result['task']}: {verdict.outcome.value}", *(f"  - {reason}" for reason in verdict.reasons)]
        lines += [f"  page: {result['page']}"] if result["page"] else []
        lines += ["  retraining is asked for"] if result["asked"] else []
    return Answer(results, "\n".join(lines), EXIT_CODES[worst([verdict.outcome for verdict in verdicts])])


def ack(args: argparse.Namespace) -> Answer:
    """A person knows of the drift: until the next champion it asks for nothing."""
    from lineage import registry

    params.load().task(args.task)
    version = registry.roles(args.task).get("champion")
    if not version:
        raise Fault(f"no champion answers for {args.task} yet")
    who = command_line_session.authorised_person("acknowledge")
    decisions.record("drift.acknowledged", args.task, {"version": version, "reason": args.reason}, who)
    return Answer({"task": args.task, "version": version}, f"drift of {args.task}/{version} is acknowledged")


def label(args: argparse.Namespace) -> Answer:
    """Write down the truth of an answered case."""
    from monitoring import late_labels

    row = journal.get(args.prediction)
    classes = params.load().task(row["task"]).classes
    if args.label not in classes:
        raise Fault(f"{args.label!r} is no class of {row['task']}; its classes are {', '.join(classes)}")
    late_labels.add(args.prediction, args.label, args.source, command_line_session.current_person(), classes)
    return Answer({"prediction": args.prediction, "label": args.label}, f"{args.prediction}: {args.label}")


def trace(args: argparse.Namespace) -> Answer:
    """The whole chain behind a prediction."""
    from lineage.audit import trace as chains

    chain = chains.trace(args.prediction)
    return Answer(chain.to_dict(), chains.render(chain))


def verify(args: argparse.Namespace) -> Answer:
    """The ledger, walked from end to end; and what it names, beside git, DVC, cohort tables and MLflow."""
    from pipelines.recovery import repair, verify_workspace

    chain = ledger.verify()
    lines = [f"ledger: {chain.outcome.value}", *chain.reasons]
    done: list[str] = []
    if args.repair and chain.outcome is Outcome.FAIL:
        raise Fault(f"the ledger itself was changed ({chain.reasons[0]}); nothing is repaired by it: restore a backup")
    if args.repair:
        done = repair.repair()
        chain = ledger.verify()
    state = verify_workspace.verify(args.full)
    lines += [*(f"repaired: {line}" for line in done), f"workspace: {state.outcome.value}", *state.reasons]
    if state.outcome is Outcome.FAIL and not args.repair:
        lines.append("`oncoloop verify --repair` brings back what git, cache, remote and ledger still know")
    outcome = worst([chain.outcome, state.outcome])
    result = chain.to_dict() | {"outcome": outcome.value, "workspace": state.to_dict(), "repaired": done}
    return Answer(result, "\n".join(lines), EXIT_CODES[outcome])
