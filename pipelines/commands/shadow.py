"""shadow: a challenger answers behind the live release, until it is stopped and compared."""

from __future__ import annotations

import argparse

from lineage.errors import Fault
from pipelines import params
from pipelines.cli import Answer
from pipelines.workspace import command_line_session, workspace


def shadow(args: argparse.Namespace) -> Answer:
    """Start a shadow, or with --stop end it and say how it compared."""
    from pipelines.models import shadow as shadows

    params.load().task(args.task)
    who = command_line_session.authorised_person("traffic")
    with workspace.alone("workspace"):
        if not args.stop:
            release = shadows.start(args.task, args.version, who)
            text = f"{args.task}/{args.version} stands in shadow, release {release}; `oncoloop up` serves it"
            return Answer({"task": args.task, "version": args.version, "release": release}, text)
        now = shadows.wanted()
        if now is None or (now.task, now.version) != (args.task, args.version):
            raise Fault(f"{args.task}/{args.version} does not stand in shadow")
        verdict = shadows.stop(who)
    lines = [f"{verdict.subject}: {verdict.outcome.value}", *(f"  - {reason}" for reason in verdict.reasons)]
    return Answer(verdict.to_dict(), "\n".join(lines), verdict.exit_code)
