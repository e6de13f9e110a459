"""Precision and recall of the data gate for each kind of planted fault.

    python bench/data/planted_faults.py                       50 of each kind; writes docs/explanation/data-quality.md
    python bench/data/planted_faults.py --each 5 --json       a small sample, as the tests run it; writes nothing

A clean set of phantom chests (one DICOM slice per patient) gets scans of further patients with a fault each. The files
that index, suite, leakage checks and gate refuse are compared with the planted ones. Two images with conflicting
labels must both be refused; of copies the first may stay. The real sets are measured too if they are present: extra
copies, and how well derived groups agree with known ones.
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

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the packages are beside bench/

import numpy as np
import pandas as pd
from PIL import Image

from bench.data.faulty_batch import FUZZY, Batch, plant, plant_real
from data.batch import manifest as batch_manifest
from data.importing import import_folder
from data.quality import gate, leakage, suite
from data.quality.findings import LABEL_CONFLICTS, Finding, FindingKind, merge_findings
from data.scan import read
from lineage import keys, paths
from lineage.record import database
from pipelines import params

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "explanation" / "data-quality.md"
REASON_KINDS = {  # kinds of findings that refer to a kind of fault
    "exact copy": {FindingKind.EXACT_COPY, FindingKind.COPY_OF_OTHER_PATIENT},
    **dict.fromkeys(FUZZY, frozenset((FindingKind.NEAR_DUPLICATE, FindingKind.NEAR_DUPLICATE_WITH_OTHER_LABEL))),
    "conflicting labels": LABEL_CONFLICTS,
    "patient overlap": {FindingKind.PATIENT_IN_TWO_GROUPS},
}
RULE_WORDS = {  # words in the sentences of failed rules and refused files that refer to a kind of fault
    "wrong modality": ("modality",),
    "wrong window": ("in HU", "saturated", "window"),
    "blank or truncated": ("blank", "cut", "truncated", "pixel"),
}


def judge(batch: Batch, home: Path) -> dict[str, list[Finding]]:
    """The files that the gate refuses, with the findings on them."""
    settings = params.load(ROOT).ingest
    indexed = batch_manifest.index_batch(batch.folder, home / "staging", batch.task)
    validation = suite.validate(indexed.manifest, batch.task, settings, home / "gx", "planted")
    findings = leakage.check_leakage(indexed.manifest, pd.DataFrame(), settings)
    total = len(indexed.manifest) + len(indexed.refused)
    _, failing = gate.admit("planted", validation, findings, indexed.refused, total, settings)
    names = _names_by_unit(batch, indexed.manifest)
    all_findings = merge_findings((*validation.findings, *findings.findings))
    return {names[unit]: all_findings[unit] for unit in failing} | {
        _refused(batch, refusal.file): [Finding(FindingKind.REFUSED_FILE, refusal.file, detail=refusal.reason)]
        for refusal in indexed.refused
    }


def refers_to(finding: Finding, fault: str) -> bool:
    """Whether a finding refers to a kind of fault."""
    if finding.kind in (FindingKind.RULE, FindingKind.REFUSED_FILE):
        return any(word in finding.detail for word in RULE_WORDS.get(fault, ()))
    return finding.kind in REASON_KINDS.get(fault, ())


def _refused(batch: Batch, reference: str) -> str:
    """The file of a refusal ("row 12, sha256 ..."), by its row in metadata.csv; the header is row 1."""
    return batch.rows[int(reference.split(",")[0].removeprefix("row ")) - 2]["file_name"]


def _names_by_unit(batch: Batch, manifest: pd.DataFrame) -> dict[str, str]:
    """Unit id -> original file name, matched by content and order, which the manifest preserves."""
    names_by_hash: dict[str, list[str]] = {}
    for row in batch.rows:
        content = (batch.folder / row["file_name"]).read_bytes()
        names_by_hash.setdefault(hashlib.sha256(content).hexdigest(), []).append(row["file_name"])
    return {
        unit: names_by_hash[sha256].pop(0) for unit, sha256 in zip(manifest["unit_id"], manifest["sha256"], strict=True)
    }


def scores(batch: Batch, findings_by_file: dict[str, list[Finding]]) -> dict[str, dict[str, float]]:
    """For each kind: planted, found, recall, and the precision of the reasons that refer to it.

    A false alarm is a refused file without a fault. The original of a planted copy is no false alarm: either of the
    two may be refused.
    """
    table: dict[str, dict[str, float]] = {}
    false_alarms = {
        name: findings
        for name, findings in findings_by_file.items()
        if name not in batch.faults and name not in batch.excused
    }
    for kind in dict.fromkeys(batch.faults.values()):
        files = {name for name, fault in batch.faults.items() if fault == kind}
        detected = files & set(findings_by_file)
        false_alarm_count = sum(
            any(refers_to(finding, kind) for finding in findings) for findings in false_alarms.values()
        )
        precision = len(detected) / max(len(detected) + false_alarm_count, 1)
        table[kind] = {
            "planted": len(files),
            "found": len(detected),
            "recall": round(len(detected) / len(files), 4),
            "false_alarms": false_alarm_count,
            "precision": round(precision, 4),
        }
    detected = set(batch.faults) & set(findings_by_file)
    precision = len(detected) / max(len(detected) + len(false_alarms), 1)
    recall = round(len(detected) / len(batch.faults), 4)
    table["all"] = {
        "planted": len(batch.faults),
        "found": len(detected),
        "recall": recall,
        "false_alarms": len(false_alarms),
        "precision": round(precision, 4),
    }
    return table


def run(clean: int, fault_count: int, seed: int, home: Path) -> dict[str, dict[str, float]]:
    """Plant faults, judge the batch, and count."""
    task = params.load(ROOT).task("lung-ct")
    batch = Batch(home / "inbox" / "planted", task, seed)
    plant(batch, clean, fault_count, np.random.default_rng(seed))
    return scores(batch, judge(batch, home))


def lung(data: Path, home: Path) -> dict[str, Any]:
    """The real lung set: extra copies, false near-duplicates, and agreement of derived groups with groups.csv."""
    task, source = params.load(ROOT).task("lung-ct"), data / "lung-ct-iq-oth-nccd"
    import_record = import_folder.import_folder(source, home / "known", task)
    manifest = batch_manifest.index_batch(home / "known", home / "lung", task).manifest
    leakage_figures = leakage.check_leakage(manifest, pd.DataFrame(), params.load(ROOT).ingest).figures
    import_folder.import_folder(source / "images", home / "derived", task)
    tables = [
        batch_manifest.read_metadata(home / name).set_index("file_name")["group"] for name in ("known", "derived")
    ]
    pair_agreement = agreement(tables[0].to_numpy(), tables[1].reindex(tables[0].index).to_numpy())
    return {
        "pictures": import_record["files"],
        "extra_copies": leakage_figures["exact_copies"],
        "near_duplicates_between_groups": leakage_figures["near_duplicates"],
        **pair_agreement,
    }


def lung_faults(data: Path, home: Path, fault_count: int, seed: int) -> dict[str, dict[str, float]]:
    """Faults planted on the real lung set, on one image of each group: the images of a group are near-duplicates."""
    source = data / "lung-ct-iq-oth-nccd"
    table = pd.read_csv(source / "groups.csv", dtype=str).drop_duplicates("group")
    pictures = [(source / "images" / row.file, str(row.label)) for row in table.itertuples()]
    batch = Batch(home / "inbox" / "planted-real", params.load(ROOT).task("lung-ct"), seed)
    plant_real(batch, pictures, fault_count, np.random.default_rng(seed))
    return scores(batch, judge(batch, home))


def brain(data: Path, home: Path) -> dict[str, Any]:
    """The real brain set: false near-duplicates, and the groups derived from its slices as single unnamed images."""
    task, source = params.load(ROOT).task("brain-mr"), data / "brain-mr-tumor-progression"
    import_folder.import_folder(source, home / "brain", task)
    manifest = batch_manifest.index_batch(home / "brain", home / "brain-index", task).manifest
    leakage_figures = leakage.check_leakage(manifest, pd.DataFrame(), params.load(ROOT).ingest).figures
    table = _single_pictures(home / "brain", home / "brain-pictures")
    record = import_folder.import_folder(home / "brain-pictures", home / "brain-derived", task)
    derived = (
        batch_manifest.read_metadata(home / "brain-derived")
        .set_index("file_name")["group"]
        .reindex(table["file"])
        .to_numpy()
    )
    patients, volumes = (agreement(table[name].to_numpy(), derived) for name in ("patient", "volume"))
    return {
        "slices": len(manifest),
        "volumes": int(table["volume"].nunique()),
        "near_duplicates_between_patients": leakage_figures["near_duplicates"],
        **patients,
        "pair_recall_within_volumes": volumes["pair_recall"],
        "pair_recall_between_volumes_of_a_patient": _between(table, derived),
        "import_says": record.get("warning", "nothing"),
    }


def _single_pictures(batch: Path, target: Path) -> pd.DataFrame:
    """Write every labelled slice as a PNG in a folder of its class; a table of file, patient and volume."""
    rows = []
    for name, slices in batch_manifest.read_metadata(batch).groupby("file_name"):
        planes = read.read_scan(Path(str(name)).name, (batch / str(name)).read_bytes()).pixels
        black, white = np.percentile(planes, (1, 99.5))
        for row in slices.itertuples():
            file = f"{row.label}/{len(rows):04d}.png"
            (target / file).parent.mkdir(parents=True, exist_ok=True)
            grey = np.clip((planes[int(str(row.slice))] - black) / (white - black) * 255, 0, 255)
            Image.fromarray(np.rint(grey).astype(np.uint8)).save(target / file)
            rows.append({"file": file, "patient": row.patient_id, "volume": name})
    return pd.DataFrame(rows)


def _between(table: pd.DataFrame, derived: Any) -> float:
    """The share of same-patient slice pairs from two volumes that are in one derived group."""
    patient, volume = (np.unique(table[name], return_inverse=True)[1] for name in ("patient", "volume"))
    group = np.unique(derived, return_inverse=True)[1]
    first, second = np.triu_indices(len(table), 1)
    pairs = (patient[first] == patient[second]) & (volume[first] != volume[second])
    return round(float((group[first] == group[second])[pairs].mean()), 4)


def agreement(known: Any, derived: Any) -> dict[str, float]:
    """Pair precision (joined pairs of one true group), pair recall (true pairs that are joined), adjusted Rand."""
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
    """The text of docs/explanation/data-quality.md."""
    tools = ", ".join(f"{name} {version(name)}" for name in ("faiss-cpu", "great-expectations", "numpy", "pydicom"))
    lines = [
        "# What the data gate finds",
        "",
        "Written by `bench/data/planted_faults.py`; do not edit.",
        "",
        f"    {command}",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}, Python {sys.version.split()[0]}, {tools}.",
        "",
        "## Planted faults",
        "",
        f"{figures['clean']} phantom chests without fault, one slice each, and the planted faults below, judged by the "
        "product's index, suite, leakage checks and gate with the shipped params. The three kinds of near-duplicates "
        "share the false alarms of one search. The phantoms are simpler than patients.",
        "",
        *_table(figures["planted"]),
    ]
    if "planted on real pictures" in figures:
        lines += ["## Planted faults on real pictures", "", REAL, "", *_table(figures["planted on real pictures"])]
    titles = {"lung": "Real chest CT: lung-ct-iq-oth-nccd", "brain": "Real brain MR: brain-mr-tumor-progression"}
    for name, title in titles.items():
        if name in figures:
            figure_rows = (f"| {key.replace('_', ' ')} | {value} |" for key, value in figures[name].items())
            lines += [f"## {title}", "", "| figure | value |", "|---|---|", *figure_rows, ""]
    return "\n".join([*lines, MEANING])


def _table(planted: dict[str, dict[str, float]]) -> list[str]:
    return [
        "| kind | planted | found | recall | false alarms | precision |",
        "|---|---|---|---|---|---|",
        *(
            f"| {kind} | {row['planted']} | {row['found']} | {row['recall']:.3f} | {row['false_alarms']} | "
            f"{row['precision']:.3f} |"
            for kind, row in planted.items()
        ),
        "",
    ]


def main() -> int:
    """Measure planted faults and the real sets; write the page."""
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
    text = page(figures, "python bench/data/planted_faults.py")
    PAGE.write_text(text, encoding="utf-8")
    sys.stdout.write(text)
    return 0


REAL = """One image of each group of lung-ct-iq-oth-nccd, so that no two are near-duplicates by themselves, with the
planted faults below, judged in the same way. A fifth of the images have conflicting labels; both images of a pair
count."""

MEANING = """## How to read it

- **Extra copies** are files with exactly the pixels of another file; the first of them stays.
- **Derived groups** are what `oncoloop import` derives for a set without patient ids. It joins images with the same
  detail, and images that are among each other's two most similar ones, in chains
  (`data/duplicates/near_duplicates.py`). Pair precision is the share of joined pairs that belong together. Pair recall
  is the share of true pairs that are joined. The limits were chosen on these two sets, so expect less on another. The
  known groups of the lung set are neighbouring slices, not patients.
- **Brain**: every slice is imported as a single unnamed image, as such sets are published. Most joined slices are of
  one patient, but most slices of a patient are not joined: the slices are too far apart for a chain from skull base to
  crown. The same level of another head is as similar as the next level of the same head. **Such groups do not keep a
  patient on one side**: figures on such a split are too good. The import warns if more than a fifth of the images are
  in a group of one or two. Provide patient ids or a `groups.csv` if you can: they are used instead.
- Near-duplicates are found by the correlation of detail after registration of one thumbnail to the other
  (`data/duplicates/image_alignment.py`); `ingest.near_duplicate_likeness` is the limit.
"""


if __name__ == "__main__":
    raise SystemExit(main())
