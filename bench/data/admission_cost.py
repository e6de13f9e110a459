"""Time and memory of admitting 100 scans: into an empty workspace and into one with 100,000 scans.

    python bench/data/admission_cost.py
    python bench/data/admission_cost.py --known 20000 --rounds 2 --json

An admission is the ingest flow without its server: crash recovery, index, suite with the training population, leakage
checks, gate, cohorts, `dvc add`, commit and push. The admitted scans are simulated: 100 batches with their entries in
workspace, cache, remote, git and ledger; each scan has a few bytes. The rounds alternate between both workspaces, and
`ratio` compares the medians. The memory is the peak of the process's own pages during an admission; mapped files do not
count.
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

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the packages are beside bench/

import numpy as np
import pandas as pd
import psutil

from data.batch import manifest
from data.core_types import Task, ValueUnit
from data.dataset import cohorts as dataset_cohorts
from data.duplicates import admitted_units
from data.phantom import batch as phantom_batch
from data.phantom import study
from data.quality import gate, leakage, suite
from data.scan import thumbnail
from data.scan.preprocess import unit_pixels
from lineage import json_files, paths
from lineage.record import database, ledger
from lineage.record.events import EventKind
from pipelines import params
from pipelines.flows import ingest
from pipelines.recovery import interrupted_runs
from pipelines.workspace import git, workspace

ROOT = Path(__file__).resolve().parents[2]
SCANS, BATCHES = 100, 100


def add_simulated_batches(task: Task, template: pd.DataFrame, count: int) -> None:
    """Add `count` admitted scans, one for each patient, in 100 batches to the current workspace."""
    random, folder = np.random.default_rng(0), Path("data/batches", task.name)
    thumbnails = _phantom_thumbnails(task)
    cohort_rows, records = [], []
    for number in range(BATCHES):
        size, name = count // BATCHES, f"known-{number:03d}"
        table = pd.concat([template] * -(-size // len(template)), ignore_index=True).iloc[:size]
        unit_ids = [f"{number:04d}{at:06d}" for at in range(size)]
        table = table.assign(
            unit_id=unit_ids,
            patient=unit_ids,
            cluster=unit_ids,
            sha256=unit_ids,
            pixels_blake3=unit_ids,
            file=[f"scans/{unit_id}.dcm" for unit_id in unit_ids],
            thumbnail=random.choice(thumbnails, size),
        )
        records.append({"task": task.name, "batch": name, "digest": name, "units": size, "clusters": size})
        write_admitted_batch(folder / name, table, records[-1])
        sides = random.choice(["training", "validation", "test"], size)
        cohort_rows.append(
            pd.DataFrame(
                {
                    "task": task.name,
                    "cluster": unit_ids,
                    "side": sides,
                    "epoch": 1,
                    "stratum": table["label"].to_numpy() + "|Alder",
                    "batch": name,
                    "assigned_at": "2026-01-01T00:00:00Z",
                }
            )
        )
    dataset_cohorts.append_cohorts(Path("data/cohorts", f"{task.name}.csv"), pd.concat(cohort_rows))
    version = git.commit(["data"], "Simulated batches")
    for record in records:
        ledger.append(EventKind.BATCH_ADMITTED, record["batch"], record | {"data_version": version})


def write_admitted_batch(batch: Path, table: pd.DataFrame, record: dict[str, Any]) -> None:
    """Write an admitted batch to workspace, cache and remote as DVC stores it; each scan has a few bytes."""
    (batch / "scans").mkdir(parents=True)
    table.to_csv(batch / "manifest.csv", index=False, lineterminator="\n")
    json_files.write_json(batch / "record.json", record)
    for unit_id in table["unit_id"]:
        (batch / "scans" / f"{unit_id}.dcm").write_text(unit_id)
    files = sorted(str(path.relative_to(batch)) for path in batch.rglob("*") if path.is_file())
    entries = [{"md5": _store_object((batch / name).read_bytes()), "relpath": name} for name in files]
    md5 = _store_object(json.dumps(entries, sort_keys=True).encode(), ".dir")
    size = sum((batch / name).stat().st_size for name in files)
    batch.with_name(f"{batch.name}.dvc").write_text(
        f"outs:\n- md5: {md5}\n  size: {size}\n  nfiles: {len(files)}\n  hash: md5\n  path: {batch.name}\n"
    )
    with (batch.parent / ".gitignore").open("a") as ignored:
        ignored.write(f"/{batch.name}\n")


def _store_object(content: bytes, suffix: str = "") -> str:
    """Write an object to cache and remote; its name (MD5 and suffix)."""
    name = hashlib.md5(content, usedforsecurity=False).hexdigest() + suffix
    for store in ("cache", "remote"):
        path = paths.state_path(store, "files", "md5", name[:2], name[2:])
        path.write_bytes(content)
        path.chmod(0o444)
    return name


def _phantom_thumbnails(task: Task) -> list[str]:
    """Thumbnails of 200 phantoms that no batch contains."""
    scanner, texts = study.usual_scanner(task), []
    for number in range(200):
        plane, _ = study.make_study(task, scanner, 990, number, task.classes[number % 3]).slice(0, 1)
        texts.append(thumbnail.thumbnail(unit_pixels(plane.astype(np.float32), ValueUnit.HU, task.pixels)))
    return texts


def time_admission(task: Task, seed: int) -> dict[str, float]:
    """Admit 100 phantom scans; the seconds of each step."""
    folder = Path("inbox", f"new-{seed}")
    phantom_batch.write_batch(folder, task, SCANS, study.usual_scanner(task), seed)
    settings, steps, clock = params.load().ingest, {}, time.perf_counter()

    def record_step(step: str) -> None:
        nonlocal clock
        steps[step], clock = time.perf_counter() - clock, time.perf_counter()

    interrupted_runs.recover_workspace()
    record_step("settle")
    batch = ingest.read_incoming_batch(folder)
    indexed = manifest.index_incoming(batch, ingest.staging_folder(batch.name))
    record_step("index")
    cohorts = dataset_cohorts.read_cohorts(Path("data/cohorts", f"{task.name}.csv"))
    population = ingest.load_reference_population(task.name, cohorts)
    record_step("population")
    validation = suite.validate(indexed.manifest, task, settings, paths.state_path("gx"), batch.name, population)
    record_step("suite")
    findings = leakage.check_leakage(indexed.manifest, ingest.load_related_units(task.name, indexed.manifest), settings)
    record_step("leakage")
    _, failing = gate.admit(batch.name, validation, findings, indexed.refused, SCANS, settings)
    if failing or indexed.refused:
        raise SystemExit(f"{len(failing)} valid scans failed the gate: {dict(list(failing.items())[:3])}")
    ingest.admit_batch.fn(batch, indexed.manifest, database.now())
    record_step("admit")
    return steps | {"all": sum(steps.values())}


def prepare_workspace(home: Path, task: Task, count: int) -> dict[str, float]:
    """Create a workspace with `count` admitted scans; the seconds to build its projections from nothing."""
    home.mkdir()
    with working_in(home):
        workspace.create(home)
        time_admission(task, 1)  # the first admission imports the libraries
        if not count:
            return {}
        template = manifest.read_manifest(Path("data/batches", task.name, "new-1", "manifest.csv"))
        add_simulated_batches(task, template, count)
        start = time.perf_counter()
        admitted_units.find_related_units(
            Path("data/batches", task.name), paths.state_path("known", task.name), template
        )
        ingest.load_reference_population(
            task.name, dataset_cohorts.read_cohorts(Path("data/cohorts", f"{task.name}.csv"))
        )
        return {"projections_from_nothing": time.perf_counter() - start}


@contextmanager
def working_in(home: Path) -> Iterator[None]:
    """Run the block in one of the workspaces."""
    os.environ["ONCOLOOP_HOME"] = str(home / "var")
    os.environ |= paths.environment()
    with chdir(home):
        yield


def measure_memory(work: Callable[[], dict[str, float]]) -> dict[str, float]:
    """Run `work`; its result and `memory_mb`: the peak of the process's own memory above its value at the start."""
    process, samples, ended = psutil.Process(), [0], threading.Event()

    def sample() -> None:
        while not ended.wait(0.05):
            samples.append(process.memory_full_info().uss)

    before, sampler = process.memory_full_info().uss, threading.Thread(target=sample)
    sampler.start()
    try:
        return work() | {"memory_mb": (max(samples) - before) / 1e6}
    finally:
        ended.set()
        sampler.join()


