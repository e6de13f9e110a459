"""What it costs to admit 100 scans into an empty workspace and into one of 100,000, in one run.

    python bench/admit.py
    python bench/admit.py --known 20000 --rounds 2 --json

An admission is index, suite, leakage checks, gate, cohorts, `dvc add`, commit and push, as the ingest flow does them
(the flow's own server left out). The known scans are simulated as 100 admitted batches: manifests, `.dvc` files and
cohorts are there, the bytes of the scans are not. `ratio` compares medians; the memory is what the process holds of
its own (files that are mapped do not count).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from contextlib import chdir
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a bench reads the rooms beside it

import numpy as np
import pandas as pd
import psutil

from data import gate, index, known, leakage, phantom, split, suite, thumbnail
from data.pixels import unit_pixels
from data.record import Task, Units
from lineage import places, store
from pipelines import ingest, params, repro, workspace

ROOT = Path(__file__).resolve().parent.parent
SCANS, BATCHES = 100, 100


def simulated(task: Task, sound: pd.DataFrame, count: int) -> None:
    """`count` admitted scans of as many patients in 100 batches, in the current workspace; committed."""
    random, folder = np.random.default_rng(0), Path("data/batches", task.name)
    shown = _thumbnails(task)
    rows = []
    for number in range(BATCHES):
        size, name = count // BATCHES, f"known-{number:03d}"
        table = pd.concat([sound] * -(-size // len(sound)), ignore_index=True).iloc[:size]
        marks = [f"{number:04d}{at:06d}" for at in range(size)]
        table = table.assign(
            unit_id=marks, patient=marks, cluster=marks, sha256=marks, pixels_blake3=marks,
            thumbnail=random.choice(shown, size),
        )  # fmt: skip
        (folder / name).mkdir(parents=True)
        table.to_csv(folder / name / "manifest.csv", index=False, lineterminator="\n")
        pointer = f"outs:\n- md5: {number:032x}.dir\n  size: 1\n  nfiles: {size}\n  hash: md5\n  path: {name}\n"
        (folder / f"{name}.dvc").write_text(pointer)
        with (folder / ".gitignore").open("a") as ignored:
            ignored.write(f"/{name}\n")
        sides = random.choice(["training", "validation", "test"], size)
        rows.append(pd.DataFrame({"task": task.name, "cluster": marks, "side": sides, "epoch": 1,
                                  "stratum": table["label"].to_numpy() + "|Alder", "batch": name,
                                  "assigned_at": "2026-01-01T00:00:00Z"}))  # fmt: skip
    split.append_cohorts(Path("data/cohorts", f"{task.name}.csv"), pd.concat(rows))
    repro.commit(["data"], "Simulated batches")


def _thumbnails(task: Task) -> list[str]:
    """Thumbnails of 200 phantoms that are in no batch."""
    scanner, texts = phantom.usual(task), []
    for number in range(200):
        plane, _ = phantom.study(task, scanner, 990, number, task.classes[number % 3]).slice(0, 1)
        texts.append(thumbnail.thumbnail(unit_pixels(plane.astype(np.float32), Units.HU, task.pixels)))
    return texts


def admitted(task: Task, seed: int) -> dict[str, float]:
    """Seconds of each step of one admission of 100 phantom scans."""
    folder = Path("inbox", f"new-{seed}")
    phantom.write_batch(folder, task, SCANS, phantom.usual(task), seed)
    settings, steps, clock = params.load().ingest, {}, time.perf_counter()

    def done(step: str) -> None:
        nonlocal clock
        steps[step], clock = time.perf_counter() - clock, time.perf_counter()

    batch = ingest.incoming(folder)
    indexed = index.index_batch(batch.source, batch.staging, task)
    done("index")
    validation = suite.validate(indexed.manifest, task, settings, places.place("gx"), batch.name)
    done("suite")
    findings = leakage.check(indexed.manifest, ingest.known_units(task.name, indexed.manifest), settings)
    done("leakage")
    _, failing = gate.admit(batch.name, validation, findings, indexed.refused, SCANS, settings)
    if failing or indexed.refused:
        raise SystemExit(f"{len(failing)} sound scans failed: {dict(list(failing.items())[:3])}")
    ingest.admit.fn(batch, indexed.manifest, store.now())
    done("admit")
    return steps | {"all": sum(steps.values())}


def measured(home: Path, task: Task, count: int, rounds: int) -> dict[str, float]:
    """Median seconds of each step in a workspace of `count` known scans; the first admission of all is not counted."""
    home.mkdir()
    os.environ["ONCOLOOP_HOME"] = str(home / "var")
    os.environ |= places.environment()
    figures: dict[str, float] = {}
    with chdir(home):
        workspace.create(home)
        admitted(task, 1)
        if count:
            sound = index.read_manifest(Path("data/batches", task.name, "new-1", "manifest.csv"))
            simulated(task, sound, count)
            began = time.perf_counter()
            known.related(Path("data/batches", task.name), places.place("known", task.name), sound)
            figures["projection_from_nothing"] = time.perf_counter() - began
        before = psutil.Process().memory_full_info().uss
        found = [admitted(task, 2 + number) for number in range(rounds)]
        figures["memory_mb"] = (psutil.Process().memory_full_info().uss - before) / 1e6
    return figures | {step: statistics.median(one[step] for one in found) for step in found[0]}


def main() -> None:
    """Both workspaces, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--known", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    task = params.load(ROOT).task("lung-ct")
    with tempfile.TemporaryDirectory() as folder:
        empty, full = (measured(Path(folder) / str(count), task, count, options.rounds) for count in (0, options.known))
    figures: dict[str, Any] = {"empty": empty, "full": full, "known": options.known}
    figures["ratio"] = full["all"] / empty["all"]
    if options.json:
        sys.stdout.write(json.dumps(figures) + "\n")
        return
    sys.stdout.write(f"seconds, 100 scans into   nothing  {options.known:>8,}\n")
    for name in full:
        sys.stdout.write(f"{name:24}{empty.get(name, float('nan')):>9.2f}{full[name]:>10.2f}\n")
    sys.stdout.write(f"ratio {figures['ratio']:.2f}\n")


if __name__ == "__main__":
    main()
