"""`oncoloop ...`: every command of the product. A command's work is in the rooms; here is what people type and read."""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import shutil
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lineage import paths, subprocess_environment
from lineage.errors import Fault


@dataclass(frozen=True)
class Answer:
    """What a command says: `result` for machines, `text` for people, and the exit code."""

    result: Any
    text: str
    code: int = 0


@dataclass(frozen=True)
class Command:
    """One command: where its function lives, what it is for, an example, its arguments."""

    module: str
    purpose: str
    example: str
    arguments: tuple[tuple[tuple[str, ...], dict[str, Any]], ...] = field(default_factory=tuple)
    inside: bool = True  # runs in a workspace
    flows: bool = False  # runs Prefect flows, so it needs a server


def arg(*names: str, **options: Any) -> tuple[tuple[str, ...], dict[str, Any]]:
    """One argument, as argparse takes it."""
    return names, options


NO_ROOM = ("no space left on device", "disk is full", "disk quota exceeded")  # Linux, SQLite
ROOM = 2**17  # bytes: with less than this no database can write, and a server answers 500 without a reason
TASK = arg("--task", help="only this task of params.yaml")
REASON = arg("--reason", required=True, help="why; it is written to the ledger")
VERSION = (arg("task", help="a task of params.yaml"), arg("version", help="a version of its model"))

PASSPHRASE = arg(
    "--passphrase-file",
    type=Path,
    help="the passphrase of the keys is the first line of this file; without it you are asked",
)

