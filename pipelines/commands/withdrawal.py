"""withdraw: shows where a patient is, and on confirmation takes the patient out."""

from __future__ import annotations

import argparse
import dataclasses

from pipelines import withdrawal, workspace
from pipelines.cli import Answer

REMAINS = (
    "MLflow galleries and reports of the models named above may show the patient's slices until issued again; "
    "the journal keeps hashes and numbers only; backups taken before still hold the scans"
)


def withdraw(args: argparse.Namespace) -> Answer:
    """Without --yes it only shows."""
    held = withdrawal.find(args.patient)
    lines = [f"{held.patient} is in", *(f"  batch {task}/{name}" for task, name in held.batches)]
    lines += [*(f"  model {name}" for name in held.models), f"  {len(held.predictions)} predictions", REMAINS]
    result = dataclasses.asdict(held) | {"done": args.yes}
    if not args.yes:
        return Answer(result, "\n".join([*lines, "nothing is changed yet; --yes withdraws the patient"]))
    with workspace.alone("workspace"):
        result["data_version"] = withdrawal.withdraw(held, args.reason)
    return Answer(result, "\n".join([*lines, f"withdrawn; the data version is {result['data_version'][:12]} now"]))
