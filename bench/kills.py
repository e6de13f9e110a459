"""Every process of a running workspace is killed, at random moments, while users ask for predictions all the time.

    python bench/kills.py --workspace var/demo --kills 25 --minutes 12

The workspace needs a released model and a scan in `try/`; a finished `oncoloop demo` has both. Printed is one line for
each kill, and at the end a summary as JSON: seconds without an answer at the desk, seconds until Prefect and MLflow
were back, answers without a row in the journal, rows without an answer, and how often `oncoloop up` ended by itself.
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

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
KINDS = ("release head", "release worker", "desk", "tools", "prefect", "runner", "mlflow", "mlflow child", "up")
PAUSE = 0.05  # seconds between two questions of one user
WATCHED = ("prefect", "mlflow")


@dataclass
class Users:
    """What was answered, and when: monotonic seconds, status (0: none), id."""

    url: str
    request: bytes
    headers: dict[str, str]
    told: list[tuple[float, int, str]] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def ask(self) -> None:
        """Ask again and again, each time on a new connection, as many programs do."""
        while not self.over.wait(PAUSE):
            status, name = 0, ""
            try:
                asked = urllib.request.Request(self.url, self.request, self.headers)
                with urllib.request.urlopen(asked, timeout=60) as answer:
                    status, name = answer.status, json.load(answer)["id"]
            except urllib.error.HTTPError as error:
                status = error.code
                with contextlib.suppress(OSError):
                    error.read()
            except (OSError, ValueError):
                self.over.wait(0.1)
            self.told.append((time.monotonic(), status, name))

    def gap(self, start: float, end: float) -> float:
        """The longest time without an answer that touches this span."""
        moments = sorted(at for at, status, _ in self.told if status == 200)
        before = [at for at in moments if at <= start][-1:] or [start]
        after = [at for at in moments if at >= end][:1] or [end]
        within = [at for at in moments if start < at < end]
        return max(later - at for at, later in itertools.pairwise([*before, *within, *after]))


class Ward:
    """`oncoloop up` in the workspace, and its processes."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.port, self.exits = folder, port, 0
        self.log = (folder / "kills-up.log").open("ab")
        self.start()

    def start(self) -> None:
        """Start `oncoloop up`."""
        from pipelines.servers import services

        command = [services.program("oncoloop"), "up", "--port", str(self.port)]
        self.up = subprocess.Popen(command, cwd=self.folder, stdout=self.log, stderr=self.log, start_new_session=True)

    def keep_up(self) -> None:
        """Count an end that nobody asked for, and start again."""
        if self.up.poll() is not None:
            self.exits += 1
            self.start()

    def victims(self, kind: str) -> list[int]:
        """The processes of one kind that run now."""
        from pipelines.servers import marked_processes, run_files

        if kind == "up":
            return [self.up.pid]
        name, _, part = kind.partition(" ")
        heads, others = [], []
        for key, record in run_files.records().items():
            if record["mark"] and record["healthy"] and key.split("-")[0] == name:
                family = marked_processes.members(record["mark"])
                heads += [pid for pid in family if pid == record["pid"]]
                others += [pid for pid in family if pid != record["pid"]]
        return others if part in ("worker", "child") else heads


def back(ward: Ward, name: str, since: float, seconds: float) -> float | None:
    """Seconds after which a server of the workspace answers; None if it does not in time."""
    from pipelines.servers import services

    while time.monotonic() - since < seconds:
        if name == "mlflow":
            answers = services.answers_at(ward.folder / "var/run/mlflow/http.sock", "/mlflow/health")
        else:
            answers = services.answers(f"http://127.0.0.1:{ward.port + 1}/api/health")
        if answers:
            return round(time.monotonic() - since, 1)
        time.sleep(0.1)
    return None


def soak(ward: Ward, users: Users, kills: int, minutes: float, chance: random.Random) -> list[dict[str, Any]]:
    """Kill one process after another; a line for each."""
    order = [kind for _ in range(kills // len(KINDS) + 1) for kind in chance.sample(KINDS, len(KINDS))][:kills]
    lines: list[dict[str, Any]] = []
    for number, kind in enumerate(order, 1):
        begun = time.monotonic()
        ward.keep_up()
        candidates = ward.victims(kind)
        while not candidates and time.monotonic() - begun < 30:
            time.sleep(0.5)
            candidates = ward.victims(kind)
        if not candidates:
            lines.append({"kill": number, "kind": kind, "missing": True})
            continue
        victim = chance.choice(candidates)
        killed = time.monotonic()
        os.kill(victim, signal.SIGKILL)
        if kind == "up":
            ward.up.wait()
            ward.start()
        line: dict[str, Any] = {"kill": number, "kind": kind, "process": victim}
        if (name := kind.split()[0]) in WATCHED:
            time.sleep(0.3)
            line["back_s"] = back(ward, name, killed, 90)
        time.sleep(max(0.0, minutes * 60 / kills * chance.uniform(0.7, 1.3) - (time.monotonic() - begun)))
        line["without_answer_s"] = round(users.gap(killed, time.monotonic()), 2)
        lines.append(line)
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()
    return lines


def compare(users: Users, first_row: int, name: str) -> dict[str, int]:
    """Answers and rows of the journal, one by one."""
    from lineage.record import database

    table = database.journal
    rows = database.fetch(table.select().where(table.c.number > first_row).where(table.c.actor == name))
    kept = Counter(row["id"] for row in rows)
    answers = [id for _, status, id in users.told if status == 200]
    return {
        "answers": len(answers),
        "answers_without_row": sum(id not in kept for id in answers),
        "answers_with_two_rows": sum(kept[id] > 1 for id in answers),
        "answers_given_twice": len(answers) - len(set(answers)),
        "rows_without_answer": len(set(kept) - set(answers)),
    }


def main() -> None:
    """Run the soak and print what became of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workspace", type=Path, required=True)
    parser.add_argument("--token", default="", help="of `oncoloop login NAME --token`")
    parser.add_argument("--name", default="mara", help="whose token it is; one is made where none is given")
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
    ward = Ward(folder, options.port)
    threads = [threading.Thread(target=users.ask) for _ in range(options.users)]
    try:
        until = time.monotonic() + 120
        while not all(ward.victims(kind) for kind in KINDS) and time.monotonic() < until:
            time.sleep(0.5)
        for thread in threads:
            thread.start()
        while not any(status == 200 for _, status, _ in users.told) and time.monotonic() < until:
            time.sleep(0.5)
        lines = soak(ward, users, options.kills, options.minutes, random.Random(options.seed))
        ward.keep_up()
    finally:
        users.over.set()
        for thread in threads:
            thread.join(70)
        ward.up.send_signal(signal.SIGTERM)
        ward.up.wait(90)
    gaps = [line["without_answer_s"] for line in lines if "without_answer_s" in line]
    summary: dict[str, Any] = {
        "kills": len(lines),
        "never_found": sum("missing" in line for line in lines),
        "ends_of_up": ward.exits,
        "longest_without_answer_s": max(gaps),
        "by_kind_s": {
            kind: sorted(
                line["without_answer_s"] for line in lines if line["kind"] == kind and "without_answer_s" in line
            )
            for kind in KINDS
        },
        "back_s": {
            name: [line["back_s"] for line in lines if "back_s" in line and line["kind"].startswith(name)]
            for name in WATCHED
        },
        "statuses": dict(Counter(status for _, status, _ in users.told)),
        **compare(users, rows[0]["number"] if rows else 0, options.name),
    }
    sys.stdout.write(json.dumps(summary, indent=1) + "\n")


if __name__ == "__main__":
    main()
