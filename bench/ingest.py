"""DICOM files per second from a folder to an admitted shard, beside the bare cost of decoding the same files.

    python bench/ingest.py
    python bench/ingest.py --files 1200 --rounds 3 --json

The way in: metadata checked, every file read, hashed, decoded, de-identified, described and stored (`index`, on two
cores), then leakage and shortcut checks, gate and cohorts (`gate`), then read back, checked and prepared for the
network (`pack`, two cores). Great Expectations and the commit are left out: they cost the same for every number of
files. Bare is `pydicom.dcmread(file).pixel_array` of the same files in one process. Both in turn, several rounds,
medians. Files: phantoms of 128 × 128, and real chest CT of 512 × 512 where it is at hand (each slice several times,
with its lowest bit changed, but where it is padded), as it comes and recompressed to JPEG 2000.
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

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a bench reads the rooms beside it

import numpy as np
import pydicom
from pydicom.uid import JPEG2000Lossless

from data.batch import manifest
from data.dataset import cohorts as dataset_cohorts
from data.dataset import shards
from data.phantom import batch, study
from data.quality import gate, leakage
from data.quality.suite import Validation
from data.record import Task
from lineage import keys, paths
from pipelines import params

ROOT = Path(__file__).resolve().parent.parent
CLEAN = Validation(True, {}, [], [], Path("page"), {})
CORES = 2


def phantoms(folder: Path, task: Task, files: int) -> None:
    """Patients with four slices each."""
    batch.write_batch(folder, task, files // 4, study.usual(task), seed=1, slices=4)


def chest(folder: Path, task: Task, files: int, compressed: bool) -> None:
    """Real slices, each `files` / 27 times as another patient's, every copy with other lowest bits."""
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


def bare(folder: Path) -> float:
    """Seconds of reading and decoding every file with pydicom, in this process."""
    began = time.perf_counter()
    for path in sorted(folder.glob("*.dcm")):
        pydicom.dcmread(path).pixel_array  # noqa: B018  the decoding is the work
    return time.perf_counter() - began


def way_in(folder: Path, work: Path, task: Task) -> dict[str, float]:
    """Seconds of each step from folder to shard."""
    settings, began = params.load(ROOT), time.perf_counter()
    target = work / "batches" / folder.name
    indexed = manifest.index_batch(folder, target, task, CORES)
    examined = time.perf_counter()
    findings = leakage.check(indexed.manifest, indexed.manifest.iloc[:0], settings.ingest)
    total = len(indexed.manifest) + len(indexed.refused)
    _, failing = gate.admit(folder.name, CLEAN, findings, indexed.refused, total, settings.ingest)
    cohorts = dataset_cohorts.read_cohorts(work / "cohorts.csv")
    sides = dataset_cohorts.assign(indexed.manifest, cohorts, settings.split, 1, folder.name, task)
    gated = time.perf_counter()
    shards.pack([target], sides, task, work / "packed", CORES)
    if indexed.refused:
        raise SystemExit(f"{len(indexed.refused)} sound files were refused: {indexed.refused[0].reason}")
    packed = time.perf_counter()
    return {
        "index": examined - began,
        "gate": gated - examined,
        "pack": packed - gated,
        "all": packed - began,
        "kept_out": float(len(failing)),
    }


def measured(name: str, folder: Path, work: Path, task: Task, rounds: int) -> dict[str, Any]:
    """Bare and whole in turn; the first round warms the page cache and is not counted."""
    files = len(list(folder.glob("*.dcm")))
    found, loops = [], []
    for number in range(rounds + 1):
        loops.append(bare(folder))
        found.append(way_in(folder, work / f"{name}-{number}", task))
        say(f"{name}, round {number} of {rounds}: bare {loops[-1]:.1f} s, way in {found[-1]['all']:.1f} s")
    steps = {step: statistics.median(one[step] for one in found[1:]) for step in found[0]}
    loop = statistics.median(loops[1:])
    return {
        "files": files,
        "bare_files_per_second": round(files / loop, 1),
        "files_per_second": round(files / steps["all"], 1),
        "ratio": round(loop / steps["all"], 3),
        "milliseconds_per_file": {step: round(1000 * steps[step] / files, 2) for step in ("index", "gate", "pack")},
        "kept_out": int(steps["kept_out"]),
    }


def real_data() -> Path:
    """The folder of real scans."""
    return Path(os.environ.get("ONCOLOOP_REAL_DATA", ROOT.parent / "shared" / "data"))


def say(text: str) -> None:
    """Progress, on standard error."""
    sys.stderr.write(text + "\n")


def main() -> None:
    """Make the folders, measure, print."""
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
    with tempfile.TemporaryDirectory() as made, chdir(made):
        os.environ["ONCOLOOP_HOME"] = f"{made}/var"
        os.environ |= paths.environment()
        keys.create()
        for name, make in kinds.items():
            say(f"{name}: {args.files} files are made")
            make(Path(made, name))
            figures[name] = measured(name, Path(made, name), Path(made), task, args.rounds)
    lines = [f"{name}: {one}" for name, one in figures.items()]
    sys.stdout.write((json.dumps(figures) if args.json else "\n".join(lines)) + "\n")


if __name__ == "__main__":
    main()
