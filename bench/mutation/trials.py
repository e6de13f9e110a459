"""Runs tests against mutants, each in a copy of the tree and in a fork of a process that has imported the libraries."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mutation_operators

ROOT = Path(__file__).resolve().parents[2]
PRELOADED = (
    "numpy",
    "pandas",
    "scipy.stats",
    "scipy.special",
    "sklearn.metrics",
    "yaml",
    "pydicom",
    "pydicom.pixels",
    "nibabel",
    "sqlalchemy",
    "alembic.command",
    "PIL.Image",
    "hypothesis",
    "pytest",
)
ONE_THREAD = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")}
PROGRESS_MARKS = {"killed": ".", "survived": "S", "timeout": "t"}


@dataclass(frozen=True)
class Trial:
    """A mutant of a module, the promise that it breaks ("" for a sampled one), and its key in the results."""

    module: str
    mutant: mutation_operators.Mutant
    promise: str
    key: str


@dataclass
class Job:
    """A running trial: process id, start, time limit in seconds, output file."""

    trial: Trial
    pid: int
    start: float
    limit: float
    output: Path


def run(trials: list[Trial], tests: dict[str, list[str]], jobs: int, results: Path) -> None:
    """Run the trials, `jobs` at a time, each in a copy of the tree; append one line of JSON per trial to `results`."""
    _preload()
    with tempfile.TemporaryDirectory(prefix="oncoloop-mutants-") as base:
        copies = [Path(base) / str(number) / "tree" for number in range(jobs)]
        _copy(copies[0])
        limits = {
            module: _limit(copies[0], tests[module], module) for module in dict.fromkeys(t.module for t in trials)
        }
        for copy in copies[1:]:
            shutil.copytree(copies[0], copy, symlinks=True)
        queue, running = list(reversed(trials)), dict[Path, Job]()
        try:
            with results.open("a", encoding="utf-8") as stream:
                while queue or running:
                    for copy in copies:
                        if copy in running and (row := _collect(running[copy])):
                            _restore(copy, running.pop(copy).trial.module)
                            stream.write(json.dumps(row) + "\n")
                            stream.flush()
                            print(PROGRESS_MARKS[row["result"]], end="", flush=True)  # noqa: T201
                        if copy not in running and queue:
                            trial = queue.pop()
                            _write(copy, trial)
                            running[copy] = _start(copy, trial, tests[trial.module], limits[trial.module])
                    time.sleep(0.02)
        finally:
            for job in running.values():
                _kill(job)
    print()  # noqa: T201


def _preload() -> None:
    """Import the libraries once, but no module of the product."""
    os.environ |= ONE_THREAD | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    data_folder = os.environ.get("ONCOLOOP_REAL_DATA", ROOT.parent / "shared" / "data")
    os.environ["ONCOLOOP_REAL_DATA"] = str(Path(data_folder).resolve())
    for name in PRELOADED:
        importlib.import_module(name)


def _copy(target: Path) -> None:
    """Copy the files that git tracks, and untracked ones that it does not ignore."""
    process = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, process.stdout.decode().split("\0")):
        if (ROOT / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


def _limit(copy: Path, paths: list[str], module: str) -> float:
    """Time limit in seconds for a module's trials; exits if its tests do not pass without a mutant."""
    sys.dont_write_bytecode = False
    for _ in range(2):  # the first writes bytecode
        job = _start(copy, Trial(module, mutation_operators.Mutant(0, 0, "", 0, "", ""), "", ""), paths, 3600.0)
        while not (row := _collect(job)):
            time.sleep(0.02)
        if row["result"] != "survived":
            sys.exit(f"the tests of {module} do not pass without a mutant:\n{row['end']}")
    sys.dont_write_bytecode = True
    print(f"{module}: its tests take {row['seconds']:.1f} s", flush=True)  # noqa: T201
    return 10 * row["seconds"] + 20


def _write(copy: Path, trial: Trial) -> None:
    source = (ROOT / trial.module).read_text(encoding="utf-8")
    (copy / trial.module).write_text(mutation_operators.apply(source, trial.mutant), encoding="utf-8")
    _delete_bytecode(copy, trial.module)


def _restore(copy: Path, module: str) -> None:
    shutil.copy2(ROOT / module, copy / module)
    _delete_bytecode(copy, module)


def _delete_bytecode(copy: Path, module: str) -> None:
    """Delete a module's bytecode: Python checks it by time and size, which a mutant may share with its source."""
    path = copy / module
    for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*"):
        compiled.unlink()


def _start(copy: Path, trial: Trial, paths: list[str], limit: float) -> Job:
    """Run the tests in a fork with its own process group."""
    output = copy.parent / "output"
    pid = os.fork()
    if pid:
        return Job(trial, pid, time.monotonic(), limit, output)
    code = 70
    try:
        os.setsid()
        code = _run_tests(copy, paths, output)
    finally:
        os._exit(code)


def _run_tests(copy: Path, paths: list[str], output: Path) -> int:
    """In the fork: run pytest in the copy; its exit code."""
    import pytest

    stream = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for descriptor in (1, 2):
        os.dup2(stream, descriptor)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(copy)
    sys.path[:] = [
        str(copy),
        *(path for path in sys.path if Path(path).resolve() not in (ROOT, ROOT / "bench" / "mutation")),
    ]
    sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in repr(finder)]
    os.environ |= {
        "PYTHONPATH": str(copy),
        "PYTHONDONTWRITEBYTECODE": "1" if sys.dont_write_bytecode else "",
        "PREFECT_HOME": str(copy.parent / "prefect"),
    }
    arguments = [
        "-x",
        "-q",
        "--tb=line",
        "-p",
        "no:randomly",
        "--basetemp",
        str(copy.parent / "tmp"),
        "-p",
        "_hypothesis_pytestplugin",
        "--hypothesis-seed=1",
        *paths,
    ]
    return int(pytest.main(arguments))


def _collect(job: Job) -> dict[str, Any] | None:
    """The result of a trial that has ended or exceeded its limit; None while it runs."""
    seconds = time.monotonic() - job.start
    pid, status, usage = os.wait4(job.pid, os.WNOHANG)
    result = ""
    if pid:
        result = "survived" if os.waitstatus_to_exitcode(status) == 0 else "killed"
    elif seconds > job.limit:
        result = "timeout"
    if not result:
        return None
    _kill(job)
    if not pid:
        usage = os.wait4(job.pid, 0)[2]
    text = job.output.read_text(encoding="utf-8", errors="replace") if job.output.exists() else ""
    failed = [line.split(" - ")[0].split()[-1] for line in text.splitlines() if line.startswith(("FAILED", "ERROR"))]
    trial, mutant, cpu = job.trial, job.trial.mutant, usage.ru_utime + usage.ru_stime
    return {
        "key": trial.key,
        "module": trial.module,
        "line": mutant.line,
        "old": mutant.old,
        "new": mutant.new,
        "result": result,
        "by": failed[:1],
        "seconds": round(seconds, 2),
        "cpu": round(cpu, 2),
        "end": "" if result == "killed" else text[-2000:],
    }


def _kill(job: Job) -> None:
    """Kill a trial, including servers and process pools that a broken test may leave."""
    with suppress(ProcessLookupError):
        os.killpg(job.pid, signal.SIGKILL)
