"""What it costs to admit 100 scans into an empty workspace and into one of 100,000, in one run.

    python bench/admit.py
    python bench/admit.py --known 20000 --rounds 2 --json

An admission is what the ingest flow does (its server left out): settle what an earlier run left, index, suite with
the training population, leakage checks, gate, cohorts, `dvc add`, commit and push. The known scans are 100 admitted
batches with all that belongs to one, in workspace, cache, remote, git and ledger, and scans of a few bytes. `ratio`
compares medians of rounds that take turns; the memory is the most that the process held of its own during an admission
(files that are mapped do not count).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a bench reads the rooms beside it

import numpy as np
import pandas as pd
import psutil

from data.batch import manifest
from data.dataset import cohorts as dataset_cohorts
from data.duplicates import admitted_units
from data.phantom import batch as phantom_batch
from data.phantom import study
from data.quality import gate, leakage, suite
from data.record import Task, Units
from data.scan import thumbnail
from data.scan.preprocess import unit_pixels
from lineage import json_files, paths
from lineage.record import database, ledger
from pipelines import params
from pipelines.flows import ingest
from pipelines.recovery import interrupted_runs
from pipelines.workspace import git, workspace

ROOT = Path(__file__).resolve().parent.parent
SCANS, BATCHES = 100, 100


def simulated(task: Task, sound: pd.DataFrame, count: int) -> None:
    """`count` admitted scans of as many patients in 100 batches, in the current workspace."""
    random, folder = np.random.default_rng(0), Path("data/batches", task.name)
    shown = _thumbnails(task)
    rows, records = [], []
    for number in range(BATCHES):
        size, name = count // BATCHES, f"known-{number:03d}"
        table = pd.concat([sound] * -(-size // len(sound)), ignore_index=True).iloc[:size]
        marks = [f"{number:04d}{at:06d}" for at in range(size)]
        table = table.assign(
            unit_id=marks,
            patient=marks,
            cluster=marks,
            sha256=marks,
            pixels_blake3=marks,
            file=[f"scans/{mark}.dcm" for mark in marks],
            thumbnail=random.choice(shown, size),
        )
        records.append({"task": task.name, "batch": name, "digest": name, "units": size, "clusters": size})
        kept(folder / name, table, records[-1])
        sides = random.choice(["training", "validation", "test"], size)
        rows.append(
            pd.DataFrame(
                {
                    "task": task.name,
                    "cluster": marks,
                    "side": sides,
                    "epoch": 1,
                    "stratum": table["label"].to_numpy() + "|Alder",
                    "batch": name,
                    "assigned_at": "2026-01-01T00:00:00Z",
                }
            )
        )
    dataset_cohorts.append_cohorts(Path("data/cohorts", f"{task.name}.csv"), pd.concat(rows))
    version = git.commit(["data"], "Simulated batches")
    for record in records:
        ledger.append("batch.admitted", record["batch"], record | {"data_version": version})


def kept(batch: Path, table: pd.DataFrame, record: dict[str, Any]) -> None:
    """An admitted batch as DVC keeps it, with a scan of a few bytes for each unit: in workspace, cache and remote."""
    (batch / "scans").mkdir(parents=True)
    table.to_csv(batch / "manifest.csv", index=False, lineterminator="\n")
    json_files.write_json(batch / "record.json", record)
    for mark in table["unit_id"]:
        (batch / "scans" / f"{mark}.dcm").write_text(mark)
    files = sorted(str(path.relative_to(batch)) for path in batch.rglob("*") if path.is_file())
    held = [{"md5": _stored((batch / name).read_bytes()), "relpath": name} for name in files]
    md5 = _stored(json.dumps(held, sort_keys=True).encode(), ".dir")
    size = sum((batch / name).stat().st_size for name in files)
    batch.with_name(f"{batch.name}.dvc").write_text(
        f"outs:\n- md5: {md5}\n  size: {size}\n  nfiles: {len(files)}\n  hash: md5\n  path: {batch.name}\n"
    )
    with (batch.parent / ".gitignore").open("a") as ignored:
        ignored.write(f"/{batch.name}\n")


def _stored(content: bytes, kind: str = "") -> str:
    """The name of an object, written to cache and remote."""
    name = hashlib.md5(content, usedforsecurity=False).hexdigest() + kind
    for keeper in ("cache", "remote"):
        path = paths.place(keeper, "files", "md5", name[:2], name[2:])
        path.write_bytes(content)
        path.chmod(0o444)
    return name


def _thumbnails(task: Task) -> list[str]:
    """Thumbnails of 200 phantoms that are in no batch."""
    scanner, texts = study.usual(task), []
    for number in range(200):
        plane, _ = study.study(task, scanner, 990, number, task.classes[number % 3]).slice(0, 1)
        texts.append(thumbnail.thumbnail(unit_pixels(plane.astype(np.float32), Units.HU, task.pixels)))
    return texts


def admitted(task: Task, seed: int) -> dict[str, float]:
    """Seconds of each step of one admission of 100 phantom scans."""
    folder = Path("inbox", f"new-{seed}")
    phantom_batch.write_batch(folder, task, SCANS, study.usual(task), seed)
    settings, steps, clock = params.load().ingest, {}, time.perf_counter()

    def done(step: str) -> None:
        nonlocal clock
        steps[step], clock = time.perf_counter() - clock, time.perf_counter()

    interrupted_runs.settle()
    done("settle")
    batch = ingest.incoming(folder)
    indexed = manifest.index_batch(batch.source, batch.staging, task)
    done("index")
    cohorts = dataset_cohorts.read_cohorts(Path("data/cohorts", f"{task.name}.csv"))
    population = ingest.reference(task.name, cohorts)
    done("population")
    validation = suite.validate(indexed.manifest, task, settings, paths.place("gx"), batch.name, population)
    done("suite")
    findings = leakage.check(indexed.manifest, ingest.known_units(task.name, indexed.manifest), settings)
    done("leakage")
    _, failing = gate.admit(batch.name, validation, findings, indexed.refused, SCANS, settings)
    if failing or indexed.refused:
        raise SystemExit(f"{len(failing)} sound scans failed: {dict(list(failing.items())[:3])}")
    ingest.admit.fn(batch, indexed.manifest, database.now())
    done("admit")
    return steps | {"all": sum(steps.values())}


def prepared(home: Path, task: Task, count: int) -> dict[str, float]:
    """A workspace of `count` known scans; the seconds that the projections take which later admissions keep up."""
    home.mkdir()
    with inside(home):
        workspace.create(home)
        admitted(task, 1)  # the first of all imports what the others find
        if not count:
            return {}
        sound = manifest.read_manifest(Path("data/batches", task.name, "new-1", "manifest.csv"))
        simulated(task, sound, count)
        began = time.perf_counter()
        admitted_units.related(Path("data/batches", task.name), paths.place("known", task.name), sound)
        ingest.reference(task.name, dataset_cohorts.read_cohorts(Path("data/cohorts", f"{task.name}.csv")))
        return {"projections_from_nothing": time.perf_counter() - began}


@contextmanager
def inside(home: Path) -> Iterator[None]:
    """Work in one of the workspaces."""
    os.environ["ONCOLOOP_HOME"] = str(home / "var")
    os.environ |= paths.environment()
    with chdir(home):
        yield


def peak_mb(work: Callable[[], dict[str, float]]) -> dict[str, float]:
    """What a piece of work returns, and the most memory of this process's own while it ran, beyond what it had."""
    process, held, ended = psutil.Process(), [0], threading.Event()

    def look() -> None:
        while not ended.wait(0.05):
            held.append(process.memory_full_info().uss)

    before, watcher = process.memory_full_info().uss, threading.Thread(target=look)
    watcher.start()
    try:
        return work() | {"memory_mb": (max(held) - before) / 1e6}
    finally:
        ended.set()
        watcher.join()


