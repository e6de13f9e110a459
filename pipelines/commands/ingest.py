"""import, ingest, data: add scans, and list and check data versions."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from data.core_types import Task
from lineage.errors import Fault
from lineage.record.events import EventKind
from lineage.record.verdict import Outcome, from_dict, worst
from pipelines import data_versions, params
from pipelines.cli import Answer
from pipelines.flows import ingest_corrections

MAX_FILES_SHOWN = 5  # of the files that an import left out


def import_(args: argparse.Namespace) -> Answer:
    """Turn a folder of scans into a batch in the inbox."""
    from data.importing import import_folder

    task = params.load().task(args.task)
    name = args.batch or args.folder.name.removesuffix(".zip")
    target = Path("inbox", name)
    if target.exists():
        raise Fault(f"inbox/{name} exists already; choose another name with --batch")
    record = ingest_corrections.import_corrections(args.folder, target, task)
    record = record or import_folder.import_folder(
        args.folder,
        target,
        task,
        only=args.only,
        lesion_value=args.lesion_value,
        patient_level=args.patient_level,
        class_names=_read_class_names(args.label),
    )
    lines = [f"  {key}: {_shorten(value)}" for key, value in record.items()]
    return Answer({"batch": name, **record}, "\n".join([f"inbox/{name}:", *lines]))


def _read_class_names(options: list[str]) -> dict[str, str]:
    """The mapping of the options `--label FOLDER=CLASS`. Fault for an option of another form, or two for one folder."""
    class_names: dict[str, str] = {}
    for option in options:
        folder, _, label = option.rpartition("=")
        if not folder or not label:
            raise Fault(f"--label {option}: give FOLDER=CLASS, for example --label pancreatic_cancer=tumour")
        if class_names.get(folder, label) != label:
            raise Fault(f"--label: the folder {folder!r} has two classes, {class_names[folder]} and {label}")
        class_names[folder] = label
    return class_names


def _shorten(value: object) -> str:
    """A value of an import's record on one line; of many files, the first ones: import.json has all."""
    if (
        isinstance(value, dict)
        and len(value) > MAX_FILES_SHOWN
        and all(isinstance(entry, str) for entry in value.values())
    ):
        first = "; ".join(f"{name} {reason}" for name, reason in list(value.items())[:MAX_FILES_SHOWN])
        return f"{len(value)} files: {first}; and {len(value) - MAX_FILES_SHOWN} more, see import.json"
    return str(value)


def ingest(args: argparse.Namespace) -> Answer:
    """Judge every waiting batch; a broken folder of the inbox is reported and does not stop the others."""
    from pipelines.flows import ingest as flow

    params.load()
    broken: dict[str, str] = {}
    batches = flow.unjudged_batches(args.folder, args.again, broken)
    broken_folders = [{"folder": folder, "reason": reason} for folder, reason in broken.items()]
    lines = [f"inbox/{entry['folder']} is broken and was not judged: {entry['reason']}" for entry in broken_folders]
    if not batches:
        message = "nothing new: every batch in the inbox has been judged"
        code = 1 if broken_folders else 0
        return Answer({"batches": [], "broken": broken_folders}, "\n".join(lines) or message, code)
    results = flow.ingest(str(args.folder) if args.folder else None, args.again, batches)
    verdicts = [from_dict(result["verdict"]) for result in results]
    for result, verdict in zip(results, verdicts, strict=True):
        state = "admitted" if verdict.outcome is Outcome.PASS else "quarantined"
        lines += [f"{result['batch']} ({result['task']}): {state}", *(f"  - {reason}" for reason in verdict.reasons)]
        lines.append(f"  page: {result['page']}")
    code = {Outcome.PASS: 0, Outcome.FAIL: 3, Outcome.INCONCLUSIVE: 4}[worst([v.outcome for v in verdicts])]
    return Answer({"batches": results, "broken": broken_folders}, "\n".join(lines), 1 if broken_folders else code)


def data(args: argparse.Namespace) -> Answer:
    """list, diff A B, checkout VERSION, history SCAN, quality [TASK], recheck [TASK]."""
    if args.action in ("quality", "recheck"):
        return {"quality": _quality, "recheck": _recheck}[args.action](_tasks(args.action, args.versions))
    count = {"list": 0, "diff": 2, "checkout": 1, "history": 1}[args.action]
    if len(args.versions) != count:
        expected = "scan, by its SHA-256 or its unit" if args.action == "history" else "versions"
        raise Fault(f"`oncoloop data {args.action}` takes {count} {expected}; `oncoloop data list` lists the versions")
    return {"list": _list, "diff": _diff, "checkout": _checkout, "history": _history}[args.action](args.versions)


