"""The records of services below var/run: where each answers, which process it is, what keeps it from running."""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from lineage import json_files, keys, paths
from pipelines.servers import marked_processes
from pipelines.servers.marked_processes import Process

log = logging.getLogger(__name__)


def run_file(name: str) -> Path:
    """The file that says where a service answers and which process it is."""
    return paths.place("run", f"{name}.json")


def records() -> dict[str, dict[str, Any]]:
    """The records of all services by the name of their file; one that cannot be read is left out."""
    found = {}
    for path in sorted(run_file("x").parent.glob("*.json")):
        try:
            found[path.stem] = json_files.read_json(path)
        except FileNotFoundError:
            continue  # its service has ended since
        except ValueError:
            log.warning("%s cannot be read and is removed", path)
            path.unlink(missing_ok=True)
    return found


def url(name: str) -> str | None:
    """Where a healthy service of this workspace answers; None if it does not run."""
    record = _running(name)
    return str(record["url"]) if record and record["healthy"] else None


def starting(name: str) -> bool:
    """Whether a service of this workspace was started and does not answer yet."""
    record = _running(name)
    return bool(record and not record["healthy"])


def _running(name: str) -> dict[str, Any] | None:
    path = run_file(name)
    record = json_files.read_json(path) if path.is_file() else None
    return record if record and _runs(record) else None


def _runs(record: Mapping[str, Any]) -> bool:
    return bool(record.get("mark")) and marked_processes.carries(int(record["pid"]), str(record["mark"]))


def supervised() -> bool:
    """Whether an `up` holds this workspace."""
    with paths.place("run", "up.lock").open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def report() -> list[dict[str, Any]]:
    """What runs, and what should run and does not: name, url, pid, state and trouble of each service."""
    watched, found = supervised(), []
    for record in records().values():
        runs = _runs(record) or bool(record.get("mark") and marked_processes.members(str(record["mark"])))
        state = ("answers" if record["healthy"] else "starts") if runs else "does not run"
        if record.get("leaving"):
            state = "finishes its last answers"
        if watched or state != "does not run":
            found.append(
                {
                    "name": record.get("name"),
                    "url": record.get("url"),
                    "pid": record.get("pid"),
                    "state": state,
                    "trouble": record.get("trouble", ""),
                }
            )
    return found


def connect(seconds: float = 120.0) -> None:
    """Use the workspace's running Prefect server, if there is one; else Prefect starts its own for the command.

    A server that is starting is waited for: a second one beside it would cost more.
    """
    deadline = time.monotonic() + seconds
    while "PREFECT_API_URL" not in os.environ and time.monotonic() < deadline:
        if found := url("prefect"):
            os.environ["PREFECT_API_URL"] = f"{found}/api"
            os.environ.setdefault("PREFECT_API_AUTH_STRING", keys.prefect_secret())
        elif not starting("prefect"):
            marked_processes.end_orphans()
            os.environ[marked_processes.COMMAND] = str(os.getpid())
            return
        else:
            time.sleep(0.5)


def clear_leftovers(spared: frozenset[str] = frozenset()) -> None:
    """End what an `up` that was killed left running in this workspace, but for the services that are spared."""
    ended, known = [], set()
    for key, record in records().items():
        known |= {str(record.get("mark") or ""), *record.get("earlier", [])}
        if key in spared:
            continue
        for mark in [str(record.get("mark") or ""), *record.get("earlier", [])]:
            process = Process(int(record.get("pid") or 0), mark)
            if mark and process.members():
                log.warning("ending %s, left running by an earlier up", key)
                process.terminate()
                ended.append(process)
        if "mark" not in record and _is_of_old_record(record, run_file(key)):
            marked_processes.end(int(record["pid"]))
        run_file(key).unlink(missing_ok=True)
    for mark in marked_processes.marks() - known:  # started when no record could be written
        log.warning("ending processes without a record, left running by an earlier up")
        ended.append(Process(0, mark))
        ended[-1].terminate()
    until = time.monotonic() + 8.0
    for process in ended:
        process.stop(max(0.0, until - time.monotonic()))


def _is_of_old_record(record: Mapping[str, Any], path: Path) -> bool:
    """Whether the process of a record without a mark runs: one of this workspace, no younger than the record."""
    pid = int(record.get("pid") or 0)
    try:
        return marked_processes.belongs(pid) and psutil.Process(pid).create_time() <= path.stat().st_mtime + 1
    except (psutil.Error, OSError):
        return False
