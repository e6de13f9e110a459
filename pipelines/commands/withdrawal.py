"""withdraw: shows where a patient is, and on confirmation takes the patient out."""

from __future__ import annotations

import argparse
import dataclasses

from pipelines import settle, withdrawal, workspace
from pipelines.cli import Answer
from pipelines.withdrawal import Held

KEPT = (
    "the journal keeps the pseudonym with hashes and numbers, old commits of the cohorts keep the pseudonym; "
    "backups taken before still hold the scans"
)


def withdraw(args: argparse.Namespace) -> Answer:
    """Without --yes it only shows."""
    with workspace.alone("workspace"):
        settle.settle()
        held = withdrawal.find(args.patient)
        result = dataclasses.asdict(held) | {"done": args.yes}
        if not args.yes:
            return Answer(
                result, "\n".join([*_told(held), KEPT, "nothing is changed yet; --yes withdraws the patient"])
            )
        done = withdrawal.withdraw(held, args.reason)
    result |= {"data_version": done.payload["data_version"], "left": done.payload["left"]}
    found = [f"still found in {path}; remove it by hand" for path in result["left"]]
    lines = [
        *_told(held),
        KEPT,
        *(found or ["a search of every byte of workspace and state finds no scan and no name"]),
    ]
    lines += [
        f"withdrawn on {done.at[:10]}; the data version is {result['data_version'][:12]}, retraining is asked for"
    ]
    return Answer(result, "\n".join(lines), 1 if found else 0)


def _told(held: Held) -> list[str]:
    lines = [f"{held.patient} is in", *(f"  batch {task}/{name}" for task, name in held.batches)]
    lines += [f"  data version {version[:12]}" for version in held.versions]
    lines += [*(f"  model {name}" for name in held.models), *(f"  release {name}" for name in held.releases)]
    lines += [f"  quarantined batch {name}" for name in held.quarantined]
    lines.append(f"  {len(held.predictions)} predictions")
    lines += [f"  {cluster} holds {count} other patients, who stay" for cluster, count in held.relations.items()]
    return lines + [f"{folder} still holds the patient: it is yours, remove the files there" for folder in held.inbox]
