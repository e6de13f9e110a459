"""DICOM files per second from a folder to an admitted shard, compared with decoding the same files.

    python bench/data/ingest_throughput.py
    python bench/data/ingest_throughput.py --files 1200 --rounds 3 --json

Ingest has three steps. `index` (two cores): check the metadata; read, hash, decode, de-identify, describe and store
every file. `gate`: leakage and shortcut checks, gate, cohorts. `pack` (two cores): read back, check and preprocess for
the network. Great Expectations and the commit are left out: their cost does not depend on the number of files. `bare`
is `pydicom.dcmread(file).pixel_array` of the same files in one process. Both alternate for several rounds; the medians
count. Files: phantoms of 128 × 128, and real chest CT of 512 × 512 if it is present, as it comes and recompressed to
JPEG 2000. Each real slice is used several times with random lowest bits outside the padding.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the packages are beside bench/

import numpy as np
import pydicom
from pydicom.uid import JPEG2000Lossless

from data.batch import manifest
from data.core_types import Task
from data.dataset import cohorts as dataset_cohorts
from data.dataset import shards
from data.phantom import batch, study
from data.quality import gate, leakage
from data.quality.suite import Validation
from lineage import keys, paths
from pipelines import params

ROOT = Path(__file__).resolve().parents[2]
CLEAN = Validation(True, (), [], [], Path("page"), {})
CORES = 2


def phantoms(folder: Path, task: Task, files: int) -> None:
    """Write a batch of patients with four slices each."""
    batch.write_batch(folder, task, files // 4, study.usual_scanner(task), seed=1, slices=4)


def chest(folder: Path, task: Task, files: int, compressed: bool) -> None:
    """Write real slices, each `files` / 27 times as another patient's; every copy has other lowest bits."""
    originals = sorted((real_data() / "chest-ct-tcga-luad-dicom").glob("*.dcm"))
    folder.mkdir(parents=True)
    random, rows = np.random.default_rng(0), []
    for number in range(files):
        image = pydicom.dcmread(originals[number % len(originals)])
        stored = image.pixel_array
        changed = random.integers(0, 2, stored.shape, stored.dtype) * (stored > stored.min())
        image.PixelData = (stored ^ changed).tobytes()
        image.PatientID = f"CASE{number:05d}"
        for keyword in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
            setattr(image, keyword, f"{str(image.get(keyword))[:50]}.{number}")
        if compressed:
            image.compress(JPEG2000Lossless, generate_instance_uid=False)
        image.save_as(folder / f"{number:05d}.dcm")
        label = task.classes[number % len(task.classes)]
        row = dict.fromkeys(study.COLUMNS, "") | {"file_name": f"{number:05d}.dcm", "patient_id": image.PatientID}
        rows.append(row | {"task": task.name, "label": label, "truth": "reader"})
    batch.write_metadata(folder, rows)


def time_bare_decoding(folder: Path) -> float:
    """Seconds of reading and decoding every file with pydicom, in this process."""
    start = time.perf_counter()
    for path in sorted(folder.glob("*.dcm")):
        pydicom.dcmread(path).pixel_array  # noqa: B018  the access decodes the pixels
    return time.perf_counter() - start


def time_ingest(folder: Path, work: Path, task: Task) -> dict[str, float]:
    """Seconds of each step from folder to shard."""
    settings, start = params.load(ROOT), time.perf_counter()
    target = work / "batches" / folder.name
    indexed = manifest.index_batch(folder, target, task, CORES)
    indexed_at = time.perf_counter()
    findings = leakage.check_leakage(indexed.manifest, indexed.manifest.iloc[:0], settings.ingest)
    total = len(indexed.manifest) + len(indexed.refused)
    _, failing = gate.admit(folder.name, CLEAN, findings, indexed.refused, total, settings.ingest)
    cohorts = dataset_cohorts.read_cohorts(work / "cohorts.csv")
    sides = dataset_cohorts.assign_cohorts(indexed.manifest, cohorts, settings.split, 1, folder.name, task)
    gated_at = time.perf_counter()
    shards.pack_shards([target], sides, task, work / "packed", CORES)
    if indexed.refused:
        raise SystemExit(f"{len(indexed.refused)} valid files were refused: {indexed.refused[0].reason}")
    packed_at = time.perf_counter()
    return {
        "index": indexed_at - start,
        "gate": gated_at - indexed_at,
        "pack": packed_at - gated_at,
        "all": packed_at - start,
        "kept_out": float(len(failing)),
    }


def measure(name: str, folder: Path, work: Path, task: Task, rounds: int) -> dict[str, Any]:
    """Measure decoding and ingest in turn; the first round fills the page cache and does not count."""
    files = len(list(folder.glob("*.dcm")))
    ingest_steps, bare_seconds = [], []
    for number in range(rounds + 1):
        bare_seconds.append(time_bare_decoding(folder))
        ingest_steps.append(time_ingest(folder, work / f"{name}-{number}", task))
        log_progress(
            f"{name}, round {number} of {rounds}: bare {bare_seconds[-1]:.1f} s, ingest {ingest_steps[-1]['all']:.1f} s"
        )
    steps = {step: statistics.median(seconds[step] for seconds in ingest_steps[1:]) for step in ingest_steps[0]}
    bare_median = statistics.median(bare_seconds[1:])
    return {
        "files": files,
        "bare_files_per_second": round(files / bare_median, 1),
        "files_per_second": round(files / steps["all"], 1),
        "ratio": round(bare_median / steps["all"], 3),
        "milliseconds_per_file": {step: round(1000 * steps[step] / files, 2) for step in ("index", "gate", "pack")},
        "kept_out": int(steps["kept_out"]),
    }


def real_data() -> Path:
    """The folder of real scans."""
    return Path(os.environ.get("ONCOLOOP_REAL_DATA", ROOT.parent / "shared" / "data"))


def log_progress(text: str) -> None:
    """Write a line of progress to standard error."""
    sys.stderr.write(text + "\n")


def main() -> None:
    """Write the folders, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=1200, help="of each kind")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    task = params.load(ROOT).task("lung-ct")
    kinds: dict[str, Callable[[Path], None]] = {"phantom": lambda folder: phantoms(folder, task, args.files)}
    if (real_data() / "chest-ct-tcga-luad-dicom").is_dir():
        kinds["chest"] = lambda folder: chest(folder, task, args.files, compressed=False)
        kinds["chest-jpeg2000"] = lambda folder: chest(folder, task, args.files, compressed=True)
    figures: dict[str, Any] = {"cores": len(os.sched_getaffinity(0)), "rounds": args.rounds}
    with tempfile.TemporaryDirectory() as work, chdir(work):
        os.environ["ONCOLOOP_HOME"] = f"{work}/var"
        os.environ |= paths.environment()
        keys.create()
        for name, write_files in kinds.items():
            log_progress(f"{name}: writing {args.files} files")
            write_files(Path(work, name))
            figures[name] = measure(name, Path(work, name), Path(work), task, args.rounds)
    lines = [f"{name}: {value}" for name, value in figures.items()]
    sys.stdout.write((json.dumps(figures) if args.json else "\n".join(lines)) + "\n")


if __name__ == "__main__":
    main()
