"""withdraw: show where a patient's data is, and remove it on confirmation."""

from __future__ import annotations

import argparse
import dataclasses

from data import identifiers
from lineage.errors import Fault
from pipelines.cli import Answer
from pipelines.recovery import interrupted_runs
from pipelines.withdrawal import locate
from pipelines.withdrawal import withdraw as withdrawal_withdraw
from pipelines.withdrawal.locate import PatientRecords
from pipelines.workspace import command_line_session, workspace

KEPT_NOTE = (
    "ledger, journal and cohorts keep hashes and numbers, which name nobody; earlier backups and the key folder are "
    "not changed: a backup still contains the scans"
)
CLEAN_NOTE = "a search of every byte of workspace and state (without inbox, try and the keys) finds no scan and no name"


def withdraw(args: argparse.Namespace) -> Answer:
    """Show where a patient's data is; with --yes, remove it. The reason is kept, so it must not name the patient."""
    if identifiers.contains_secret(args.reason, identifiers.secrets_of_row({"patient_id": args.patient})):
        raise Fault("the reason contains the name or number of the patient, and it is kept for ever; leave it out")
    with workspace.hold_lock("workspace"):
        interrupted_runs.recover_workspace()
        location = locate.locate_patient(args.patient)
        result = dataclasses.asdict(location) | {"done": args.yes}
        if not args.yes:
            return Answer(
                result,
                "\n".join([*_describe(location), KEPT_NOTE, "nothing is changed yet; --yes withdraws the patient"]),
            )
        event = withdrawal_withdraw.withdraw(
            location, args.reason, args.patient, command_line_session.authorised_person("withdraw")
        )
    result |= {"data_version": event.payload["data_version"], "left": event.payload["left"]}
    warnings = [f"still found in {path}; remove it by hand" for path in result["left"]]
    lines = [
        *_describe(location),
        KEPT_NOTE,
        *(warnings or [CLEAN_NOTE]),
    ]
    lines += [
        f"withdrawn on {event.at[:10]}; the data version is {result['data_version'][:12]}, retraining is requested"
    ]
    return Answer(result, "\n".join(lines), 1 if warnings else 0)


def _describe(location: PatientRecords) -> list[str]:
    lines = [f"{location.patient} is in", *(f"  batch {task}/{name}" for task, name in location.batches)]
    lines += [f"  data version {version[:12]}" for version in location.versions]
    lines += [*(f"  model {name}" for name in location.models), *(f"  release {name}" for name in location.releases)]
    lines += [f"  quarantined batch {name}" for name in location.quarantined]
    lines.append(f"  {len(location.predictions)} predictions")
    lines += [f"  {cluster} contains {count} other patients, who stay" for cluster, count in location.relations.items()]
    return lines + [f"{folder} still contains the patient: remove these files yourself" for folder in location.inbox]
