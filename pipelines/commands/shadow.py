"""shadow: run a challenger behind the live release, and compare both when it is stopped."""

from __future__ import annotations

import argparse

from lineage.errors import Fault
from pipelines import params
from pipelines.cli import Answer
from pipelines.workspace import command_line_session, workspace


def shadow(args: argparse.Namespace) -> Answer:
    """Start a shadow, or with --stop end it and compare it with the live release."""
    from lineage import current_state
    from pipelines.models import shadow as shadows

    params.load().task(args.task)
    person = command_line_session.authorised_person("traffic")
    with workspace.hold_lock("workspace"):
        if not args.stop:
            release = shadows.start(args.task, args.version, person)
            text = f"{args.task}/{args.version} runs as a shadow, release {release}; `oncoloop up` serves it"
            return Answer({"task": args.task, "version": args.version, "release": release}, text)
        running = current_state.active_shadow()
        if running is None or (running.task, running.version) != (args.task, args.version):
            raise Fault(f"{args.task}/{args.version} is not running as a shadow")
        verdict = shadows.stop(person)
    lines = [f"{verdict.subject}: {verdict.outcome.value}", *(f"  - {reason}" for reason in verdict.reasons)]
    return Answer(verdict.to_dict(), "\n".join(lines), verdict.exit_code)
