"""Kills every process of a running workspace at random moments while users request predictions without a pause.

    python bench/loop/process_kills.py --workspace var/demo --kills 25 --minutes 12

The workspace needs a released model and a scan in `try/`; a finished `oncoloop demo` has both. Output: one line per
kill, then a summary as JSON: seconds without an answer at the desk, seconds until Prefect and MLflow were back, answers
without a row in the journal, rows without an answer, and how often `oncoloop up` ended unexpectedly.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
PROCESS_KINDS = ("release head", "release worker", "desk", "tools", "prefect", "runner", "mlflow", "mlflow child", "up")
PAUSE = 0.05  # seconds between two requests of one user
TIMED_SERVERS = ("prefect", "mlflow")


@dataclass
class Users:
    """Users that send one request repeatedly; `answers` holds monotonic seconds, status (0: no answer) and id."""

    url: str
    request: bytes
    headers: dict[str, str]
    answers: list[tuple[float, int, str]] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)

    def ask(self) -> None:
        """Send the request until stopped, each time on a new connection, as many programs do."""
        while not self.stopped.wait(PAUSE):
            status, name = 0, ""
            try:
                http_request = urllib.request.Request(self.url, self.request, self.headers)
                with urllib.request.urlopen(http_request, timeout=60) as response:
                    status, name = response.status, json.load(response)["id"]
            except urllib.error.HTTPError as error:
                status = error.code
                with contextlib.suppress(OSError):
                    error.read()
            except (OSError, ValueError):
                self.stopped.wait(0.1)
            self.answers.append((time.monotonic(), status, name))

    def gap(self, start: float, end: float) -> float:
        """The longest time in seconds without an answer that overlaps this span."""
        moments = sorted(moment for moment, status, _ in self.answers if status == 200)
        before = [moment for moment in moments if moment <= start][-1:] or [start]
        after = [moment for moment in moments if moment >= end][:1] or [end]
        within = [moment for moment in moments if start < moment < end]
        return max(next_moment - moment for moment, next_moment in itertools.pairwise([*before, *within, *after]))


class Workspace:
    """`oncoloop up` in the workspace, and its processes."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.port, self.unexpected_exits = folder, port, 0
        self.log = (folder / "kills-up.log").open("ab")
        self.start()

    def start(self) -> None:
        """Start `oncoloop up`."""
        from pipelines.servers import services

        command = [services.program("oncoloop"), "up", "--port", str(self.port)]
        self.supervisor = subprocess.Popen(
            command, cwd=self.folder, stdout=self.log, stderr=self.log, start_new_session=True
        )

    def keep_up(self) -> None:
        """If `oncoloop up` has ended by itself, count that and start it again."""
        if self.supervisor.poll() is not None:
            self.unexpected_exits += 1
            self.start()

    def victims(self, kind: str) -> list[int]:
        """The ids of the running processes of one kind."""
        from pipelines.servers import marked_processes, run_files

        if kind == "up":
            return [self.supervisor.pid]
        name, _, part = kind.partition(" ")
        heads, children = [], []
        for key, record in run_files.records().items():
            if record["mark"] and record["healthy"] and key.split("-")[0] == name:
                members = marked_processes.members(record["mark"])
                heads += [pid for pid in members if pid == record["pid"]]
                children += [pid for pid in members if pid != record["pid"]]
        return children if part in ("worker", "child") else heads


def seconds_until_back(workspace: Workspace, name: str, killed_at: float, seconds: float) -> float | None:
    """Seconds from the kill until a server of the workspace answers; None if it does not in time."""
    from pipelines.servers import services

    while time.monotonic() - killed_at < seconds:
        if name == "mlflow":
            is_up = services.answers_at(workspace.folder / "var/run/mlflow/http.sock", "/mlflow/health")
        else:
            is_up = services.answers(f"http://127.0.0.1:{workspace.port + 1}/api/health")
        if is_up:
            return round(time.monotonic() - killed_at, 1)
        time.sleep(0.1)
    return None


