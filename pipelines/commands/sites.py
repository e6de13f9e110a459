"""site: accept, confirm, withdraw and list the sites that the models of a workspace may answer for."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from lineage import current_state, json_files, paths, site_hash
from lineage.errors import Fault
from lineage.record.verdict import EXIT_CODES, Outcome
from pipelines import params
from pipelines.cli import Answer
from pipelines.workspace import command_line_session, workspace

SHORT = 8  # digits of a hash in texts


def site(args: argparse.Namespace) -> Answer:
    """list; accept NAME --task --batch --reason; confirm and withdraw NAME --task --reason."""
    if args.action == "list":
        return _list()
    required = ["task", "reason", *(["batch"] if args.action == "accept" else [])]
    missing = [f"--{name}" for name in required if not getattr(args, name)]
    if not args.name or missing:
        raise Fault(f"`oncoloop site {args.action}` needs {', '.join([*([] if args.name else ['a name']), *missing])}")
    params.load().task(args.task)
    person = command_line_session.authorised_person("approve")
    with workspace.hold_lock("workspace"):
        return {"accept": _accept, "confirm": _confirm, "withdraw": _withdraw}[args.action](args, person)


def _accept(args: argparse.Namespace, person: str) -> Answer:
    from pipelines.models import sites

    event = sites.judge(args.name, args.task, args.batch, args.reason, person)
    outcome = Outcome(event.payload["outcome"])
    lines = [f"{args.task} at {args.name}: {outcome.value}", *(f"  - {reason}" for reason in event.payload["reasons"])]
    confirmation = (
        f"`oncoloop site confirm {args.name} --task {args.task} --reason TEXT`, or the page Sites of the desk"
    )
    lines.append("a fail can't be confirmed" if outcome is Outcome.FAIL else f"it waits for a person: {confirmation}")
    return Answer({"verdict": event.payload, "number": event.seq}, "\n".join(lines), EXIT_CODES[outcome])


def _confirm(args: argparse.Namespace, person: str) -> Answer:
    from pipelines.models import promote, sites

    decision = sites.confirm(args.name, args.task, args.reason, person)
    release = promote.release_champions()
    result = {"site": decision.payload["site"], "task": args.task, "release": release}
    return Answer(result, f"{args.name} is accepted for {args.task}; release {release} is built")


def _withdraw(args: argparse.Namespace, person: str) -> Answer:
    from pipelines.models import promote, sites

    decision = sites.withdraw(args.name, args.task, args.reason, person)
    release = promote.release_champions()
    result = {"site": decision.payload["site"], "task": args.task, "release": release}
    built = f"; release {release} is built" if release else ""
    return Answer(result, f"{args.name} is withdrawn from {args.task}{built}")


def _list() -> Answer:
    """The accepted sites of the release to serve, and the judgements that wait for a person."""
    from pipelines.models import site_sources

    settings, names = params.load(), site_sources.site_names()
    if settings.serving.site:
        names[site_hash.hash_site(settings.serving.site)] = settings.serving.site
    release = current_state.release_to_serve()
    folder = paths.home() / "releases" / release.subject if release else None
    tasks = json_files.read_json(folder / "manifest.json")["tasks"] if folder else {}
    result: dict[str, Any] = {}
    lines = []
    for task in settings.tasks:
        entries = tasks.get(task, {}).get("sites")
        rows = [_row(entry, names) for entry in entries or []]
        waiting = [_waiting_row(judgement, names) for judgement in _waiting(task)]
        lapsed = _lapsed(task, rows, names)
        result[task] = {"is_checked": entries is not None, "accepted": rows, "waiting": waiting, "lapsed": lapsed}
        lines.append(f"{task}: {_summary(tasks.get(task), rows)}")
        lines += [f"  {_describe(row)}" for row in rows]
        lines += [f"  {row['name']}: {row['outcome']}, waits for a person ({row['at'][:10]})" for row in waiting]
        lines += [f"  {row['name']}: accepted for version {row['version']} only; accept it again" for row in lapsed]
    return Answer(result, "\n".join(lines))


def _waiting(task: str) -> list[current_state.SiteJudgement]:
    """The newest judgements of the champion that no person has confirmed yet, and that may be confirmed."""
    champion, newest = current_state.roles(task).get("champion"), dict[str, current_state.SiteJudgement]()
    for judgement in current_state.site_judgements(task):
        newest.setdefault(judgement.site, judgement)
    return [
        entry for entry in newest.values() if entry.is_promotable and not entry.decision and entry.version == champion
    ]


def _lapsed(task: str, accepted: list[dict[str, Any]], names: Mapping[str, str]) -> list[dict[str, Any]]:
    """The sites that a person accepted for an earlier version, and that the release to serve does not answer for."""
    current, withdrawn = {row["site"] for row in accepted}, current_state.withdrawn_sites(task)
    newest: dict[str, dict[str, Any]] = {}
    for judgement in current_state.site_judgements(task):
        if judgement.decision and judgement.decision.seq > withdrawn.get(judgement.site, 0):
            row = {"name": _name(judgement.site, names), "site": judgement.site, "version": judgement.version}
            newest.setdefault(judgement.site, row)
    return [row for site, row in newest.items() if site not in current]


def _row(entry: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {
        "name": _name(entry["site"], names),
        **{key: entry.get(key) for key in ("at", "site", "basis", "clusters", "sensitivity", "specificity", "verdict")},
        "scanners": len(entry["scanners"]),
    }


def _waiting_row(judgement: current_state.SiteJudgement, names: Mapping[str, str]) -> dict[str, Any]:
    event = judgement.verdict
    facts = {"name": _name(judgement.site, names), "site": judgement.site, "outcome": event.payload["outcome"]}
    return facts | {"at": event.at, "verdict": event.seq}


def _name(site: str, names: Mapping[str, str]) -> str:
    """The name of a site in the workspace's own tables, else the first digits of its hash."""
    return names.get(site, f"site {site[:SHORT]}") if site else "scans that name no site"


def _summary(facts: Mapping[str, Any] | None, rows: list[dict[str, Any]]) -> str:
    if facts is None:
        return "no release yet"
    if "sites" not in facts:
        return "sites are not checked by its release; the next promotion checks them"
    site_count = len({row["site"] for row in rows})
    return f"{site_count} accepted" if rows else "no accepted site, so every answer is withheld"


def _describe(row: Mapping[str, Any]) -> str:
    figures = ", ".join(f"{name} {_interval(row[name])}" for name in ("sensitivity", "specificity"))
    return f"{row['name']}: by {row['basis']} ({row['at'][:10]}), {row['clusters']} patients, {figures}"


def _interval(figure: Mapping[str, float | None] | None) -> str:
    if not figure or figure.get("value") is None:
        return "unknown"
    value, low, high = (figure.get(name) for name in ("value", "low", "high"))
    return f"{value:.2f}" + (f" ({low:.2f} to {high:.2f})" if low is not None and high is not None else "")