def main() -> None:
    """Measure both workspaces in turn, so that the load of the machine affects both alike."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--known", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    task = params.load(ROOT).task("lung-ct")
    counts, results = (0, options.known), {0: [], options.known: []}
    with tempfile.TemporaryDirectory() as folder:
        projection_seconds = [prepare_workspace(Path(folder) / str(count), task, count) for count in counts]
        for number in range(options.rounds + 1):
            for count in counts:
                with working_in(Path(folder) / str(count)):
                    results[count].append(measure_memory(lambda seed=2 + number: time_admission(task, seed)))
    empty, full = (
        {step: statistics.median(steps[step] for steps in results[count][1:]) for step in results[count][0]}
        for count in counts
    )
    figures: dict[str, Any] = {"empty": empty, "full": full | projection_seconds[1], "known": options.known}
    figures["ratio"] = full["all"] / empty["all"]
    if options.json:
        sys.stdout.write(json.dumps(figures) + "\n")
        return
    sys.stdout.write(f"seconds, 100 scans into   nothing  {options.known:>8,}\n")
    for name in (*full, *projection_seconds[1]):
        sys.stdout.write(f"{name:24}{empty.get(name, float('nan')):>9.2f}{figures['full'][name]:>10.2f}\n")
    sys.stdout.write(f"ratio {figures['ratio']:.2f}\n")


if __name__ == "__main__":
    main()
