"""The command line `oncoloop`: its commands, arguments and error messages. The work is in pipelines/commands."""

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
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lineage import paths, subprocess_environment
from lineage.errors import Fault


@dataclass(frozen=True)
class Answer:
    """The outcome of a command: `result` for programs, `text` for people, and the exit code."""

    result: Any
    text: str
    code: int = 0


@dataclass(frozen=True)
class Command:
    """One command: the module of its function, its purpose, an example, its arguments."""

    module: str
    purpose: str
    example: str
    arguments: tuple[tuple[tuple[str, ...], dict[str, Any]], ...] = field(default_factory=tuple)
    needs_workspace: bool = True  # runs in a workspace, chosen with -C
    runs_flows: bool = False  # runs Prefect flows, so it needs a server


def argument(*names: str, **options: Any) -> tuple[tuple[str, ...], dict[str, Any]]:
    """The names and options of one argument, for argparse."""
    return names, options


DISK_FULL_MESSAGES = ("no space left on device", "disk is full", "disk quota exceeded")  # Linux, SQLite
MIN_FREE_BYTES = 2**17  # with less, no database can write, and a server answers 500 without a reason
TASK = argument("--task", help="only this task of params.yaml")
REASON = argument("--reason", required=True, help="the reason, which the ledger records")
VERSION = (argument("task", help="a task of params.yaml"), argument("version", help="a version of its model"))

PASSPHRASE = argument(
    "--passphrase-file",
    type=Path,
    help="a file whose first line is the passphrase of the keys; without it, the terminal asks",
)

