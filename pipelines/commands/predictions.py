"""predict, replay, watch, ack, label, trace, verify: predictions, their drift and their records."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from lineage import current_state as lineage_state
from lineage import decisions, site_hash
from lineage.errors import Fault
from lineage.record import journal, ledger
from lineage.record.events import EventKind
from lineage.record.verdict import EXIT_CODES, Outcome, from_dict, worst
from pipelines import params
from pipelines.cli import Answer
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
        wanted_event = lineage_state.release_to_serve()
        if wanted_event is None:
            raise Fault("there is no release yet; `oncoloop retrain` makes the first one")
        name = wanted_event.subject
    return load_release(lineage_paths.home() / "releases" / name)


def predict(args: argparse.Namespace) -> Answer:
    """Predict one case in this process with the code of the server; the journal records it like any prediction."""
    from serving.inference.answer import answer
    from serving.inference.request import Requester

    uploads = _uploads(args.files)
    requester = Requester(command_line_session.current_person(), site=site_hash.hash_site(getattr(args, "site", "")))
    prediction = answer(_release(), uploads, args.task, requester)
    return Answer(prediction, _describe(prediction), EXIT_CODES[Outcome(prediction["verdict"]["outcome"])])


def _describe(prediction: dict[str, Any]) -> str:
    verdict = prediction["verdict"]
    headline = (
        f"{prediction['title']}: {prediction['answer']}"
        if prediction["answer"]
        else f"{prediction['title']}: no answer is given"
    )
    probabilities = ", ".join(f"{name} {value:.3f}" for name, value in prediction["probabilities"].items())
    reasons = [f"  - {reason}" for reason in verdict["reasons"]]
    reasons += [f"  - left out: {upload['file']} ({upload['reason']})" for upload in prediction["left_out"]]
    return "\n".join(
        [
            headline,
            *reasons,
            f"  {probabilities}",
            f"  prediction {prediction['id']}, release {prediction['release']}",
            prediction["note"],
        ]
    )


def replay(args: argparse.Namespace) -> Answer:
    """Repeat a journalled prediction with its release, and compare the answers."""
    import hashlib

    from serving.inference import predict as serving

    journalled = journal.get(args.prediction)
    uploads = _uploads(args.files)
    hashes = [hashlib.sha256(upload.content).hexdigest() for upload in uploads]
    if sorted(hashes) != sorted(journalled.inputs):
        raise Fault(f"these are not the files of prediction {args.prediction}: their SHA-256 differ from the journal's")
    site = str(journalled.description.get("site_hash", ""))  # of the sender, if the files name no institution
    repeated = serving.to_json(serving.predict(_release(journalled.release), uploads, journalled.task, site=site))
    difference = max(
        abs(a - b) for a, b in zip(repeated["probabilities"].values(), journalled.probabilities, strict=True)
    )
    is_same = difference == 0.0 and repeated["answer"] == journalled.answer
    result = {
        "same": is_same,
        "difference": difference,
        "engine_then": journalled.engine,
        "engine_now": repeated["engine"],
        "answer": repeated["answer"],
    }
    outcome = "the same answer" if is_same else "another answer"
    return Answer(result, f"{outcome}: {repeated['answer']}, largest difference {difference:.3g}", 0 if is_same else 1)


def watch(args: argparse.Namespace) -> Answer:
    """Check for drift; a fail requests retraining."""
    params.load()
    from pipelines.flows import watch as flow

    flow.tasks_with_champion(args.task)
    results = flow.watch(args.task)
    verdicts = [from_dict(result["verdict"]) for result in results]
    lines = []
    for result, verdict in zip(results, verdicts, strict=True):
        lines += [f"{result['task']}: {verdict.outcome.value}", *(f"  - {reason}" for reason in verdict.reasons)]
        lines += [f"  page: {result['page']}"] if result["page"] else []
        lines += ["  retraining is requested"] if result["asked"] else []
    return Answer(results, "\n".join(lines), EXIT_CODES[worst([verdict.outcome for verdict in verdicts])])


def ack(args: argparse.Namespace) -> Answer:
    """Acknowledge a drift as a person: it requests no retraining until the next champion."""
    from lineage import current_state as lineage_state

    params.load().task(args.task)
    version = lineage_state.roles(args.task).get("champion")
    if not version:
        raise Fault(f"{args.task} has no champion yet; train and approve a model first")
    person = command_line_session.authorised_person("acknowledge")
    decisions.record(EventKind.DRIFT_ACKNOWLEDGED, args.task, {"version": version, "reason": args.reason}, person)
    return Answer({"task": args.task, "version": version}, f"drift of {args.task}/{version} is acknowledged")


def label(args: argparse.Namespace) -> Answer:
    """Record the true label of a predicted case."""
    from monitoring import late_labels

    row = journal.get(args.prediction)
    classes = params.load().task(row.task).classes
    if args.label not in classes:
        raise Fault(f"{args.label!r} is no class of {row.task}; its classes are {', '.join(classes)}")
    late_labels.add(args.prediction, args.label, args.source, command_line_session.current_person(), classes)
    return Answer({"prediction": args.prediction, "label": args.label}, f"{args.prediction}: {args.label}")


def trace(args: argparse.Namespace) -> Answer:
    """Show the records behind a prediction."""
    from lineage.audit import trace as chains

    chain = chains.trace(args.prediction)
    return Answer(chain.to_dict(), chains.render(chain))


def verify(args: argparse.Namespace) -> Answer:
    """Verify the whole ledger, and compare it with git, DVC, cohort tables and MLflow."""
    from pipelines.recovery import repair, verify_workspace

    chain = ledger.verify()
    lines = [f"ledger: {chain.outcome.value}", *chain.reasons]
    repairs: list[str] = []
    if args.repair and chain.outcome is Outcome.FAIL:
        raise Fault(
            f"the ledger itself was changed ({chain.reasons[0]}); it cannot be used for a repair: restore a backup"
        )
    if args.repair:
        repairs = repair.repair()
        chain = ledger.verify()
    state = verify_workspace.verify(args.full)
    lines += [*(f"repaired: {line}" for line in repairs), f"workspace: {state.outcome.value}", *state.reasons]
    if state.outcome is Outcome.FAIL and not args.repair:
        lines.append("`oncoloop verify --repair` restores what git, cache, remote and ledger still contain")
    outcome = worst([chain.outcome, state.outcome])
    result = chain.to_dict() | {"outcome": outcome.value, "workspace": state.to_dict(), "repaired": repairs}
    return Answer(result, "\n".join(lines), EXIT_CODES[outcome])