def run_kills(
    workspace: Workspace, users: Users, kills: int, minutes: float, random_generator: random.Random
) -> list[dict[str, Any]]:
    """Kill one process after another; a record for each."""
    kinds = [
        kind
        for _ in range(kills // len(PROCESS_KINDS) + 1)
        for kind in random_generator.sample(PROCESS_KINDS, len(PROCESS_KINDS))
    ][:kills]
    lines: list[dict[str, Any]] = []
    for number, kind in enumerate(kinds, 1):
        round_start = time.monotonic()
        workspace.keep_up()
        candidates = workspace.victims(kind)
        while not candidates and time.monotonic() - round_start < 30:
            time.sleep(0.5)
            candidates = workspace.victims(kind)
        if not candidates:
            lines.append({"kill": number, "kind": kind, "missing": True})
            continue
        pid = random_generator.choice(candidates)
        killed_at = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        if kind == "up":
            workspace.supervisor.wait()
            workspace.start()
        line: dict[str, Any] = {"kill": number, "kind": kind, "process": pid}
        if (name := kind.split()[0]) in TIMED_SERVERS:
            time.sleep(0.3)
            line["back_s"] = seconds_until_back(workspace, name, killed_at, 90)
        time.sleep(
            max(0.0, minutes * 60 / kills * random_generator.uniform(0.7, 1.3) - (time.monotonic() - round_start))
        )
        line["without_answer_s"] = round(users.gap(killed_at, time.monotonic()), 2)
        lines.append(line)
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()
    return lines


def compare(users: Users, first_row: int, name: str) -> dict[str, int]:
    """Counts from comparing the answers with the rows of the journal by id."""
    from lineage.record import database

    table = database.journal
    rows = database.fetch(table.select().where(table.c.number > first_row).where(table.c.actor == name))
    journal_counts = Counter(row["id"] for row in rows)
    answers = [id for _, status, id in users.answers if status == 200]
    return {
        "answers": len(answers),
        "answers_without_row": sum(id not in journal_counts for id in answers),
        "answers_with_two_rows": sum(journal_counts[id] > 1 for id in answers),
        "answers_given_twice": len(answers) - len(set(answers)),
        "rows_without_answer": len(set(journal_counts) - set(answers)),
    }


def main() -> None:
    """Run the kills and print the summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workspace", type=Path, required=True)
    parser.add_argument("--token", default="", help="of `oncoloop login NAME --token`")
    parser.add_argument("--name", default="mara", help="the owner of the token; without --token one is issued")
    parser.add_argument("--port", type=int, default=8400)
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--minutes", type=float, default=12.0)
    parser.add_argument("--users", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    folder = options.workspace.resolve()
    os.environ["ONCOLOOP_HOME"] = str(folder / "var")
    from lineage import accounts
    from lineage.record import database
    from pipelines.workspace import workspace

    workspace.enter(folder)
    token = options.token or accounts.issue(options.name, "predict", 1)
    rows = database.fetch(database.journal.select().order_by(database.journal.c.number.desc()).limit(1))
    scan = next(path for path in sorted((folder / "try").iterdir()) if path.suffix == ".dcm")
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/dicom"}
    users = Users(f"http://127.0.0.1:{options.port}/api/predict", scan.read_bytes(), headers)
    workspace_processes = Workspace(folder, options.port)
    threads = [threading.Thread(target=users.ask) for _ in range(options.users)]
    try:
        deadline = time.monotonic() + 120
        while not all(workspace_processes.victims(kind) for kind in PROCESS_KINDS) and time.monotonic() < deadline:
            time.sleep(0.5)
        for thread in threads:
            thread.start()
        while not any(status == 200 for _, status, _ in users.answers) and time.monotonic() < deadline:
            time.sleep(0.5)
        lines = run_kills(workspace_processes, users, options.kills, options.minutes, random.Random(options.seed))
        workspace_processes.keep_up()
    finally:
        users.stopped.set()
        for thread in threads:
            thread.join(70)
        workspace_processes.supervisor.send_signal(signal.SIGTERM)
        workspace_processes.supervisor.wait(90)
    gaps = [line["without_answer_s"] for line in lines if "without_answer_s" in line]
    summary: dict[str, Any] = {
        "kills": len(lines),
        "never_found": sum("missing" in line for line in lines),
        "ends_of_up": workspace_processes.unexpected_exits,
        "longest_without_answer_s": max(gaps),
        "by_kind_s": {
            kind: sorted(
                line["without_answer_s"] for line in lines if line["kind"] == kind and "without_answer_s" in line
            )
            for kind in PROCESS_KINDS
        },
        "back_s": {
            name: [line["back_s"] for line in lines if "back_s" in line and line["kind"].startswith(name)]
            for name in TIMED_SERVERS
        },
        "statuses": dict(Counter(status for _, status, _ in users.answers)),
        **compare(users, rows[0]["number"] if rows else 0, options.name),
    }
    sys.stdout.write(json.dumps(summary, indent=1) + "\n")


if __name__ == "__main__":
    main()