COMMANDS: dict[str, Command] = {
    "init": Command(
        "setup",
        "create a workspace, or complete an incomplete one",
        "oncoloop init ward7",
        (
            argument("folder", type=Path),
            argument(
                "--new-keys", action="store_true", help="make new keys for a workspace that was restored without keys"
            ),
        ),
        needs_workspace=False,
    ),
    "demo": Command(
        "demo",
        "run the whole loop on synthetic studies",
        "oncoloop demo --seed 3",
        (
            argument("--sham", action="store_true", help="with permuted labels: the gate must fail"),
            argument("--quick", action="store_true", help="with few patients: the gates will often be inconclusive"),
            argument(
                "--set",
                action="append",
                default=[],
                metavar="SECTION.KEY=VALUE",
                help="change a value in the demo's params.yaml",
            ),
            argument("--seed", type=int, default=7),
            argument("--at", type=Path, default=Path("var/demo")),
        ),
        needs_workspace=False,
    ),
    "up": Command(
        "setup",
        "run all services: web front, release, Prefect, MLflow",
        "oncoloop up --port 7800",
        (
            argument("--port", type=int, default=7800, help="the first of the ports"),
            argument("--only", nargs="+", default=None, help="only these services"),
            argument("--links", action="store_true", help="print a one-time link for every person"),
        ),
    ),
    "import": Command(
        "ingest",
        "turn a folder of scans into a batch in the inbox",
        "oncoloop import lung/ --task lung-ct",
        (
            argument("folder", type=Path),
            argument("--task", required=True),
            argument("--batch", help="the name of the batch"),
            argument("--only", help="only scans whose file name matches, for example 'Pre*'"),
            argument(
                "--label",
                action="append",
                default=[],
                metavar="FOLDER=CLASS",
                help="the class of a folder with another name; once for each folder",
            ),
            argument("--lesion-value", default="", help="the value of the lesion in the masks; several values: 1,2"),
            argument(
                "--patient-level",
                type=int,
                default=None,
                help="the level of the patients' folders: 1 is the first below FOLDER, 0 means none",
            ),
        ),
    ),
    "ingest": Command(
        "ingest",
        "judge the waiting batches; admit or quarantine",
        "oncoloop ingest inbox/2026-05",
        (
            argument("folder", type=Path, nargs="?"),
            argument("--again", action="store_true", help="judge a quarantined batch again"),
        ),
        runs_flows=True,
    ),
    "data": Command(
        "ingest",
        "list, compare and check out data versions; label history, quality page, checks of admitted data",
        "oncoloop data quality",
        (
            argument("action", choices=("list", "diff", "checkout", "history", "quality", "recheck")),
            argument("versions", nargs="*", help="data versions, a scan's SHA-256 or unit, or a task"),
        ),
    ),
    "withdraw": Command(
        "withdrawal",
        "show where a patient's data is, and remove it",
        "oncoloop withdraw 4711 --reason 'consent withdrawn'",
        (argument("patient"), REASON, argument("--yes", action="store_true")),
    ),
    "task": Command(
        "tasks",
        "list the tasks, or add one",
        "oncoloop task new",
        (argument("action", choices=("list", "new")), argument("--facts", type=Path, help="answers as a YAML file")),
    ),
    "retrain": Command(
        "models",
        "train, judge, and release versions that pass",
        "oncoloop retrain --task lung-ct",
        (
            TASK,
            argument("--reason", default="requested by hand"),
            argument("--pool", default="", help="fit on workers of this Prefect work pool"),
        ),
        runs_flows=True,
    ),
    "approve": Command(
        "models",
        "approve a version that waits for approval",
        "oncoloop approve lung-ct 3 --reason 'read'",
        (*VERSION, REASON),
        runs_flows=True,
    ),
    "reject": Command(
        "models",
        "reject a version",
        "oncoloop reject lung-ct 3 --reason 'artefacts'",
        (*VERSION, REASON),
        runs_flows=True,
    ),
    "site": Command(
        "sites",
        "judge, confirm, withdraw and list the sites that a model may answer for",
        "oncoloop site accept Birch --task lung-ct --batch birch-2026-05 --reason 'new scanner'",
        (
            argument("action", choices=("accept", "confirm", "withdraw", "list")),
            argument("name", nargs="?", help="the site, as in the column `site` of metadata.csv"),
            argument("--task", help="a task of params.yaml"),
            argument("--batch", help="for accept: an admitted batch of labelled scans of this site"),
            argument("--reason", default="", help="the reason, which the ledger records"),
        ),
    ),
    "reproduce": Command("models", "train a version again and compare", "oncoloop reproduce lung-ct 1", VERSION),
    "crossval": Command(
        "models",
        "cross-validate a task: judge every patient with models trained on other patients",
        "oncoloop crossval lung-ct --folds 5",
        (argument("task"), argument("--folds", type=int, default=5, help="0: leave one patient out at a time")),
    ),
    "rollback": Command(
        "models", "return to the previous release", "oncoloop rollback --reason 'wrong site'", (REASON,)
    ),
    "shadow": Command(
        "shadow",
        "run a version behind the live release without showing its answers, and compare",
        "oncoloop shadow lung-ct 3",
        (*VERSION, argument("--stop", action="store_true", help="end the shadow, and compare")),
    ),
    "predict": Command(
        "predictions",
        "predict one case from files",
        "oncoloop predict scan.dcm",
        (
            argument("files", type=Path, nargs="+"),
            TASK,
            argument("--site", default="", help="the site of scans that name no institution"),
        ),
    ),
    "replay": Command(
        "predictions",
        "repeat a journalled prediction from its files, and compare",
        "oncoloop replay 5f2c scan.dcm",
        (argument("prediction"), argument("files", type=Path, nargs="+")),
    ),
    "watch": Command(
        "predictions",
        "check for drift in the received scans",
        "oncoloop watch --task lung-ct",
        (TASK,),
        runs_flows=True,
    ),
    "ack": Command(
        "predictions",
        "acknowledge a drift, so that it requests no retraining",
        "oncoloop ack lung-ct --reason 'known'",
        (argument("task"), REASON),
    ),
    "label": Command(
        "predictions",
        "add the true label of a predicted case",
        "oncoloop label 5f2c malignant --source pathology",
        (argument("prediction"), argument("label"), argument("--source", default="reader")),
    ),
    "trace": Command(
        "predictions", "show all records behind a prediction", "oncoloop trace 5f2c", (argument("prediction"),)
    ),
    "verify": Command(
        "predictions",
        "verify the ledger, and that the workspace contains everything it names",
        "oncoloop verify --repair",
        (
            argument("--full", action="store_true", help="read and hash every byte of scans, cache and remote"),
            argument("--repair", action="store_true", help="restore missing parts as far as possible"),
        ),
    ),
    "schedule": Command(
        "setup",
        "register the Prefect deployments",
        "oncoloop schedule",
        (
            argument("--work", action="store_true", help="also run due flows, until stopped"),
            argument("--secret", action="store_true", help="print the secret that a worker of a pool needs"),
        ),
        runs_flows=True,
    ),
    "backup": Command(
        "maintenance",
        "write the workspace and its state to one file, its keys to another",
        "oncoloop backup ward7.tar --keys ward7.keys",
        (
            argument("file", type=Path),
            argument("--keys", type=Path, help="also write the keys to this file, encrypted with a passphrase"),
            PASSPHRASE,
        ),
    ),
    "restore": Command(
        "maintenance",
        "restore a backup into an empty folder, or the keys of a workspace without keys",
        "oncoloop restore ward7.tar ward7 --keys ward7.keys",
        (
            argument("file", type=Path, help="a backup, or its file of keys"),
            argument("folder", type=Path),
            argument("--keys", type=Path, help="the file that `backup --keys` wrote"),
            PASSPHRASE,
        ),
        needs_workspace=False,
    ),
    "user": Command(
        "users",
        "manage people: add, list, disable, enable, end sign-ins, list and revoke tokens",
        "oncoloop user add mara --role clinician",
        (
            argument("action", choices=("add", "list", "disable", "enable", "sign-out", "tokens", "revoke")),
            argument("name", nargs="?"),
            argument("token", nargs="?", help="for revoke: the first digits of its SHA-256"),
            argument("--role"),
        ),
    ),
    "login": Command(
        "users",
        "make a one-time link, or a token for a program",
        "oncoloop login mara",
        (
            argument("name"),
            argument("--token", action="store_true", help="a bearer token for programs"),
            argument("--days", type=int, default=30),
            argument("--site", default="", help="of a token: the site whose scans the program sends"),
        ),
    ),
    "signin": Command(
        "users",
        "sign in on the command line with a one-time link, or show who is signed in",
        "oncoloop signin -",
        (argument("link", nargs="?", help="- reads it from standard input, so that no process list shows it"),),
    ),
    "signout": Command("users", "end the sign-in on the command line", "oncoloop signout"),
    "status": Command("maintenance", "show tasks, models, release, services and waiting work", "oncoloop status"),
    "completion": Command(
        "completion",
        "print the script that completes commands, options and files in a shell",
        "oncoloop completion bash",
        (argument("shell", choices=("bash", "zsh", "fish")),),
        needs_workspace=False,
    ),
    "stage": Command(
        "models",
        "run one DVC stage; DVC calls this command",
        "oncoloop stage fit --task lung-ct",
        (argument("stage", choices=("prepare", "fit", "export", "evaluate")), argument("--task", required=True)),
        needs_workspace=False,
    ),
}


