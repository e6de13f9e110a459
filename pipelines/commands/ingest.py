"""import, ingest, data: how scans get in, and which versions there are."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from data.record import Task
from lineage.errors import Fault
from lineage.record.verdict import Outcome, from_dict, worst
from pipelines import data_versions, params
from pipelines.cli import Answer
from pipelines.flows import ingest_corrections

NAMED = 5  # of the files that an import left out


def import_(args: argparse.Namespace) -> Answer:
    """Turn a folder of scans into a batch in the inbox."""
    from data.importing import import_folder

    task = params.load().task(args.task)
    name = args.batch or args.folder.name.removesuffix(".zip")
    target = Path("inbox", name)
    if target.exists():
        raise Fault(f"inbox/{name} exists already; name the batch otherwise with --batch")
    record = ingest_corrections.bring(args.folder, target, task)
    record = record or import_folder.import_folder(
        args.folder, target, task, only=args.only, lesion_value=args.lesion_value, patient_level=args.patient_level
    )
    lines = [f"  {key}: {_short(value)}" for key, value in record.items()]
    return Answer({"batch": name, **record}, "\n".join([f"inbox/{name}:", *lines]))


def _short(value: object) -> str:
    """A value of an import's record on one line; of many files the first, since import.json names them all."""
    if isinstance(value, dict) and len(value) > NAMED and all(isinstance(each, str) for each in value.values()):
        first = "; ".join(f"{name} {reason}" for name, reason in list(value.items())[:NAMED])
        return f"{len(value)} files: {first}; and {len(value) - NAMED} more, see import.json"
    return str(value)


def ingest(args: argparse.Namespace) -> Answer:
    """Judge every waiting batch; a broken folder of the inbox is told by name, and stops none of the others."""
    from pipelines.flows import ingest as flow

    params.load()
    broken: dict[str, str] = {}
    some = flow.waiting(args.folder, args.again, broken)
    told = [{"folder": folder, "reason": reason} for folder, reason in broken.items()]
    lines = [f"inbox/{one['folder']} is broken and was not judged: {one['reason']}" for one in told]
    if not some:
        nothing = "nothing new: every batch in the inbox has been judged"
        return Answer({"batches": [], "broken": told}, "\n".join(lines) or nothing, 1 if told else 0)
    results = flow.ingest(str(args.folder) if args.folder else None, args.again)
    verdicts = [from_dict(result["verdict"]) for result in results]
    for result, verdict in zip(results, verdicts, strict=True):
        state = "admitted" if verdict.outcome is Outcome.PASS else "quarantined"
        lines += [f"{result['batch']} ({result['task']}): {state}", *(f"  - {reason}" for reason in verdict.reasons)]
        lines.append(f"  page: {result['page']}")
    code = {Outcome.PASS: 0, Outcome.FAIL: 3, Outcome.INCONCLUSIVE: 4}[worst([v.outcome for v in verdicts])]
    return Answer({"batches": results, "broken": told}, "\n".join(lines), 1 if told else code)


def data(args: argparse.Namespace) -> Answer:
    """list, diff A B, checkout VERSION, history SCAN, quality [TASK], recheck [TASK]."""
    if args.action in ("quality", "recheck"):
        return {"quality": _quality, "recheck": _recheck}[args.action](_tasks(args.action, args.versions))
    wanted = {"list": 0, "diff": 2, "checkout": 1, "history": 1}[args.action]
    if len(args.versions) != wanted:
        what = "scan, by its SHA-256 or its unit" if args.action == "history" else "versions"
        raise Fault(f"`oncoloop data {args.action}` takes {wanted} {what}; `oncoloop data list` shows what there is")
    return {"list": _list, "diff": _diff, "checkout": _checkout, "history": _history}[args.action](args.versions)


def _list(_versions: list[str]) -> Answer:
    rows = data_versions.listed()
    lines = []
    for row in rows:
        what = f"{row['units']} units of {row['clusters']} clusters"
        lost = f"  {data_versions.LOST.format(row['lost'])}" if row["lost"] else ""
        lines.append(f"{row['version'][:12]}  {row['at']}  {row['task']:12} {row['batch']:24} {what}{lost}")
    return Answer(rows, "\n".join(lines) or "no batch is admitted yet")


