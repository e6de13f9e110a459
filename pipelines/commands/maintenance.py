"""status, backup, restore: what stands where, and how it survives the machine."""

from __future__ import annotations

import argparse
from typing import Any

from lineage import registry
from lineage.record import journal, ledger
from pipelines import params
from pipelines.cli import Answer
from pipelines.models import release
from pipelines.servers import run_files, services
from pipelines.workspace import backup as workspace_backup
from pipelines.workspace import git, key_backup, workspace


def status(_args: argparse.Namespace) -> Answer:
    """Tasks with their versions, the release, what runs, what waits."""
    from lineage.record import outbox

    settings = params.load()
    wanted = release.wanted()
    result: dict[str, Any] = {
        "version": git.head(),
        "tasks": {name: registry.roles(name) for name in settings.tasks},
        "waiting": {name: waiting(name) for name in settings.tasks},
        "release": wanted.subject if wanted else None,
        "live": live(),
        "decisions": decisions(),
        "running": {name: services.url(name) for name in ("desk", "tools", "prefect") if services.url(name)},
        "supervised": run_files.is_supervised(),
        "processes": run_files.service_states(),
        "predictions": journal.count(),
        "outbox": [{"kind": row.kind, **row.payload} for row in outbox.pending()],
        "events": len(ledger.events()),
    }
    answered = f"release {result['release'] or 'none'}, {result['predictions']} predictions"
    lines = [f"data version {result['version'][:12]}, {answered}"]
    for name, roles in result["tasks"].items():
        known = ", ".join(f"{role} {version}" for role, version in roles.items() if version) or "no model yet"
        more = f"; waiting for approval: {', '.join(result['waiting'][name])}" if result["waiting"][name] else ""
        note = f" ({settings.tasks[name].note})" if settings.tasks[name].note else ""
        lines.append(f"  {name:14} {known}{more}{note}")
    lines += [f"  {name:14} {url}" for name, url in result["running"].items()]
    lines += troubles(result["processes"], result["supervised"])
    lines += [
        f"  asked: retraining of {row['task']}, {row['reason']}" for row in result["outbox"] if row["kind"] == "retrain"
    ]
    return Answer(result, "\n".join(lines))


def troubles(processes: list[dict[str, Any]], supervised: bool) -> list[str]:
    """Lines about services that do not run as they should, and about those that nobody looks after."""
    lines = [f"  {one['name']:14} {one['state']}: {one['trouble']}" for one in processes if one["trouble"]]
    if processes and not supervised:
        names = ", ".join(f"{one['name']} (process {one['pid']})" for one in processes)
        lines.append(f"  without `oncoloop up`, which goes on with them: {names}")
    return lines


def waiting(task: str) -> list[str]:
    """The versions that a gate let through, or left open, and nobody has decided about."""
    decided = {
        str(e.payload["version"])
        for kind in ("model.promoted", "model.rejected")
        for e in ledger.events(kind=kind, subject=task)
    }
    versions = [str(event.payload["version"]) for event in ledger.events(kind="model.logged", subject=task)]
    return [version for version in versions if version not in decided]


def live() -> dict[str, Any] | None:
    """The release that traffic went to last, with its versions."""
    activated = ledger.events(kind="release.activated")
    if not activated:
        return None
    built = [e for e in ledger.events(kind="release.built") if e.subject == activated[-1].subject]
    return {"release": activated[-1].subject, "url": activated[-1].payload["url"], "tasks": built[-1].payload["tasks"]}


def decisions() -> list[dict[str, Any]]:
    """The newest verdict and decision about each version."""
    found: list[dict[str, Any]] = []
    for event in ledger.events(kind="verdict"):
        if event.payload["gate"] == "training":
            task, version = event.subject.split("/")
            after = [
                e
                for kind in ("model.promoted", "model.rejected")
                for e in ledger.events(kind=kind, subject=task)
                if e.payload["version"] == version
            ]
            decision = max(after, key=lambda e: e.seq).kind.removeprefix("model.") if after else "waiting for approval"
            found.append({"task": task, "version": version, "decision": decision, "verdict": event.payload})
    return found


def backup(args: argparse.Namespace) -> Answer:
    """One file with everything that can't be made again, but the keys; those in another one, if asked for."""
    if args.keys:
        key_backup.seal(args.keys, key_backup.read_passphrase(args.passphrase_file, twice=True))
    size = workspace_backup.write(args.file)
    result = {"file": str(args.file), "bytes": size, "keys": str(args.keys) if args.keys else None}
    note = (
        f"{args.keys}: the keys, encrypted; keep it apart from the backup, and the passphrase apart from both"
        if args.keys
        else "it holds no keys: `oncoloop backup --keys FILE` writes them too, and only with them everything comes back"
    )
    return Answer(result, f"{args.file}: {size / 1e6:.1f} MB\n{note}")


def restore(args: argparse.Namespace) -> Answer:
    """A backup in a new folder, its ledger verified; or the keys of a workspace that came back without them."""
    if key_backup.is_sealed(args.file):
        keys = key_backup.unseal(args.file, key_backup.read_passphrase(args.passphrase_file))
        workspace.enter(args.folder)
        key_backup.restore_keys(keys)
        return Answer({"keys": sorted(keys)}, f"{args.folder}: its keys are back ({', '.join(sorted(keys))})")
    brought = key_backup.unseal(args.keys, key_backup.read_passphrase(args.passphrase_file)) if args.keys else None
    verdict = workspace_backup.restore(args.file, args.folder, brought)
    missing = key_backup.missing_keys()
    lines = [f"{args.folder}: {verdict.outcome.value}; {'; '.join(verdict.reasons)}"]
    lines += key_backup.explain_missing(missing, args.folder) if missing else []
    return Answer(verdict.to_dict() | {"missing_keys": missing}, "\n".join(lines), verdict.exit_code)