@dataclass(frozen=True)
class CommandParser:
    """The parser of one command, and its arguments without `--help`."""

    parser: argparse.ArgumentParser
    arguments: tuple[argparse.Action, ...]


def parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    return parsers()[0]


def parsers() -> tuple[argparse.ArgumentParser, dict[str, CommandParser]]:
    """The parser of the command line, and those of its commands by name."""
    top = argparse.ArgumentParser(
        prog="oncoloop", description="Continuous learning for tumour imaging. Research use only."
    )
    top.add_argument("--version", action="version", version=f"%(prog)s {version('oncoloop')}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    command_parsers = {}
    for name, command in COMMANDS.items():
        sub = commands.add_parser(
            name,
            help=command.purpose,
            description=command.purpose.capitalize() + ".",
            epilog=f"example: {command.example}",
        )
        command_parsers[name] = CommandParser(sub, _add_arguments(sub, command))
    return top, command_parsers


def _add_arguments(sub: argparse.ArgumentParser, command: Command) -> tuple[argparse.Action, ...]:
    """Add a command's own arguments and those of all commands to its parser."""
    arguments = [sub.add_argument(*names, **options) for names, options in command.arguments]
    arguments.append(
        sub.add_argument(
            "--json", action="store_true", help="print the result as JSON; standard output contains nothing else"
        )
    )
    if command.needs_workspace:
        arguments.append(
            sub.add_argument(
                "-C", "--workspace", type=Path, default=Path(), help="the workspace (default: the current folder)"
            )
        )
    return tuple(arguments)


def put_own_packages_first() -> None:
    """Prevent a package such as `data` in PYTHONPATH from hiding Oncoloop's, in this and in child processes."""
    root = str(Path(__file__).resolve().parent.parent)
    if os.environ.get("PYTHONPATH"):
        sys.path.insert(0, root)
        os.environ["PYTHONPATH"] = os.pathsep.join((root, os.environ["PYTHONPATH"]))


def main(arguments: list[str] | None = None) -> None:
    """Run one command; every error is one sentence on standard error."""
    put_own_packages_first()
    paths.keep_private()
    args = parser().parse_args(arguments)
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # vendors print to standard error; standard output contains only the result
    log_handler = logging.StreamHandler()
    log_handler.setFormatter(OneLineFormatter("%(asctime)s %(name)s: %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=logging.INFO, handlers=[log_handler])
    quiet_vendors()
    code = 1
    try:
        answer = run(args)
        text = json.dumps(answer.result, indent=1, default=str) if args.json else answer.text
        if text:
            output.write(text.rstrip("\n") + "\n")
            output.flush()
        code = answer.code
    except Fault as fault:
        sys.stderr.write(f"oncoloop: {_disk_full_message(fault) or fault}\n")
    except KeyboardInterrupt:
        sys.stderr.write("oncoloop: interrupted; run the same command again to finish\n")
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), output.fileno())
    except Exception as error:
        sentence = _disk_full_message(error) or f"{args.command} failed: {_first_line(error)}; {_save_traceback()}"
        sys.stderr.write(f"oncoloop: {sentence}\n")
    logging.shutdown()
    sys.exit(code)


def run(args: argparse.Namespace) -> Answer:
    """Enter the workspace if the command needs one, and run the command."""
    from pipelines.servers import services
    from pipelines.workspace import workspace

    command = COMMANDS[args.command]
    subprocess_environment.isolate_process(os.environ)
    for name in ("folder", "file", "facts", "keys", "passphrase_file"):
        if isinstance(path_argument := getattr(args, name, None), Path):
            setattr(args, name, path_argument.expanduser().absolute())
    if getattr(args, "files", None):
        args.files = [path.expanduser().absolute() for path in args.files]
    if command.needs_workspace:
        workspace.enter(args.workspace)
    if command.runs_flows:
        services.connect_prefect()
    return command_function(args.command)(args)


def command_function(name: str) -> Callable[[argparse.Namespace], Answer]:
    """The function of a command."""
    module = importlib.import_module(f"pipelines.commands.{COMMANDS[name].module}")
    work: Callable[[argparse.Namespace], Answer] = getattr(module, "import_" if name == "import" else name)
    return work


class OneLineFormatter(logging.Formatter):
    """Log lines without tracebacks, which are in logs/crash.log and on Prefect's page."""

    def format(self, record: logging.LogRecord) -> str:
        """The first line of a record."""
        plain_record = logging.makeLogRecord(record.__dict__ | {"exc_info": None, "exc_text": None, "stack_info": None})
        return super().format(plain_record).splitlines()[0]


def quiet_vendors() -> None:
    """Set vendors' loggers to warning level; our loggers stay unchanged."""
    for name in ("httpx", "httpcore", "alembic", "great_expectations", "matplotlib", "dvc", "dvc_data", "asyncio"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _disk_full_message(error: BaseException) -> str:
    """A sentence if a command failed because the disk is full, by its error or by the free space; else ""."""
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) and cause not in chain:
        chain.append(cause)
    home = Path(os.environ.get("ONCOLOOP_HOME") or ".")
    is_reported = any(words in str(link).lower() for link in chain for words in DISK_FULL_MESSAGES)
    if not (is_reported or (home.exists() and shutil.disk_usage(home).free < MIN_FREE_BYTES)):
        return ""
    return f"the disk that holds {home} is full; nothing is lost: free space there, then run the same command again"


def _first_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or "no message"
    return f"{type(error).__name__}: {text[:300]}"


def _save_traceback() -> str:
    if "ONCOLOOP_HOME" not in os.environ:
        return "".join(traceback.format_exc(limit=-1).splitlines()[-1:])
    path = paths.state_path("logs", "crash.log")
    with path.open("a", encoding="utf-8") as handle:
        handle.write(traceback.format_exc() + "\n")
    return f"the details are in {path}"


if __name__ == "__main__":
    main()