def _list(_versions: list[str]) -> Answer:
    rows = data_versions.list_versions()
    lines = []
    for row in rows:
        counts = f"{row['units']} units of {row['clusters']} clusters"
        note = f"  {data_versions.NOT_REPRODUCIBLE.format(row['lost'])}" if row["lost"] else ""
        lines.append(f"{row['version'][:12]}  {row['at']}  {row['task']:12} {row['batch']:24} {counts}{note}")
    return Answer(rows, "\n".join(lines) or "no batch is admitted yet")


def _diff(versions: list[str]) -> Answer:
    result = data_versions.diff(*versions)
    return Answer(result, data_versions.describe(result))


def _checkout(versions: list[str]) -> Answer:
    folder, lost = data_versions.checkout(versions[0])
    note = f"; it is {lost}, so scans are missing" if lost else ""
    return Answer({"folder": str(folder), "lost": lost}, f"version {versions[0]} is in {folder}{note}")


def _history(keys: list[str]) -> Answer:
    """The labels of a scan: who gave them, when, and in which batch."""
    from data.batch import label_corrections

    folders = sorted(Path("data/batches").glob("*/"))
    steps = [step for folder in folders for step in label_corrections.label_history(folder, keys[0])]
    if not steps:
        raise Fault(f"there is no admitted scan {keys[0][:80]!r}; give a unit, or the SHA-256 of the sent file")
    lines = [
        f"{step['unit']}  {step['at'] or 'undated'}  {step['who'] or 'unknown labeller'}"
        f"{' (' + step['truth'] + ')' if step['truth'] else ''}: "
        f"{step['from'] + ' -> ' if step['from'] else ''}{step['to']}  in {step['batch']}"
        for step in steps
    ]
    return Answer(steps, "\n".join(lines))


def _tasks(action: str, names: list[str]) -> list[Task]:
    """The named task, or all tasks."""
    settings = params.load()
    if len(names) > 1:
        raise Fault(f"`oncoloop data {action}` takes at most one task; without one it covers all tasks")
    return [settings.task(names[0])] if names else list(settings.tasks.values())


def _recheck(tasks: list[Task]) -> Answer:
    """Run today's checks on admitted batches, without changes; exit code 3 for harmful findings, 4 for hints."""
    from data.quality import recheck

    manifests = [(task, path) for task in tasks for path in Path("data/batches", task.name).glob("*/manifest.csv")]
    folders = {f"{task.name}/{path.parent.name}": (path.parent, task) for task, path in sorted(manifests, key=str)}
    all_findings = recheck.recheck(folders, Path("inbox"))
    groups: dict[tuple[str, str, bool], list[recheck.RecheckFinding]] = {}
    for finding in all_findings:
        groups.setdefault((finding.batch, finding.reason, finding.harm), []).append(finding)
    lines = [f"{len(folders)} admitted batches were checked again; nothing was changed"]
    rows: list[dict[str, Any]] = []
    for (batch, reason, harm), findings in sorted(groups.items(), key=lambda item: (item[0][0], not item[0][2])):
        units = [unit for finding in findings for unit in finding.units]
        files = sorted({finding.file for finding in findings})
        lines.append(f"{batch}: {'harmed' if harm else 'check'}: {len(units)} units ({files[0]}): {reason}")
        rows.append({"batch": batch, "harm": harm, "reason": reason, "units": units, "files": files})
    harmed = sorted({str(row["batch"]) for row in rows if row["harm"]})
    if harmed:
        lines.append(
            f"harmed: {', '.join(harmed)}; correct their labels (a batch of corrections), or withdraw the "
            "patients and admit the folders again from their source"
        )
    code = 3 if harmed else 4 if rows else 0
    return Answer({"batches": sorted(folders), "harmed": harmed, "findings": rows}, "\n".join(lines), code)


def _quality(tasks: list[Task]) -> Answer:
    """Write one page on all batches, admitted or quarantined, of one task or all tasks."""
    from data.quality import report
    from lineage import paths
    from lineage.record import ledger

    verdicts = [
        event.payload | {"at": event.at}
        for event in ledger.events(kind=EventKind.VERDICT)
        if event.payload["gate"] == "data"
    ]
    name = tasks[0].name if len(tasks) == 1 else "all"
    page = report.write_quality_page(Path("data"), tasks, verdicts, paths.state_path("quality", f"{name}.html"))
    return Answer({"page": str(page)}, f"{page}: data quality of {', '.join(task.name for task in tasks)}")