def main() -> None:
    """Both workspaces in turn, so that both see the same load of the machine."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--known", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    task = params.load(ROOT).task("lung-ct")
    counts, found = (0, options.known), {0: [], options.known: []}
    with tempfile.TemporaryDirectory() as folder:
        once = [prepared(Path(folder) / str(count), task, count) for count in counts]
        for number in range(options.rounds + 1):
            for count in counts:
                with inside(Path(folder) / str(count)):
                    found[count].append(peak_mb(lambda seed=2 + number: admitted(task, seed)))
    empty, full = (
        {step: statistics.median(one[step] for one in found[count][1:]) for step in found[count][0]} for count in counts
    )
    figures: dict[str, Any] = {"empty": empty, "full": full | once[1], "known": options.known}
    figures["ratio"] = full["all"] / empty["all"]
    if options.json:
        sys.stdout.write(json.dumps(figures) + "\n")
        return
    sys.stdout.write(f"seconds, 100 scans into   nothing  {options.known:>8,}\n")
    for name in (*full, *once[1]):
        sys.stdout.write(f"{name:24}{empty.get(name, float('nan')):>9.2f}{figures['full'][name]:>10.2f}\n")
    sys.stdout.write(f"ratio {figures['ratio']:.2f}\n")


if __name__ == "__main__":
    main()
