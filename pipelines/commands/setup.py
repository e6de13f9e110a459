"""init, up, schedule: a workspace is made and kept running."""

from __future__ import annotations

import argparse
import os
import sys

from pipelines import params, services, workspace
from pipelines.cli import Answer


def init(args: argparse.Namespace) -> Answer:
    """Make a workspace, or mend a half-made one."""
    made = workspace.create(args.folder, args.new_keys)
    text = (
        f"{args.folder} is {'a workspace now' if made else 'a workspace already'}; put batches into {args.folder}/inbox"
    )
    return Answer({"workspace": str(args.folder), "made": made}, text)


def up(args: argparse.Namespace) -> Answer:
    """Run everything until Ctrl-C."""
    from pipelines import up as supervisor

    params.load()
    only = tuple(name for given in args.only or supervisor.NAMES for name in given.split(","))
    supervisor.up(args.port, only, lambda house: sys.stderr.write(_addresses(house)))
    return Answer({"stopped": True}, "stopped")


def _addresses(house: object) -> str:
    """Where everything answers, and a one-time link for each person."""
    from lineage import journal, people
    from serving.served import PROBE

    found = {name: services.url(name) for name in ("desk", "prefect", "mlflow", "evidently")}
    lines = ["", "everything is up; Ctrl-C stops it all"]
    lines += [f"  {name:10} {url}" for name, url in found.items() if url]
    if found["desk"]:
        for person in people.people():
            if person.disabled_at is None and person.name not in (PROBE, journal.SHADOW):
                lines.append(
                    f"  {person.name} ({person.role}), once: {found['desk']}/enter?token={people.invite(person.name)}"
                )
    lines.append(f"  ports from {getattr(house, 'base', '')}; logs in {os.environ['ONCOLOOP_HOME']}/logs")
    return "\n".join(lines) + "\n"


def schedule(args: argparse.Namespace) -> Answer:
    """Register the deployments; with --work also run them."""
    from pipelines import schedule as deployments

    params.load()
    if args.work:
        deployments.work()
        return Answer({"stopped": True}, "stopped")
    if "PREFECT_API_URL" not in os.environ:
        from lineage.fault import Fault

        raise Fault("no Prefect server runs for this workspace; start `oncoloop up`, or set PREFECT_API_URL")
    names = deployments.register()
    return Answer({"deployments": names}, "\n".join(["registered", *(f"  {name}" for name in names)]))
