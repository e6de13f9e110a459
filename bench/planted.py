"""Planted faults through the real index, suite, leakage checks and gate: precision and recall for each kind.

    python bench/planted.py                       50 of each kind; writes docs/data-quality.md
    python bench/planted.py --each 5 --json       a small sample, as the tests run it; writes nothing

A clean set of phantom chests (one DICOM slice per patient) gets scans of further patients that carry a fault. What the
gate keeps out is compared with what was planted. Of two pictures with two labels neither may stay; of copies the first
may. The real sets are asked too where they are at hand: extra copies, and how derived groups agree with known ones.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a bench reads the rooms beside it

import numpy as np
import pandas as pd

from bench.faults import FUZZY, Batch, plant
from data import collect, gate, index, leakage, suite
from data.likeness import groups
from lineage import keys, places, store
from pipelines import params

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "data-quality.md"
SPOKEN = {  # words of the reasons that speak of a kind
    "exact copy": ("exact copy",), **dict.fromkeys(FUZZY, ("near-duplicate", "nearly the same")),
    "conflicting labels": ("two labels", "another label"), "patient overlap": ("patient in two groups",),
    "wrong modality": ("modality",), "wrong window": ("in HU", "saturated", "window"),
    "blank or truncated": ("blank", "cut", "truncated", "pixel"),
}  # fmt: skip


def judged(batch: Batch, home: Path) -> dict[str, list[str]]:
    """The files that the gate keeps out, with their reasons."""
    settings = params.load(ROOT).ingest
    indexed = index.index_batch(batch.folder, home / "staging", batch.task)
    validation = suite.validate(indexed.manifest, batch.task, settings, home / "gx", "planted")
    findings = leakage.check(indexed.manifest, pd.DataFrame(), settings)
    total = len(indexed.manifest) + len(indexed.refused)
    _, failing = gate.admit("planted", validation, findings, indexed.refused, total, settings)
    names = _names(batch, indexed.manifest)
    return {names[unit]: told for unit, told in failing.items()} | {
        _refused(batch, one.file): [one.reason] for one in indexed.refused
    }


def _refused(batch: Batch, called: str) -> str:
    """The file that a refusal calls by its row of metadata.csv ("row 12, sha256 ..."), the header being row 1."""
    return batch.rows[int(called.split(",")[0].removeprefix("row ")) - 2]["file_name"]


def _names(batch: Batch, manifest: pd.DataFrame) -> dict[str, str]:
    """The name under which each unit came: by content and order, as the manifest keeps both."""
    came: dict[str, list[str]] = {}
    for row in batch.rows:
        content = (batch.folder / row["file_name"]).read_bytes()
        came.setdefault(hashlib.sha256(content).hexdigest(), []).append(row["file_name"])
    return {unit: came[sha256].pop(0) for unit, sha256 in zip(manifest["unit_id"], manifest["sha256"], strict=True)}


def scores(batch: Batch, reasons: dict[str, list[str]]) -> dict[str, dict[str, float]]:
    """Of each kind: planted, found, recall; and the precision of the reasons that speak of it.

    A false alarm is a file that went out without a fault; the other one of a pair is none, for either may go.
    """
    table: dict[str, dict[str, float]] = {}
    false = {name: told for name, told in reasons.items() if name not in batch.faults and name not in batch.excused}
    for kind in dict.fromkeys(batch.faults.values()):
        files = {name for name, of in batch.faults.items() if of == kind}
        found = files & set(reasons)
        wrong = sum(any(word in text for text in told for word in SPOKEN[kind]) for told in false.values())
        share = len(found) / max(len(found) + wrong, 1)
        table[kind] = {"planted": len(files), "found": len(found), "recall": round(len(found) / len(files), 4),
                       "false_alarms": wrong, "precision": round(share, 4)}  # fmt: skip
    found = set(batch.faults) & set(reasons)
    share = len(found) / max(len(found) + len(false), 1)
    recall = round(len(found) / len(batch.faults), 4)
    table["all"] = {"planted": len(batch.faults), "found": len(found), "recall": recall,
                    "false_alarms": len(false), "precision": round(share, 4)}  # fmt: skip
    return table


def run(clean: int, each: int, seed: int, home: Path) -> dict[str, dict[str, float]]:
    """Plant, judge, count."""
    task = params.load(ROOT).task("lung-ct")
    batch = Batch(home / "inbox" / "planted", task, seed)
    plant(batch, clean, each, np.random.default_rng(seed))
    return scores(batch, judged(batch, home))


def lung(data: Path, home: Path) -> dict[str, Any]:
    """The real lung set: extra copies, false near-duplicates, and how derived groups agree with groups.csv."""
    task, source = params.load(ROOT).task("lung-ct"), data / "lung-ct-iq-oth-nccd"
    known = collect.import_folder(source, home / "known", task)
    manifest = index.index_batch(home / "known", home / "lung", task).manifest
    found = leakage.check(manifest, pd.DataFrame(), params.load(ROOT).ingest).figures
    collect.import_folder(source / "images", home / "derived", task)
    tables = [index.metadata(home / name).set_index("file_name")["group"] for name in ("known", "derived")]
    agree = agreement(tables[0].to_numpy(), tables[1].reindex(tables[0].index).to_numpy())
    return {"pictures": known["files"], "extra_copies": found["exact_copies"],
            "near_duplicates_between_groups": found["near_duplicates"], **agree}  # fmt: skip


def brain(data: Path, home: Path) -> dict[str, Any]:
    """The real brain set, two volumes of each patient: false near-duplicates, and do groups find the patients?"""
    task, source = params.load(ROOT).task("brain-mr"), data / "brain-mr-tumor-progression"
    collect.import_folder(source, home / "brain", task)
    manifest = index.index_batch(home / "brain", home / "brain-index", task).manifest
    found = leakage.check(manifest, pd.DataFrame(), params.load(ROOT).ingest).figures
    middle = manifest.groupby("file", sort=False).nth(-12).reset_index(drop=True)
    derived = groups(middle, collect.GROUP_BITS, collect.GROUP_SHAPE)
    agree = agreement(middle["patient"].to_numpy(), derived)
    return {"slices": len(manifest), "volumes": len(middle), "patients": int(manifest["patient"].nunique()),
            "near_duplicates_between_patients": found["near_duplicates"], **agree}  # fmt: skip


def agreement(known: Any, derived: Any) -> dict[str, float]:
    """Pair precision (joined pairs that are truly of one group), pair recall (true pairs joined), adjusted Rand."""
    from sklearn.metrics import adjusted_rand_score
    from sklearn.metrics.cluster import pair_confusion_matrix

    (_, wrong), (missed, right) = pair_confusion_matrix(known, derived)
    return {"known_groups": len(set(known)), "derived_groups": len(set(derived)),
            "pair_precision": round(float(right / max(right + wrong, 1)), 4),
            "pair_recall": round(float(right / max(right + missed, 1)), 4),
            "adjusted_rand": round(float(adjusted_rand_score(known, derived)), 4)}  # fmt: skip


def page(figures: dict[str, Any], command: str) -> str:
    """docs/data-quality.md."""
    tools = ", ".join(f"{name} {version(name)}" for name in ("faiss-cpu", "great-expectations", "numpy", "pydicom"))
    lines = [
        "# What the data gate finds", "",
        "Written by `bench/planted.py`; do not edit.", "",
        f"    {command}", "",
        f"{datetime.now(UTC):%Y-%m-%d}, Python {sys.version.split()[0]}, {tools}.", "",
        "## Planted faults", "",
        f"{figures['clean']} phantom chests without fault, one slice each, and planted among them the faults "
        "below, through the real index, suite, leakage checks and gate with the shipped params. The three kinds of "
        "near-duplicates share the false alarms of one search. The phantoms are simpler than people.", "",
        "| kind | planted | found | recall | false alarms | precision |", "|---|---|---|---|---|---|",
        *(f"| {kind} | {one['planted']} | {one['found']} | {one['recall']:.3f} | {one['false_alarms']} | "
          f"{one['precision']:.3f} |" for kind, one in figures["planted"].items()), "",
    ]  # fmt: skip
    titles = {"lung": "Real chest CT: lung-ct-iq-oth-nccd", "brain": "Real brain MR: brain-mr-tumor-progression"}
    for name, title in titles.items():
        if name in figures:
            told = (f"| {key.replace('_', ' ')} | {value} |" for key, value in figures[name].items())
            lines += [f"## {title}", "", "| figure | value |", "|---|---|", *told, ""]
    return "\n".join([*lines, MEANING])


def main() -> int:
    """Plant, ask the real sets, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clean", type=int, default=600)
    parser.add_argument("--each", type=int, default=50)
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    data = Path(os.environ.get("ONCOLOOP_REAL_DATA", ROOT.parent / "shared" / "data"))
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        os.environ["ONCOLOOP_HOME"] = str(home / "var")
        places.set_environment()
        keys.create()
        store.migrate()
        figures: dict[str, Any] = {"clean": options.clean}
        figures["planted"] = run(options.clean, options.each, options.seed, home)
        if data.is_dir() and not options.json:
            figures |= {"lung": lung(data, home), "brain": brain(data, home)}
    if options.json:
        sys.stdout.write(json.dumps(figures) + "\n")
        return 0
    text = page(figures, "python bench/planted.py")
    PAGE.write_text(text, encoding="utf-8")
    sys.stdout.write(text)
    return 0


MEANING = """## How to read it

- **Extra copies** are files whose pixels are, bit for bit, those of another file; the first of each stays.
- **Derived groups** are what `oncoloop import` makes of a set without patient ids: pictures that are alike, and those
  that are alike to them. Pair precision is the share of the joined pairs that truly belong together, pair recall the
  share of the true pairs that are joined. Groups that are too small put slices of one person on two sides: where
  patient ids or a `groups.csv` exist they are used instead.
- **Brain**: of each volume one slice is asked. Two examinations of one patient are no copies of each other.
- A near-duplicate is told by the correlation of detail after one thumbnail has been laid over the other
  (`data/alignment.py`); `ingest.near_duplicate_likeness` is the limit.
"""


if __name__ == "__main__":
    raise SystemExit(main())
