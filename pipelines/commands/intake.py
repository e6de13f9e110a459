"""import, ingest, data: how scans get in, and which versions there are."""

from __future__ import annotations

import argparse
from pathlib import Path

from lineage import ledger
from lineage.fault import Fault
from lineage.verdict import Outcome, from_dict, worst
from pipelines import params, repro
from pipelines.cli import Answer


def import_(args: argparse.Namespace) -> Answer:
    """Turn a folder of scans into a batch in the inbox."""
    from data import collect

    task = params.load().task(args.task)
    name = args.batch or args.folder.name
    target = Path("inbox", name)
    if target.exists():
        raise Fault(f"inbox/{name} exists already; name the batch otherwise with --batch")
    record = collect.import_folder(args.folder, target, task, only=args.only)
    return Answer({"batch": name, **record}, "\n".join([f"inbox/{name}:", *(f"  {k}: {v}" for k, v in record.items())]))


def ingest(args: argparse.Namespace) -> Answer:
    """Judge every waiting batch."""
    from pipelines import ingest as flow

    params.load()
    if not flow.waiting(args.folder, args.again):
        return Answer({"batches": []}, "nothing new: every batch in the inbox has been judged")
    results = flow.ingest(str(args.folder) if args.folder else None, args.again)
    verdicts = [from_dict(result["verdict"]) for result in results]
    lines = []
    for result, verdict in zip(results, verdicts, strict=True):
        state = "admitted" if verdict.outcome is Outcome.PASS else "quarantined"
        lines += [f"{result['batch']} ({result['task']}): {state}", *(f"  - {reason}" for reason in verdict.reasons)]
        lines.append(f"  page: {result['page']}")
    code = {Outcome.PASS: 0, Outcome.FAIL: 3, Outcome.INCONCLUSIVE: 4}[worst([v.outcome for v in verdicts])]
    return Answer({"batches": results}, "\n".join(lines), code)


def data(args: argparse.Namespace) -> Answer:
    """list, diff A B, checkout VERSION."""
    wanted = {"list": 0, "diff": 2, "checkout": 1}[args.action]
    if len(args.versions) != wanted:
        raise Fault(f"`oncoloop data {args.action}` takes {wanted} versions; `oncoloop data list` shows them")
    return {"list": _list, "diff": _diff, "checkout": _checkout}[args.action](args.versions)


def _list(_versions: list[str]) -> Answer:
    rows = [
        {
            "version": event.payload["data_version"],
            "at": event.at,
            **{k: event.payload[k] for k in ("task", "batch", "units", "clusters")},
        }
        for event in ledger.events(kind="batch.admitted")
    ]
    text = "\n".join(
        f"{r['version'][:12]}  {r['at']}  {r['task']:12} {r['batch']:24} {r['units']} units of {r['clusters']} clusters"
        for r in rows
    )
    return Answer(rows, text or "no batch is admitted yet")


def _diff(versions: list[str]) -> Answer:
    older, newer = (repro.batches_of(version) for version in versions)
    result = {"added": sorted(newer - older), "removed": sorted(older - newer)}
    text = "\n".join([*(f"+ {name}" for name in result["added"]), *(f"- {name}" for name in result["removed"])])
    return Answer(result, text or "the same batches")


def _checkout(versions: list[str]) -> Answer:
    folder = repro.checkout(versions[0])
    return Answer({"folder": str(folder)}, f"version {versions[0]} lies in {folder}")
