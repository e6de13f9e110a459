"""The records of services in var/run: address, process, and the reason why a service does not run."""

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
    """The file with the address and the process of a service."""
    return paths.state_path("run", f"{name}.json")


def records() -> dict[str, dict[str, Any]]:
    """The records of all services, by file name without suffix; an unreadable record is removed and left out."""
    services = {}
    for path in sorted(run_file("x").parent.glob("*.json")):
        try:
            services[path.stem] = json_files.read_json(path)
        except FileNotFoundError:
            continue  # its service has ended in the meantime
        except ValueError:
            log.warning("%s cannot be read and is removed", path)
            path.unlink(missing_ok=True)
    return services


def url(name: str) -> str | None:
    """The address of a healthy service of this workspace; None if it does not run."""
    record = _running_record(name)
    return str(record["url"]) if record and record["healthy"] else None


def is_starting(name: str) -> bool:
    """Whether a service of this workspace has started and does not answer yet."""
    record = _running_record(name)
    return bool(record and not record["healthy"])


def _running_record(name: str) -> dict[str, Any] | None:
    path = run_file(name)
    record = json_files.read_json(path) if path.is_file() else None
    return record if record and _is_running(record) else None


def _is_running(record: Mapping[str, Any]) -> bool:
    return bool(record.get("mark")) and marked_processes.has_mark(int(record["pid"]), str(record["mark"]))


def is_supervised() -> bool:
    """Whether an `oncoloop up` holds the lock of this workspace."""
    with paths.state_path("run", "up.lock").open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def service_states() -> list[dict[str, Any]]:
    """Name, url, pid, state and trouble of every service that runs; with a supervisor, of stopped ones too."""
    has_supervisor, states = is_supervised(), []
    for record in records().values():
        is_running = _is_running(record) or bool(record.get("mark") and marked_processes.members(str(record["mark"])))
        state = ("answers" if record["healthy"] else "starts") if is_running else "does not run"
        if record.get("leaving"):
            state = "finishes its last answers"
        if has_supervisor or state != "does not run":
            states.append(
                {
                    "name": record.get("name"),
                    "url": record.get("url"),
                    "pid": record.get("pid"),
                    "state": state,
                    "trouble": record.get("trouble", ""),
                }
            )
    return states


def connect_prefect(seconds: float = 120.0) -> None:
    """Use the workspace's running Prefect server, if there is one; otherwise Prefect starts one for the command.

    Waits at most `seconds` for a server that is starting, because a second server would cost more.
    """
    deadline = time.monotonic() + seconds
    while "PREFECT_API_URL" not in os.environ and time.monotonic() < deadline:
        if address := url("prefect"):
            os.environ["PREFECT_API_URL"] = f"{address}/api"
            os.environ.setdefault("PREFECT_API_AUTH_STRING", keys.prefect_secret())
        elif not is_starting("prefect"):
            marked_processes.end_orphans()
            os.environ[marked_processes.COMMAND_VARIABLE] = str(os.getpid())
            return
        else:
            time.sleep(0.5)


def clear_leftovers(spared: frozenset[str] = frozenset()) -> None:
    """End the services that a killed `oncoloop up` left running in this workspace, except those in `spared`."""
    ended, recorded_marks = [], set()
    for key, record in records().items():
        recorded_marks |= {str(record.get("mark") or ""), *record.get("earlier", [])}
        if key in spared:
            continue
        for mark in [str(record.get("mark") or ""), *record.get("earlier", [])]:
            process = Process(int(record.get("pid") or 0), mark)
            if mark and process.members():
                log.warning("ending %s, which an earlier `oncoloop up` left running", key)
                process.terminate()
                ended.append(process)
        if "mark" not in record and _is_of_unmarked_record(record, run_file(key)):
            marked_processes.end(int(record["pid"]))
        run_file(key).unlink(missing_ok=True)
    for mark in marked_processes.running_marks() - recorded_marks:  # their record could not be written
        log.warning("ending processes without a record, which an earlier `oncoloop up` left running")
        ended.append(Process(0, mark))
        ended[-1].terminate()
    deadline = time.monotonic() + 8.0
    for process in ended:
        process.stop(max(0.0, deadline - time.monotonic()))


def _is_of_unmarked_record(record: Mapping[str, Any], path: Path) -> bool:
    """Whether the process of a record without a mark runs: it belongs to this workspace and is not younger."""
    pid = int(record.get("pid") or 0)
    try:
        return marked_processes.is_of_workspace(pid) and psutil.Process(pid).create_time() <= path.stat().st_mtime + 1
    except (psutil.Error, OSError):
        return False
