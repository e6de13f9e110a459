"""init, up, schedule: a workspace is made and kept running."""

from __future__ import annotations

import argparse
import os
import sys

from lineage import keys
from pipelines import params
from pipelines.cli import Answer
from pipelines.servers import services
from pipelines.workspace import command_line_session, workspace


def init(args: argparse.Namespace) -> Answer:
    """Make a workspace, or mend a half-made one."""
    made = workspace.create(args.folder, args.new_keys)
    text = (
        f"{args.folder} is {'a workspace now' if made else 'a workspace already'}; put batches into {args.folder}/inbox"
    )
    return Answer({"workspace": str(args.folder), "made": made}, text)


def up(args: argparse.Namespace) -> Answer:
    """Run everything until Ctrl-C."""
    from pipelines.servers import supervisor

    params.load()
    only = tuple(name for given in args.only or supervisor.NAMES for name in given.split(","))
    supervisor.up(args.port, only, lambda house: sys.stderr.write(_addresses(house, args.links)))
    return Answer({"stopped": True}, "stopped")


def _addresses(house: object, links: bool) -> str:
    """Where the desk answers, and how people come in; with `links` a one-time link for each of them."""
    from lineage import accounts

    desk = services.url("desk")
    lines = ["", "everything is up; Ctrl-C stops it all"]
    lines += [f"  desk  {desk}"] if desk else []
    for each in accounts.open_accounts() if desk else []:
        way = f"`oncoloop login {each.name}`"
        if links:
            way = f"once: {desk}/enter?token={accounts.invite(each.name, actor=command_line_session.current_person())}"
        lines.append(f"  {each.name} ({each.role}), {way}")
    lines.append(f"  ports from {getattr(house, 'base', '')}; logs in {os.environ['ONCOLOOP_HOME']}/logs")
    return "\n".join(lines) + "\n"


def schedule(args: argparse.Namespace) -> Answer:
    """Register the deployments; with --work also run them."""
    from pipelines.flows import deployments

    params.load()
    if args.secret:
        secret = keys.prefect_secret()
        return Answer({"PREFECT_API_AUTH_STRING": secret}, f"export PREFECT_API_AUTH_STRING={secret}")
    if args.work:
        deployments.work()
        return Answer({"stopped": True}, "stopped")
    if "PREFECT_API_URL" not in os.environ:
        from lineage.errors import Fault

        raise Fault("no Prefect server runs for this workspace; start `oncoloop up`, or set PREFECT_API_URL")
    names = deployments.register()
    return Answer({"deployments": names}, "\n".join(["registered", *(f"  {name}" for name in names)]))
