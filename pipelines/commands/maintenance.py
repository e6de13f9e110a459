"""status, backup, restore: the state of the workspace, and its backup."""

from __future__ import annotations

import argparse
from typing import Any

from lineage import current_state
from lineage.record import journal, ledger
from lineage.record.events import EventKind
from pipelines import params
from pipelines.cli import Answer
from pipelines.servers import run_files, services
from pipelines.workspace import backup as workspace_backup
from pipelines.workspace import git, key_backup, workspace


def status(_args: argparse.Namespace) -> Answer:
    """Tasks with their versions, the release, running services, and waiting work."""
    from lineage.record import outbox

    settings = params.load()
    wanted_release = current_state.release_to_serve()
    result: dict[str, Any] = {
        "version": git.head(),
        "tasks": {name: current_state.roles(name) for name in settings.tasks},
        "waiting": {name: current_state.undecided_versions(name) for name in settings.tasks},
        "release": wanted_release.subject if wanted_release else None,
        "live": live_release(),
        "decisions": latest_decisions(),
        "running": {name: services.url(name) for name in ("desk", "tools", "prefect") if services.url(name)},
        "supervised": run_files.is_supervised(),
        "processes": run_files.service_states(),
        "predictions": journal.count(),
        "outbox": [{"kind": row.kind, **row.payload} for row in outbox.pending()],
        "events": len(ledger.events()),
    }
    counts = f"release {result['release'] or 'none'}, {result['predictions']} predictions"
    lines = [f"data version {result['version'][:12]}, {counts}"]
    for name, roles in result["tasks"].items():
        versions = ", ".join(f"{role} {version}" for role, version in roles.items() if version) or "no model yet"
        approvals = f"; waiting for approval: {', '.join(result['waiting'][name])}" if result["waiting"][name] else ""
        note = f" ({settings.tasks[name].note})" if settings.tasks[name].note else ""
        lines.append(f"  {name:14} {versions}{approvals}{note}")
    lines += [f"  {name:14} {url}" for name, url in result["running"].items()]
    lines += service_problems(result["processes"], result["supervised"])
    requests = [row for row in result["outbox"] if row["kind"] == "retrain"]
    lines += [f"  requested: retraining of {row['task']}, {row['reason']}" for row in requests]
    return Answer(result, "\n".join(lines))


def service_problems(processes: list[dict[str, Any]], supervised: bool) -> list[str]:
    """Lines about services with a problem, and about services that run without a supervisor."""
    lines = [
        f"  {process['name']:14} {process['state']}: {process['trouble']}"
        for process in processes
        if process["trouble"]
    ]
    if processes and not supervised:
        names = ", ".join(f"{process['name']} (process {process['pid']})" for process in processes)
        lines.append(f"  without `oncoloop up`, which takes them over again: {names}")
    return lines


def live_release() -> dict[str, Any] | None:
    """The release that receives traffic, with its versions; None before the first release."""
    live = current_state.live_release()
    build = current_state.build_of(live.release) if live else None
    return {"release": live.release, "url": live.url, "tasks": build.payload["tasks"]} if live and build else None


def latest_decisions() -> list[dict[str, Any]]:
    """The training verdicts, each with the latest decision on its version."""
    latest: list[dict[str, Any]] = []
    for event in ledger.events(kind=EventKind.VERDICT):
        if event.payload["gate"] == "training":
            task, version = event.subject.split("/")
            later_events = [
                e
                for kind in (EventKind.MODEL_PROMOTED, EventKind.MODEL_REJECTED)
                for e in ledger.events(kind=kind, subject=task)
                if e.payload["version"] == version
            ]
            decision = (
                max(later_events, key=lambda e: e.seq).kind.removeprefix("model.")
                if later_events
                else "waiting for approval"
            )
            latest.append({"task": task, "version": version, "decision": decision, "verdict": event.payload})
    return latest


def backup(args: argparse.Namespace) -> Answer:
    """Write everything that can't be computed again to one file, except the keys; with --keys, write a key file."""
    if args.keys:
        key_backup.seal(args.keys, key_backup.read_passphrase(args.passphrase_file, twice=True))
    size = workspace_backup.write(args.file)
    result = {"file": str(args.file), "bytes": size, "keys": str(args.keys) if args.keys else None}
    note = (
        f"{args.keys}: the encrypted keys; store it apart from the backup, and the passphrase apart from both"
        if args.keys
        else "it contains no keys: `oncoloop backup --keys FILE` writes them too; a complete restore needs them"
    )
    return Answer(result, f"{args.file}: {size / 1e6:.1f} MB\n{note}")


def restore(args: argparse.Namespace) -> Answer:
    """Restore a backup into a new folder and verify its ledger; or restore the keys of such a workspace."""
    if key_backup.is_sealed(args.file):
        keys = key_backup.unseal(args.file, key_backup.read_passphrase(args.passphrase_file))
        workspace.enter(args.folder)
        key_backup.restore_keys(keys)
        return Answer({"keys": sorted(keys)}, f"{args.folder}: its keys are restored ({', '.join(sorted(keys))})")
    keys_to_restore = (
        key_backup.unseal(args.keys, key_backup.read_passphrase(args.passphrase_file)) if args.keys else None
    )
    verdict = workspace_backup.restore(args.file, args.folder, keys_to_restore)
    missing = key_backup.missing_keys()
    lines = [f"{args.folder}: {verdict.outcome.value}; {'; '.join(verdict.reasons)}"]
    lines += key_backup.explain_missing(missing, args.folder) if missing else []
    return Answer(verdict.to_dict() | {"missing_keys": missing}, "\n".join(lines), verdict.exit_code)
