"""Planted faults through the real index, suite, leakage checks and gate: precision and recall for each kind.

    python bench/planted.py                       50 of each kind; writes docs/explanation/data-quality.md
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
from PIL import Image

from bench.faults import FUZZY, Batch, plant, plant_real
from data.batch import manifest as batch_manifest
from data.importing import import_folder
from data.quality import gate, leakage, suite
from data.scan import read
from lineage import keys, paths
from lineage.record import database
from pipelines import params

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "explanation" / "data-quality.md"
SPOKEN = {  # words of the reasons that speak of a kind
    "exact copy": ("exact copy",),
    **dict.fromkeys(FUZZY, ("near-duplicate", "nearly the same")),
    "conflicting labels": ("two labels", "another label"),
    "patient overlap": ("patient in two groups",),
    "wrong modality": ("modality",),
    "wrong window": ("in HU", "saturated", "window"),
    "blank or truncated": ("blank", "cut", "truncated", "pixel"),
}


def judged(batch: Batch, home: Path) -> dict[str, list[str]]:
    """The files that the gate keeps out, with their reasons."""
    settings = params.load(ROOT).ingest
    indexed = batch_manifest.index_batch(batch.folder, home / "staging", batch.task)
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
        table[kind] = {
            "planted": len(files),
            "found": len(found),
            "recall": round(len(found) / len(files), 4),
            "false_alarms": wrong,
            "precision": round(share, 4),
        }
    found = set(batch.faults) & set(reasons)
    share = len(found) / max(len(found) + len(false), 1)
    recall = round(len(found) / len(batch.faults), 4)
    table["all"] = {
        "planted": len(batch.faults),
        "found": len(found),
        "recall": recall,
        "false_alarms": len(false),
        "precision": round(share, 4),
    }
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
    known = import_folder.import_folder(source, home / "known", task)
    manifest = batch_manifest.index_batch(home / "known", home / "lung", task).manifest
    found = leakage.check(manifest, pd.DataFrame(), params.load(ROOT).ingest).figures
    import_folder.import_folder(source / "images", home / "derived", task)
    tables = [batch_manifest.metadata(home / name).set_index("file_name")["group"] for name in ("known", "derived")]
    agree = agreement(tables[0].to_numpy(), tables[1].reindex(tables[0].index).to_numpy())
    return {
        "pictures": known["files"],
        "extra_copies": found["exact_copies"],
        "near_duplicates_between_groups": found["near_duplicates"],
        **agree,
    }


def lung_faults(data: Path, home: Path, each: int, seed: int) -> dict[str, dict[str, float]]:
    """Faults planted on the real lung set: of each group one picture, since the others of a group are its likes."""
    source = data / "lung-ct-iq-oth-nccd"
    table = pd.read_csv(source / "groups.csv", dtype=str).drop_duplicates("group")
    pictures = [(source / "images" / row.file, str(row.label)) for row in table.itertuples()]
    batch = Batch(home / "inbox" / "planted-real", params.load(ROOT).task("lung-ct"), seed)
    plant_real(batch, pictures, each, np.random.default_rng(seed))
    return scores(batch, judged(batch, home))


def brain(data: Path, home: Path) -> dict[str, Any]:
    """The real brain set: false near-duplicates; and its slices as single pictures without a name, grouped anew."""
    task, source = params.load(ROOT).task("brain-mr"), data / "brain-mr-tumor-progression"
    import_folder.import_folder(source, home / "brain", task)
    manifest = batch_manifest.index_batch(home / "brain", home / "brain-index", task).manifest
    found = leakage.check(manifest, pd.DataFrame(), params.load(ROOT).ingest).figures
    table = _single_pictures(home / "brain", home / "brain-pictures")
    record = import_folder.import_folder(home / "brain-pictures", home / "brain-derived", task)
    derived = (
        batch_manifest.metadata(home / "brain-derived")
        .set_index("file_name")["group"]
        .reindex(table["file"])
        .to_numpy()
    )
    patients, volumes = (agreement(table[name].to_numpy(), derived) for name in ("patient", "volume"))
    return {
        "slices": len(manifest),
        "volumes": int(table["volume"].nunique()),
        "near_duplicates_between_patients": found["near_duplicates"],
        **patients,
        "pair_recall_within_volumes": volumes["pair_recall"],
        "pair_recall_between_volumes_of_a_patient": _between(table, derived),
        "import_says": record.get("warning", "nothing"),
    }


def _single_pictures(batch: Path, target: Path) -> pd.DataFrame:
    """Every labelled slice of some volumes as a PNG in a folder of its class; which file is whose."""
    rows = []
    for name, slices in batch_manifest.metadata(batch).groupby("file_name"):
        planes = read.read(Path(str(name)).name, (batch / str(name)).read_bytes()).pixels
        black, white = np.percentile(planes, (1, 99.5))
        for row in slices.itertuples():
            file = f"{row.label}/{len(rows):04d}.png"
            (target / file).parent.mkdir(parents=True, exist_ok=True)
            grey = np.clip((planes[int(str(row.slice))] - black) / (white - black) * 255, 0, 255)
            Image.fromarray(np.rint(grey).astype(np.uint8)).save(target / file)
            rows.append({"file": file, "patient": row.patient_id, "volume": name})
    return pd.DataFrame(rows)


def _between(table: pd.DataFrame, derived: Any) -> float:
    """Of the pairs of slices of one patient in two volumes, the share that is in one derived group."""
    patient, volume = (np.unique(table[name], return_inverse=True)[1] for name in ("patient", "volume"))
    group = np.unique(derived, return_inverse=True)[1]
    one, two = np.triu_indices(len(table), 1)
    pairs = (patient[one] == patient[two]) & (volume[one] != volume[two])
    return round(float((group[one] == group[two])[pairs].mean()), 4)


def agreement(known: Any, derived: Any) -> dict[str, float]:
    """Pair precision (joined pairs that are truly of one group), pair recall (true pairs joined), adjusted Rand."""
    from sklearn.metrics import adjusted_rand_score
    from sklearn.metrics.cluster import pair_confusion_matrix

    (_, wrong), (missed, right) = pair_confusion_matrix(known, derived)
    return {
        "known_groups": len(set(known)),
        "derived_groups": len(set(derived)),
        "pair_precision": round(float(right / max(right + wrong, 1)), 4),
        "pair_recall": round(float(right / max(right + missed, 1)), 4),
        "adjusted_rand": round(float(adjusted_rand_score(known, derived)), 4),
    }


def page(figures: dict[str, Any], command: str) -> str:
    """docs/explanation/data-quality.md."""
    tools = ", ".join(f"{name} {version(name)}" for name in ("faiss-cpu", "great-expectations", "numpy", "pydicom"))
    lines = [
        "# What the data gate finds",
        "",
        "Written by `bench/planted.py`; do not edit.",
        "",
        f"    {command}",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}, Python {sys.version.split()[0]}, {tools}.",
        "",
        "## Planted faults",
        "",
        f"{figures['clean']} phantom chests without fault, one slice each, and planted among them the faults "
        "below, through the real index, suite, leakage checks and gate with the shipped params. The three kinds of "
        "near-duplicates share the false alarms of one search. The phantoms are simpler than people.",
        "",
        *_table(figures["planted"]),
    ]
    if "planted on real pictures" in figures:
        lines += ["## Planted faults on real pictures", "", REAL, "", *_table(figures["planted on real pictures"])]
    titles = {"lung": "Real chest CT: lung-ct-iq-oth-nccd", "brain": "Real brain MR: brain-mr-tumor-progression"}
    for name, title in titles.items():
        if name in figures:
            told = (f"| {key.replace('_', ' ')} | {value} |" for key, value in figures[name].items())
            lines += [f"## {title}", "", "| figure | value |", "|---|---|", *told, ""]
    return "\n".join([*lines, MEANING])


def _table(planted: dict[str, dict[str, float]]) -> list[str]:
    return [
        "| kind | planted | found | recall | false alarms | precision |",
        "|---|---|---|---|---|---|",
        *(
            f"| {kind} | {one['planted']} | {one['found']} | {one['recall']:.3f} | {one['false_alarms']} | "
            f"{one['precision']:.3f} |"
            for kind, one in planted.items()
        ),
        "",
    ]


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
        paths.set_environment()
        keys.create()
        database.migrate()
        figures: dict[str, Any] = {"clean": options.clean}
        figures["planted"] = run(options.clean, options.each, options.seed, home)
        if data.is_dir() and not options.json:
            figures["planted on real pictures"] = lung_faults(data, home, options.each, options.seed)
            figures |= {"lung": lung(data, home), "brain": brain(data, home)}
    if options.json:
        sys.stdout.write(json.dumps(figures) + "\n")
        return 0
    text = page(figures, "python bench/planted.py")
    PAGE.write_text(text, encoding="utf-8")
    sys.stdout.write(text)
    return 0


REAL = """One picture of each group of lung-ct-iq-oth-nccd, so that no two are similar by themselves, with the faults
below planted on them, through the same ingest. A fifth of the pictures carry the conflicting labels; both of a pair
count."""

MEANING = """## How to read it

- **Extra copies** are files whose pixels are, bit for bit, those of another file; the first of each stays.
- **Derived groups** are what `oncoloop import` makes of a set without patient ids: pictures with the same detail, or
  each of which is among the two most similar to the other, and so on in a chain
  (`data/duplicates/near_duplicates.py`). Pair precision is the share of the joined pairs that truly belong together,
  pair recall the share of the true pairs that are joined. The limits were chosen on these two sets, so expect less on
  another. The known groups of the lung set are themselves neighbouring slices put together, not patients.
- **Brain**: every slice is imported as a single picture without a name, as such sets come. The joined slices are mostly
  of one patient, but most slices of a patient are not joined: they are too far apart for a chain from skull base to
  crown, and the same level of another head is as similar as the next level of the same head. **Such groups do not keep
  a patient on one side**: figures on such a split are too good. The import says so where more than a fifth of the
  pictures are in a group of one or two. Where patient ids or a `groups.csv` exist they are used instead: get them.
- A near-duplicate is recognised by the correlation of detail after one thumbnail has been laid over the other
  (`data/duplicates/image_alignment.py`); `ingest.near_duplicate_likeness` is the limit.
"""


if __name__ == "__main__":
    raise SystemExit(main())
