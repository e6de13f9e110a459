"""task: list the questions this workspace asks, or add one by its few facts."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from lineage.errors import Fault
from lineage.record import ledger
from pipelines import params
from pipelines.cli import Answer
from pipelines.recovery import recorded_admissions
from pipelines.workspace import dvc, git, workspace

QUESTIONS: tuple[tuple[str, str, Callable[[str], Any]], ...] = (
    ("name", "short name, for example liver-ct", str),
    ("title", "title that people read", str),
    ("organ", "organ", str),
    ("modality", "modality (CT or MR)", str.upper),
    ("body_parts", "BodyPartExamined values, comma-separated", lambda text: _listed(text.upper())),
    ("classes", "classes, comma-separated", lambda text: _listed(text)),
    ("positive", "which of them are positive, comma-separated", lambda text: _listed(text)),
    ("size", "pixels of the network's square input, for example 128", int),
    (
        "window",
        "CT window as 'centre,width' in HU; empty for MR",
        lambda text: [float(x) for x in _listed(text)] or None,
    ),
    ("sensitivity", "wanted sensitivity, for example 0.9", float),
)

# What has a usual answer: asked last (an empty line takes it), or in a file of facts alone; stages are ordered classes.
USUAL = ("mask", "what an outline means: lesion (of any class), or positive", "positive")
OPTIONAL = {"ordered": False, "note": "", "field_of_view": "body", "mask": USUAL[2], "lesion_free": []}


def task(args: argparse.Namespace) -> Answer:
    """List the tasks, or ask for the facts of a new one."""
    if args.action == "list":
        tasks = params.load().tasks
        text = "\n".join(
            f"{each.name:14} {each.modality:3} {', '.join(each.classes)}: {each.title}"
            + (f" ({each.note})" if each.note else "")
            for each in tasks.values()
        )
        return Answer(list(tasks), text)
    facts = _answers(args.facts)
    with workspace.alone("workspace"):
        return _add(facts)


def _answers(file: Path | None) -> dict[str, Any]:
    if file is not None:
        if not file.is_file():
            raise Fault(f"{file} does not exist; give a YAML file with {', '.join(name for name, *_ in QUESTIONS)}")
        given = yaml.safe_load(file.read_text(encoding="utf-8"))
        if missing := [name for name, *_ in QUESTIONS if name not in given]:
            raise Fault(f"{file} lacks {missing[0]}")
        return {name: given[name] for name in (*(name for name, *_ in QUESTIONS), *OPTIONAL) if name in given}
    facts = {}
    for name, question, read in QUESTIONS:
        sys.stderr.write(f"{question}: ")
        sys.stderr.flush()
        line = sys.stdin.readline()
        if not line:
            raise Fault(f"the input ended at {name!r}; answer all questions, or give --facts FILE")
        try:
            facts[name] = read(line.strip())
        except ValueError as error:
            raise Fault(f"{line.strip()!r} is no usable answer for {name!r}") from error
    sys.stderr.write(f"{USUAL[1]} [{USUAL[2]}]: ")
    sys.stderr.flush()
    return facts | {USUAL[0]: sys.stdin.readline().strip() or USUAL[2]}


def _add(facts: dict[str, Any]) -> Answer:
    """Write the task to params.yaml and dvc.yaml, check both by reading them, and commit."""
    name = facts["name"]
    if not name or not all(letter.isalnum() or letter == "-" for letter in name) or name != name.lower():
        raise Fault(f"{name!r} is no task name: use lower-case letters, digits and dashes")
    record, path = params.raw(), Path(params.NAME)
    if name in record["tasks"]:
        raise Fault(f"the task {name} exists already")
    recorded_admissions.check()
    entry = {key: facts[key] for key in ("title", "organ", "modality", "body_parts", "classes", "positive")}
    entry |= {"unit": "slice", "cluster": "patient", "sensitivity": facts["sensitivity"]}
    entry |= {name: facts.get(name, usual) for name, usual in OPTIONAL.items()}
    entry |= {"pixels": {"size": facts["size"], "window": facts["window"]}, "pooling": {"rule": "topk", "k": 3}}
    before = {file: Path(file).read_text(encoding="utf-8") for file in (params.NAME, "dvc.yaml")}
    try:
        path.write_text(_with_task(before[params.NAME], name, entry), encoding="utf-8")
        params.load()
        _into_matrix(Path("dvc.yaml"), list(record["tasks"]), name)
    except Fault:
        for file, text in before.items():
            Path(file).write_text(text, encoding="utf-8")
        raise
    workspace.prepare_task(Path.cwd(), name)
    version = git.commit(["params.yaml", "dvc.yaml", "data"], f"Add the task {name}")
    ledger.append("task.added", name, {"version": version})
    return Answer(
        {"task": name, "version": version}, f"{name} is a task now; import its first batch with `oncoloop import`"
    )


def _with_task(text: str, name: str, entry: dict[str, Any]) -> str:
    """params.yaml with one more task at the end of its `tasks`, comments and order kept."""
    block = yaml.safe_dump({name: entry}, sort_keys=False, default_flow_style=None)
    indented = "".join(f"  {line}\n" for line in block.splitlines())
    lines = text.splitlines(keepends=True)
    start = next(number for number, line in enumerate(lines) if line.startswith("tasks:"))
    rest = (number for number in range(start + 1, len(lines)) if lines[number][:1] not in (" ", "\n", "#"))
    end = next(rest, len(lines))
    while lines[end - 1].strip() == "":
        end -= 1
    return "".join([*lines[:end], indented, *lines[end:]])


def _into_matrix(path: Path, tasks: list[str], name: str) -> None:
    text = path.read_text(encoding="utf-8")
    old = f"task: [{', '.join(tasks)}]"
    if text.count(old) != len(dvc.STAGES):
        raise Fault(f"dvc.yaml does not list the tasks as {old} in every stage; mend it by hand")
    path.write_text(text.replace(old, f"task: [{', '.join([*tasks, name])}]"), encoding="utf-8")


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
