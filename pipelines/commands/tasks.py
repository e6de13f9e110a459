"""task: list the tasks of a workspace, or add one."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from lineage.errors import Fault
from lineage.record import ledger
from lineage.record.events import EventKind
from pipelines import params
from pipelines.cli import Answer
from pipelines.recovery import recorded_admissions
from pipelines.workspace import dvc, git, workspace

QUESTIONS: tuple[tuple[str, str, Callable[[str], Any]], ...] = (
    ("name", "short name, for example liver-ct", str),
    ("title", "title that people read", str),
    ("organ", "organ", str),
    ("modality", "modality (CT or MR)", str.upper),
    ("body_parts", "BodyPartExamined values, comma-separated", lambda text: _split_list(text.upper())),
    ("classes", "classes, comma-separated", lambda text: _split_list(text)),
    ("positive", "which of them are positive, comma-separated", lambda text: _split_list(text)),
    ("size", "pixels of the network's square input, for example 128", int),
    (
        "window",
        "CT window as 'centre,width' in HU; empty for MR",
        lambda text: [float(x) for x in _split_list(text)] or None,
    ),
    ("sensitivity", "wanted sensitivity, for example 0.9", float),
)

# The question with a default answer, asked last: an empty line accepts it. The other defaults: in a file of facts only.
MASK_QUESTION = ("mask", "what an outline means: lesion (of any class), or positive", "positive")
DEFAULTS = {"ordered": False, "note": "", "field_of_view": "body", "mask": MASK_QUESTION[2], "lesion_free": []}


EXAMPLE = {
    "name": "liver-ct",
    "title": "Liver tumour on an abdominal CT slice",
    "organ": "liver",
    "modality": "CT",
    "body_parts": ["ABDOMEN", "LIVER"],
    "classes": ["normal", "tumour"],
    "positive": ["tumour"],
    "size": 128,
    "window": [60, 400],
    "sensitivity": 0.9,
    "mask": "positive",
}


def task(args: argparse.Namespace) -> Answer:
    """List the tasks, or add one: its facts come from a file or from the terminal."""
    if args.action == "list":
        tasks = params.load().tasks
        text = "\n".join(
            f"{entry.name:14} {entry.modality:3} {', '.join(entry.classes)}: {entry.title}"
            + (f" ({entry.note})" if entry.note else "")
            for entry in tasks.values()
        )
        return Answer(list(tasks), text)
    facts = _read_facts(args.facts)
    with workspace.hold_lock("workspace"):
        return _add(facts)


def _read_facts(file: Path | None) -> dict[str, Any]:
    if file is not None:
        if not file.is_file():
            raise Fault(f"{file} does not exist; write one like this:\n{_example({})}")
        try:
            facts_in_file = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            problem = " ".join(str(error).split())
            raise Fault(f"{file} is not readable as YAML ({problem}); write one like this:\n{_example({})}") from error
        if not isinstance(facts_in_file, dict):
            raise Fault(f"{file} holds no keys with values; write one like this:\n{_example({})}")
        valid_keys = [*(name for name, *_ in QUESTIONS), *DEFAULTS]
        missing = [name for name, *_ in QUESTIONS if name not in facts_in_file]
        unknown = [str(name) for name in facts_in_file if name not in valid_keys]
        if missing or unknown:
            problems = [f"lacks {', '.join(missing)}"] if missing else []
            problems += [f"has the unknown {', '.join(unknown)}"] if unknown else []
            raise Fault(f"{file} {' and '.join(problems)}; a complete file:\n{_example(facts_in_file)}")
        return {
            name: facts_in_file[name]
            for name in (*(name for name, *_ in QUESTIONS), *DEFAULTS)
            if name in facts_in_file
        }
    facts = {}
    for name, question, parse in QUESTIONS:
        sys.stderr.write(f"{question}: ")
        sys.stderr.flush()
        line = sys.stdin.readline()
        if not line:
            raise Fault(f"the input ended at {name!r}; answer all questions, or give --facts FILE")
        try:
            facts[name] = parse(line.strip())
        except ValueError as error:
            raise Fault(f"{line.strip()!r} is not a valid answer for {name!r}") from error
    sys.stderr.write(f"{MASK_QUESTION[1]} [{MASK_QUESTION[2]}]: ")
    sys.stderr.flush()
    return facts | {MASK_QUESTION[0]: sys.stdin.readline().strip() or MASK_QUESTION[2]}


def _example(facts: dict[str, Any]) -> str:
    """A complete file of facts: those of the argument, and for the rest the values of an invented task."""
    values = {name: facts.get(name, usual) for name, usual in EXAMPLE.items()}
    return yaml.safe_dump(values, sort_keys=False, default_flow_style=None).rstrip()


def _add(facts: dict[str, Any]) -> Answer:
    """Write the task to params.yaml and dvc.yaml, check both by reading them, and commit."""
    name = facts["name"]
    if not name or not all(letter.isalnum() or letter == "-" for letter in name) or name != name.lower():
        raise Fault(f"{name!r} is not a valid task name: use lower-case letters, digits and dashes")
    record, path = params.raw(), Path(params.NAME)
    if name in record["tasks"]:
        raise Fault(f"the task {name} exists already")
    recorded_admissions.check_git_history()
    entry = {key: facts[key] for key in ("title", "organ", "modality", "body_parts", "classes", "positive")}
    entry |= {"unit": "slice", "cluster": "patient", "sensitivity": facts["sensitivity"]}
    entry |= {name: facts.get(name, usual) for name, usual in DEFAULTS.items()}
    entry |= {"pixels": {"size": facts["size"], "window": facts["window"]}, "pooling": {"rule": "topk", "k": 3}}
    original_texts = {file: Path(file).read_text(encoding="utf-8") for file in (params.NAME, "dvc.yaml")}
    try:
        path.write_text(_with_task(original_texts[params.NAME], name, entry), encoding="utf-8")
        params.load()
        _add_to_matrix(Path("dvc.yaml"), list(record["tasks"]), name)
    except Fault:
        for file, text in original_texts.items():
            Path(file).write_text(text, encoding="utf-8")
        raise
    workspace.prepare_task(Path.cwd(), name)
    version = git.commit(["params.yaml", "dvc.yaml", "data"], f"Add the task {name}")
    ledger.append(EventKind.TASK_ADDED, name, {"version": version})
    return Answer(
        {"task": name, "version": version}, f"{name} is a task now; import its first batch with `oncoloop import`"
    )


def _with_task(text: str, name: str, entry: dict[str, Any]) -> str:
    """The text of params.yaml with one more task at the end of `tasks`; comments and order stay."""
    block = yaml.safe_dump({name: entry}, sort_keys=False, default_flow_style=None)
    indented = "".join(f"  {line}\n" for line in block.splitlines())
    lines = text.splitlines(keepends=True)
    first_line = next(number for number, line in enumerate(lines) if line.startswith("tasks:"))
    following_lines = (
        number for number in range(first_line + 1, len(lines)) if lines[number][:1] not in (" ", "\n", "#")
    )
    last_line = next(following_lines, len(lines))
    while lines[last_line - 1].strip() == "":
        last_line -= 1
    return "".join([*lines[:last_line], indented, *lines[last_line:]])


def _add_to_matrix(path: Path, tasks: list[str], name: str) -> None:
    text = path.read_text(encoding="utf-8")
    old = f"task: [{', '.join(tasks)}]"
    if text.count(old) != len(dvc.STAGES):
        raise Fault(f"dvc.yaml does not list the tasks as {old} in every stage; correct it by hand")
    path.write_text(text.replace(old, f"task: [{', '.join([*tasks, name])}]"), encoding="utf-8")


def _split_list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
