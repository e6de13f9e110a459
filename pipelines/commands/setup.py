"""init, up, schedule: create a workspace and run its services."""

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
    """Create a workspace, or complete an incomplete one."""
    is_new = workspace.create(args.folder, args.new_keys)
    state = "now" if is_new else "already"
    text = f"{args.folder} is a workspace {state}; put batches into {args.folder}/inbox"
    return Answer({"workspace": str(args.folder), "made": is_new}, text)


def up(args: argparse.Namespace) -> Answer:
    """Run everything until Ctrl-C."""
    from pipelines.servers import supervisor

    params.load()
    only = tuple(name for names in args.only or supervisor.NAMES for name in names.split(","))
    supervisor.up(args.port, only, lambda running: sys.stderr.write(_addresses(running.base, args.links)))
    return Answer({"stopped": True}, "stopped")


def _addresses(base_port: int, links: bool) -> str:
    """The address of the desk and how people sign in; with `links`, a one-time link for each person."""
    from lineage import accounts

    desk = services.url("desk")
    lines = ["", "everything is up; Ctrl-C stops everything"]
    lines += [f"  desk  {desk}"] if desk else []
    for account in accounts.open_accounts() if desk else []:
        sign_in = f"`oncoloop login {account.name}`"
        if links:
            token = accounts.invite(account.name, actor=command_line_session.current_person())
            sign_in = f"once: {desk}/enter?token={token}"
        lines.append(f"  {account.name} ({account.role}), {sign_in}")
    lines.append(f"  ports from {base_port}; logs in {os.environ['ONCOLOOP_HOME']}/logs")
    return "\n".join(lines) + "\n"


def schedule(args: argparse.Namespace) -> Answer:
    """Register the Prefect deployments; with --work, also run them."""
    from pipelines.flows import deployments

    params.load()
    if args.secret:
        secret = keys.prefect_secret()
        return Answer({"PREFECT_API_AUTH_STRING": secret}, f"export PREFECT_API_AUTH_STRING={secret}")
    if args.work:
        deployments.serve_deployments()
        return Answer({"stopped": True}, "stopped")
    if "PREFECT_API_URL" not in os.environ:
        from lineage.errors import Fault

        raise Fault("no Prefect server runs for this workspace; start `oncoloop up`, or set PREFECT_API_URL")
    names = deployments.register()
    return Answer({"deployments": names}, "\n".join(["registered", *(f"  {name}" for name in names)]))