def _diff(asked: list[str]) -> Answer:
    result = data_versions.diff(*asked)
    return Answer(result, data_versions.told(result))


def _checkout(asked: list[str]) -> Answer:
    folder, lost = data_versions.checkout(asked[0])
    more = f"; it is {lost}, so that scans are missing in it" if lost else ""
    return Answer({"folder": str(folder), "lost": lost}, f"version {asked[0]} lies in {folder}{more}")


def _history(keys: list[str]) -> Answer:
    """Who said what of a scan, when, and which batch brought it."""
    from data.batch import label_corrections

    folders = sorted(Path("data/batches").glob("*/"))
    steps = [step for folder in folders for step in label_corrections.history(folder, keys[0])]
    if not steps:
        raise Fault(f"no admitted scan is called {keys[0][:80]!r}; give a unit, or the SHA-256 of the file as sent")
    lines = [
        f"{step['unit']}  {step['at'] or 'undated'}  {step['who'] or 'nobody named'}"
        f"{' (' + step['truth'] + ')' if step['truth'] else ''}: "
        f"{step['from'] + ' -> ' if step['from'] else ''}{step['to']}  in {step['batch']}"
        for step in steps
    ]
    return Answer(steps, "\n".join(lines))


def _tasks(action: str, names: list[str]) -> list[Task]:
    """The one task that is named, or all of them."""
    settings = params.load()
    if len(names) > 1:
        raise Fault(f"`oncoloop data {action}` takes one task, or none for all of them")
    return [settings.task(names[0])] if names else list(settings.tasks.values())


def _recheck(tasks: list[Task]) -> Answer:
    """Today's checks over what is admitted already. Nothing is changed: 3 where something is harmed, 4 for hints."""
    from data.quality import recheck

    manifests = [(task, path) for task in tasks for path in Path("data/batches", task.name).glob("*/manifest.csv")]
    folders = {f"{task.name}/{path.parent.name}": (path.parent, task) for task, path in sorted(manifests, key=str)}
    found = recheck.recheck(folders, Path("inbox"))
    groups: dict[tuple[str, str, bool], list[recheck.Finding]] = {}
    for finding in found:
        groups.setdefault((finding.batch, finding.reason, finding.harm), []).append(finding)
    lines = [f"{len(folders)} admitted batches were read again, nothing was changed"]
    rows: list[dict[str, Any]] = []
    for (batch, reason, harm), findings in sorted(groups.items(), key=lambda item: (item[0][0], not item[0][2])):
        units = [unit for finding in findings for unit in finding.units]
        files = sorted({finding.file for finding in findings})
        lines.append(f"{batch}: {'harmed' if harm else 'look'}: {len(units)} units ({files[0]}): {reason}")
        rows.append({"batch": batch, "harm": harm, "reason": reason, "units": units, "files": files})
    harmed = sorted({str(row["batch"]) for row in rows if row["harm"]})
    if harmed:
        lines.append(
            f"harmed: {', '.join(harmed)}; correct their labels (a batch of corrections), or withdraw the "
            "patients and admit the folders anew from their source"
        )
    code = 3 if harmed else 4 if rows else 0
    return Answer({"batches": sorted(folders), "harmed": harmed, "findings": rows}, "\n".join(lines), code)


def _quality(tasks: list[Task]) -> Answer:
    """One page over everything that came in, of one task or all."""
    from data.quality import report
    from lineage import paths
    from lineage.record import ledger

    verdicts = [
        event.payload | {"at": event.at} for event in ledger.events(kind="verdict") if event.payload["gate"] == "data"
    ]
    name = tasks[0].name if len(tasks) == 1 else "all"
    page = report.write(Path("data"), tasks, verdicts, paths.place("quality", f"{name}.html"))
    return Answer({"page": str(page)}, f"{page}: data quality of {', '.join(task.name for task in tasks)}")
