"""What would make a test set lie: copies, near-duplicates, overlaps of patients, two labels for one picture."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from data.likeness import near_pairs, pictures
from data.settings import IngestSettings
from data.shortcut import shortcut

COLUMNS = ["unit_id", "file", "pixels_sha256", "dhash", "embedding", "std", "label", "patient", "cluster"]


@dataclass(frozen=True)
class Findings:
    """What must stay out, by `unit_id` (each reason is "kind: detail"); what travels along; figures."""

    failing: Mapping[str, list[str]]
    warnings: list[str]
    figures: Mapping[str, Any]


def check(manifest: pd.DataFrame, known: pd.DataFrame, settings: IngestSettings) -> Findings:
    """Look for leakage inside a batch and against the admitted manifests of its task (`known`, may be empty).

    Of copies with one label the first stays; of copies with two labels none does, since nobody knows which is right.
    Within a cluster near-duplicates are what neighbouring slices are; between clusters they are one patient twice.
    """
    table = manifest[COLUMNS].reset_index(drop=True)
    before = known[COLUMNS].fillna("").reset_index(drop=True) if len(known) else table.iloc[:0]
    shown = table[pictures(table)] if len(table) else table
    shown_before = before[pictures(before)] if len(before) else before
    found = {
        "exact_copies": _copies(shown, shown_before),
        "near_duplicates": _near(shown, shown_before, settings.near_duplicate_bits),
        "patient_overlaps": _overlaps(table, before),
    }
    failing: defaultdict[str, list[str]] = defaultdict(list)
    for reasons in found.values():
        for unit, reason in reasons.items():
            failing[unit].append(reason)
    mixed = _mixed(table)
    accuracy, told_by = shortcut(manifest)
    warnings = (
        [f"clusters that hold files with different labels (each stays on one side): {len(mixed)}"] if mixed else []
    )
    if accuracy is not None and accuracy >= settings.shortcut_accuracy:
        warnings.append(
            f"header and border facts alone ({', '.join(told_by)}) predict the label with a balanced accuracy of "
            f"{accuracy:.2f} on unseen clusters: the label may stand for its source"
        )
    figures: dict[str, Any] = {kind: len(reasons) for kind, reasons in found.items()}
    figures |= {"mixed_clusters": len(mixed), "shortcut_accuracy": accuracy, "clusters": int(table.cluster.nunique())}
    return Findings(dict(failing), warnings, figures)


def _copies(table: pd.DataFrame, known: pd.DataFrame) -> dict[str, str]:
    """Units whose pixels are, bit for bit, those of another unit."""
    found: dict[str, str] = {}
    again = known[known["pixels_sha256"].isin(table["pixels_sha256"])]
    before = {str(pixels): rows for pixels, rows in again.groupby("pixels_sha256")}
    for pixels, rows in table.groupby("pixels_sha256", sort=False):
        earlier = before.get(str(pixels))
        if len(rows) < 2 and earlier is None:
            continue
        labels = set(rows["label"]) | (set(earlier["label"]) if earlier is not None else set())
        if len(labels) > 1:
            reason = f"the same picture has two labels: {', '.join(sorted(labels))}"
            found |= dict.fromkeys(rows["unit_id"], reason)
        elif earlier is not None:
            found |= dict.fromkeys(rows["unit_id"], f"copy of an admitted scan: {earlier['unit_id'].iloc[0]}")
        else:
            found |= dict(_later_copies(rows))
    return found


def _later_copies(rows: pd.DataFrame) -> Iterable[tuple[str, str]]:
    first = rows.iloc[0]
    for unit, cluster in zip(rows["unit_id"].iloc[1:], rows["cluster"].iloc[1:], strict=True):
        kind = "exact copy" if cluster == first["cluster"] else "exact copy of another patient's scan"
        yield unit, f"{kind}: {first['unit_id']}"


def _near(table: pd.DataFrame, known: pd.DataFrame, bits: int) -> dict[str, str]:
    """Units that are nearly the picture of another cluster's unit; exact copies are `_copies`' business."""
    found: dict[str, str] = {}
    for other, rows in ((table, near_pairs(table, table, bits)), (known, near_pairs(table, known, bits))):
        within = other is table
        left, right = table.iloc[rows[:, 0]], other.iloc[rows[:, 1]]
        foreign = (left["cluster"].to_numpy() != right["cluster"].to_numpy()) & (
            left["pixels_sha256"].to_numpy() != right["pixels_sha256"].to_numpy()
        )
        for (i, j), a, b in zip(rows[foreign], left[foreign].itertuples(), right[foreign].itertuples(), strict=True):
            if a.label != b.label:
                found[a.unit_id] = f"nearly the same picture has another label: {b.unit_id}"
            elif not within or j < i:
                found.setdefault(a.unit_id, f"near-duplicate of another patient's scan: {b.unit_id}")
    return found


def _overlaps(table: pd.DataFrame, known: pd.DataFrame) -> dict[str, str]:
    """Units of a patient who is in two clusters: the sides could not keep that patient together."""
    again = known[known["patient"].isin(table["patient"])]
    both = pd.concat([table[["patient", "cluster"]], again[["patient", "cluster"]]]).drop_duplicates()
    torn = both[both.duplicated("patient", keep=False)].groupby("patient")["cluster"].nunique()
    rows = table[table["patient"].isin(torn.index)]
    return {
        unit: f"patient in two groups: {patient} is in {torn[patient]}"
        for unit, patient in zip(rows["unit_id"], rows["patient"], strict=True)
    }


def _mixed(table: pd.DataFrame) -> list[str]:
    """Clusters in which whole files carry different labels. A volume with and without tumour slices is no surprise."""
    one_label = table.groupby("file")["label"].transform("nunique") == 1
    labels = table[one_label].groupby("cluster")["label"].nunique()
    several = set(table.groupby("file")["label"].nunique().loc[lambda count: count > 1].index)
    slicewise = set(table[table["file"].isin(several)]["cluster"])
    return sorted(str(cluster) for cluster in labels[labels > 1].index if cluster not in slicewise)
