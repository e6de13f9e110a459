"""withdraw: shows where a patient is, and on confirmation takes the patient out."""

from __future__ import annotations

import argparse
import dataclasses

from data import identifiers
from lineage.errors import Fault
from pipelines.cli import Answer
from pipelines.recovery import interrupted_runs
from pipelines.withdrawal import locate
from pipelines.withdrawal import withdraw as withdrawal_withdraw
from pipelines.withdrawal.locate import Held
from pipelines.workspace import command_line_session, workspace

KEPT = (
    "ledger, journal and cohorts keep hashes and numbers, under which nobody is named; backups taken before, and the "
    "key folder, are yours: a backup still holds the scans"
)
CLEAN = "a search of every byte of workspace and state (without inbox, try and the keys) finds no scan and no name"


def withdraw(args: argparse.Namespace) -> Answer:
    """Without --yes it only shows. The reason is kept for ever, so it may not say who it is."""
    if identifiers.betrays(args.reason, identifiers.of_row({"patient_id": args.patient})):
        raise Fault("the reason holds the name or number of the patient, and it is kept for ever; say it without")
    with workspace.alone("workspace"):
        interrupted_runs.settle()
        held = locate.find(args.patient)
        result = dataclasses.asdict(held) | {"done": args.yes}
        if not args.yes:
            return Answer(
                result, "\n".join([*_told(held), KEPT, "nothing is changed yet; --yes withdraws the patient"])
            )
        done = withdrawal_withdraw.withdraw(
            held, args.reason, args.patient, command_line_session.authorised_person("withdraw")
        )
    result |= {"data_version": done.payload["data_version"], "left": done.payload["left"]}
    found = [f"still found in {path}; remove it by hand" for path in result["left"]]
    lines = [
        *_told(held),
        KEPT,
        *(found or [CLEAN]),
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