COMMANDS: dict[str, Command] = {
    "init": Command(
        "setup",
        "make a workspace, or mend a half-made one",
        "oncoloop init ward7",
        (
            arg("folder", type=Path),
            arg("--new-keys", action="store_true", help="make keys anew where a restored workspace has none"),
        ),
        inside=False,
    ),
    "demo": Command(
        "demo",
        "the whole loop on synthetic studies",
        "oncoloop demo --seed 3",
        (
            arg("--sham", action="store_true", help="with permuted labels: the gate must say no"),
            arg("--quick", action="store_true", help="few patients: the gates will hardly be sure"),
            arg(
                "--set",
                action="append",
                default=[],
                metavar="SECTION.KEY=VALUE",
                help="another value in the demo's params.yaml",
            ),
            arg("--seed", type=int, default=7),
            arg("--at", type=Path, default=Path("var/demo")),
        ),
        inside=False,
    ),
    "up": Command(
        "setup",
        "run everything: web front, release, Prefect, MLflow",
        "oncoloop up --port 7800",
        (
            arg("--port", type=int, default=7800, help="first of the ports used"),
            arg("--only", nargs="+", default=None, help="only these services"),
            arg("--links", action="store_true", help="print a one-time link for every person"),
        ),
    ),
    "import": Command(
        "ingest",
        "turn a folder of scans into a batch in the inbox",
        "oncoloop import lung/ --task lung-ct",
        (
            arg("folder", type=Path),
            arg("--task", required=True),
            arg("--batch", help="the batch's name"),
            arg("--only", help="only scans whose file name matches, for example 'Pre*'"),
            arg("--lesion-value", default="", help="which value of the masks is the lesion; several: 1,2"),
            arg(
                "--patient-level",
                type=int,
                default=None,
                help="which folders are the patients: 1 the first below FOLDER, 0 none",
            ),
        ),
    ),
    "ingest": Command(
        "ingest",
        "judge the waiting batches; admit or quarantine",
        "oncoloop ingest inbox/2026-05",
        (
            arg("folder", type=Path, nargs="?"),
            arg("--again", action="store_true", help="judge a quarantined batch once more"),
        ),
        flows=True,
    ),
    "data": Command(
        "ingest",
        "data versions, a label's history, the quality page, today's checks again",
        "oncoloop data quality",
        (
            arg("action", choices=("list", "diff", "checkout", "history", "quality", "recheck")),
            arg("versions", nargs="*", help="versions; a scan's SHA-256 or unit; or a task"),
        ),
    ),
    "withdraw": Command(
        "withdrawal",
        "remove a patient, and say where the patient was",
        "oncoloop withdraw 4711 --reason 'consent withdrawn'",
        (arg("patient"), REASON, arg("--yes", action="store_true")),
    ),
    "task": Command(
        "tasks",
        "list the tasks, or add one",
        "oncoloop task new",
        (arg("action", choices=("list", "new")), arg("--facts", type=Path, help="answers as a YAML file")),
    ),
    "retrain": Command(
        "models",
        "train, gate, and release what passes",
        "oncoloop retrain --task lung-ct",
        (
            TASK,
            arg("--reason", default="asked by hand"),
            arg("--pool", default="", help="fit on workers of this Prefect work pool"),
        ),
        flows=True,
    ),
    "approve": Command(
        "models",
        "let a version through that waits for a person",
        "oncoloop approve lung-ct 3 --reason 'read'",
        (*VERSION, REASON),
        flows=True,
    ),
    "reject": Command(
        "models",
        "turn a version down",
        "oncoloop reject lung-ct 3 --reason 'artefacts'",
        (*VERSION, REASON),
        flows=True,
    ),
    "reproduce": Command("models", "train a version again and compare", "oncoloop reproduce lung-ct 1", VERSION),
    "crossval": Command(
        "models",
        "judge a task by every patient in turn, with models that never saw them",
        "oncoloop crossval lung-ct --folds 5",
        (arg("task"), arg("--folds", type=int, default=5, help="0: leave one patient out at a time")),
    ),
    "rollback": Command(
        "models", "go back to the release before this one", "oncoloop rollback --reason 'wrong site'", (REASON,)
    ),
    "shadow": Command(
        "shadow",
        "let a version answer behind the live release, unseen, and compare",
        "oncoloop shadow lung-ct 3",
        (*VERSION, arg("--stop", action="store_true", help="end it, and say how it compared")),
    ),
    "predict": Command(
        "predictions",
        "answer one case from files",
        "oncoloop predict scan.dcm",
        (arg("files", type=Path, nargs="+"), TASK),
    ),
    "replay": Command(
        "predictions",
        "answer a journalled case again from its files",
        "oncoloop replay 5f2c scan.dcm",
        (arg("prediction"), arg("files", type=Path, nargs="+")),
    ),
    "watch": Command(
        "predictions", "look for drift in what came in", "oncoloop watch --task lung-ct", (TASK,), flows=True
    ),
    "ack": Command(
        "predictions",
        "acknowledge a drift, so that it stops asking",
        "oncoloop ack lung-ct --reason 'known'",
        (arg("task"), REASON),
    ),
    "label": Command(
        "predictions",
        "add the truth of an answered case that became known later",
        "oncoloop label 5f2c malignant --source pathology",
        (arg("prediction"), arg("label"), arg("--source", default="reader")),
    ),
    "trace": Command("predictions", "the whole chain behind a prediction", "oncoloop trace 5f2c", (arg("prediction"),)),
    "verify": Command(
        "predictions",
        "check that the ledger is whole, and that the workspace holds what it names",
        "oncoloop verify --repair",
        (
            arg("--full", action="store_true", help="read and hash every byte of scans, cache and remote"),
            arg("--repair", action="store_true", help="bring back what is missing, as far as it is known"),
        ),
    ),
    "schedule": Command(
        "setup",
        "register the Prefect deployments",
        "oncoloop schedule",
        (
            arg("--work", action="store_true", help="also run what is due, until stopped"),
            arg("--secret", action="store_true", help="print what a worker of a pool needs to come in"),
        ),
        flows=True,
    ),
    "backup": Command(
        "maintenance",
        "write the workspace and its state to one file, its keys to another",
        "oncoloop backup ward7.tar --keys ward7.keys",
        (
            arg("file", type=Path),
            arg("--keys", type=Path, help="also write the keys to this file, encrypted by a passphrase"),
            PASSPHRASE,
        ),
    ),
    "restore": Command(
        "maintenance",
        "bring a backup back into an empty folder; or keys into a workspace without",
        "oncoloop restore ward7.tar ward7 --keys ward7.keys",
        (
            arg("file", type=Path, help="a backup, or the file of its keys"),
            arg("folder", type=Path),
            arg("--keys", type=Path, help="the file that `backup --keys` wrote"),
            PASSPHRASE,
        ),
        inside=False,
    ),
    "user": Command(
        "users",
        "people: add, list, disable, enable, end their sign-ins, list and revoke their tokens",
        "oncoloop user add mara --role clinician",
        (
            arg("action", choices=("add", "list", "disable", "enable", "sign-out", "tokens", "revoke")),
            arg("name", nargs="?"),
            arg("token", nargs="?", help="of revoke: how its SHA-256 begins"),
            arg("--role"),
        ),
    ),
    "login": Command(
        "users",
        "a one-time link, or a token for a program",
        "oncoloop login mara",
        (
            arg("name"),
            arg("--token", action="store_true", help="a bearer token for programs"),
            arg("--days", type=int, default=30),
        ),
    ),
    "signin": Command(
        "users",
        "sign in on the command line with a one-time link, or say who is signed in",
        "oncoloop signin -",
        (arg("link", nargs="?", help="- reads it, so that no list of processes shows it"),),
    ),
    "signout": Command("users", "end the sign-in on the command line", "oncoloop signout"),
    "status": Command("maintenance", "what stands where", "oncoloop status"),
    "stage": Command(
        "models",
        "one DVC stage; DVC calls it",
        "oncoloop stage fit --task lung-ct",
        (arg("stage", choices=("prepare", "fit", "export", "evaluate")), arg("--task", required=True)),
        inside=False,
    ),
}


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(
        prog="oncoloop", description="Continuous learning for tumour imaging. Research use only."
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        sub = commands.add_parser(
            name,
            help=command.purpose,
            description=command.purpose.capitalize() + ".",
            epilog=f"example: {command.example}",
        )
        for names, options in command.arguments:
            sub.add_argument(*names, **options)
        sub.add_argument("--json", action="store_true", help="the result as JSON, alone on standard output")
        if command.inside:
            sub.add_argument("-C", "--workspace", type=Path, default=Path(), help="the workspace (default: here)")
    return top


def own_packages_first() -> None:
    """A folder of PYTHONPATH with a package such as `data` must not hide Oncoloop's, here nor in child processes."""
    root = str(Path(__file__).resolve().parent.parent)
    if os.environ.get("PYTHONPATH"):
        sys.path.insert(0, root)
        os.environ["PYTHONPATH"] = os.pathsep.join((root, os.environ["PYTHONPATH"]))


def main(arguments: list[str] | None = None) -> None:
    """Run one command; every failure is one sentence on standard error."""
    own_packages_first()
    paths.keep_private()
    args = parser().parse_args(arguments)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what vendors print goes to standard error; standard output carries the answer alone
    handler = logging.StreamHandler()
    handler.setFormatter(Sentences("%(asctime)s %(name)s: %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    quiet()
    code = 1
    try:
        answer = run(args)
        text = json.dumps(answer.result, indent=1, default=str) if args.json else answer.text
        if text:
            answers.write(text.rstrip("\n") + "\n")
            answers.flush()
        code = answer.code
    except Fault as fault:
        sys.stderr.write(f"oncoloop: {_full(fault) or fault}\n")
    except KeyboardInterrupt:
        sys.stderr.write("oncoloop: interrupted; run the same command again to finish\n")
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), answers.fileno())
    except Exception as error:
        told = _full(error) or f"{args.command} failed: {_first_line(error)}; {_keep_traceback()}"
        sys.stderr.write(f"oncoloop: {told}\n")
    logging.shutdown()
    sys.exit(code)


def run(args: argparse.Namespace) -> Answer:
    """Enter the workspace where the command needs one, and do it."""
    from pipelines.servers import services
    from pipelines.workspace import workspace

    command = COMMANDS[args.command]
    subprocess_environment.isolate(os.environ)
    for name in ("folder", "file", "facts", "keys", "passphrase_file"):
        if isinstance(given := getattr(args, name, None), Path):
            setattr(args, name, given.expanduser().absolute())
    if getattr(args, "files", None):
        args.files = [path.expanduser().absolute() for path in args.files]
    if command.inside:
        workspace.enter(args.workspace)
    if command.flows:
        services.connect_prefect()
    return function(args.command)(args)


def function(name: str) -> Callable[[argparse.Namespace], Answer]:
    """What does the work of a command."""
    module = importlib.import_module(f"pipelines.commands.{COMMANDS[name].module}")
    found: Callable[[argparse.Namespace], Answer] = getattr(module, "import_" if name == "import" else name)
    return found


class Sentences(logging.Formatter):
    """Log lines without tracebacks: those are kept in logs/crash.log, and on Prefect's page."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        shown = logging.makeLogRecord(record.__dict__ | {"exc_info": None, "exc_text": None, "stack_info": None})
        return super().format(shown).splitlines()[0]


def quiet() -> None:
    """Vendors' chatter at warning level; ours stays."""
    for name in ("httpx", "httpcore", "alembic", "great_expectations", "matplotlib", "dvc", "dvc_data", "asyncio"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _full(error: BaseException) -> str:
    """A sentence if a command failed for want of room: by what it says, or since there is hardly any; else ""."""
    chain: list[BaseException] = [error]
    while (before := chain[-1].__cause__ or chain[-1].__context__) and before not in chain:
        chain.append(before)
    here = Path(os.environ.get("ONCOLOOP_HOME") or ".")
    said = any(words in str(one).lower() for one in chain for words in NO_ROOM)
    if not (said or (here.exists() and shutil.disk_usage(here).free < ROOM)):
        return ""
    return f"the disk that holds {here} is full; nothing is lost: make room there, then run the same command again"


def _first_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or "no message"
    return f"{type(error).__name__}: {text[:300]}"


def _keep_traceback() -> str:
    if "ONCOLOOP_HOME" not in os.environ:
        return "".join(traceback.format_exc(limit=-1).splitlines()[-1:])
    path = paths.place("logs", "crash.log")
    with path.open("a", encoding="utf-8") as handle:
        handle.write(traceback.format_exc() + "\n")
    return f"the details are in {path}"


if __name__ == "__main__":
    main()
