"""What would make a test set lie: copies, near-duplicates, overlaps of patients, two labels for one picture."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from data.duplicates.near_duplicates import near_pairs, pictures
from data.patients import contradictions
from data.quality.shortcuts import shortcuts
from data.settings import IngestSettings

COLUMNS = [
    "unit_id",
    "file",
    "sha256",
    "pixels_blake3",
    "thumbnail",
    "std",
    "label",
    "patient",
    "cluster",
    *contradictions.SIGNS,
]


@dataclass(frozen=True)
class Findings:
    """What must stay out, by `unit_id` (each reason is "kind: detail"); what travels along; figures; what keeps the
    whole batch out."""

    failing: Mapping[str, list[str]]
    warnings: list[str]
    figures: Mapping[str, Any]
    errors: Sequence[str] = ()


def check(
    manifest: pd.DataFrame, known: pd.DataFrame, settings: IngestSettings, rows: Mapping[str, int] | None = None
) -> Findings:
    """Look for leakage inside a batch and against the admitted units of its task that concern it
    (data/duplicates/admitted_units.py; may be empty, and may as well be all of them).

    Of copies with one label the first stays; of copies with two labels none does, since nobody knows which is right.
    Within a cluster near-duplicates are what neighbouring slices are; between clusters they are one patient twice.
    `rows` gives the number of each unit's row of metadata.csv, for the sentence on contradictions
    (data/patients/contradictions.py).
    """
    table = manifest.reindex(columns=COLUMNS).fillna(dict.fromkeys(contradictions.SIGNS, "")).reset_index(drop=True)
    before = known.reindex(columns=COLUMNS).fillna("").reset_index(drop=True) if len(known) else table.iloc[:0]
    shown = table[pictures(table)] if len(table) else table
    shown_before = before[pictures(before)] if len(before) else before
    copies = _copies(shown, shown_before)
    near = _near(shown, shown_before, settings.near_duplicate_likeness)
    found = {
        "exact_copies": copies,
        "near_duplicates": {unit: reason for unit, reason in near.items() if unit not in copies},
        "patient_overlaps": _overlaps(table, before),
    }
    failing: defaultdict[str, list[str]] = defaultdict(list)
    for reasons in found.values():
        for unit, reason in reasons.items():
            failing[unit].append(reason)
    people = contradictions.check(table, before, rows)
    for unit, contradiction in people.failing.items():
        failing[unit] += contradiction
    mixed = _mixed(table)
    told = shortcuts(manifest, settings.shortcut_accuracy)
    warnings = (
        [f"clusters that hold files with different labels (each stays on one side): {len(mixed)}"] if mixed else []
    )
    warnings += [*people.warnings, *_two_sexes(manifest)]
    warnings += [one.sentence() for one in told if one.rings(settings.shortcut_accuracy)]
    figures: dict[str, Any] = {kind: len(reasons) for kind, reasons in found.items()}
    figures |= {
        "mixed_clusters": len(mixed),
        "patient_contradictions": people.count,
        "shortcut_accuracy": told[0].accuracy if told else None,
        "clusters": int(table.cluster.nunique()),
    }
    return Findings(dict(failing), warnings, figures, people.errors)


def _two_sexes(manifest: pd.DataFrame) -> list[str]:
    """The warning that patients are women in one row and men in another; none where nobody is."""
    rows = manifest.reindex(columns=["patient", "sex"])
    sexes = rows[rows["sex"].isin(["F", "M"])].groupby("patient")["sex"].nunique()
    count = int((sexes > 1).sum())
    return [f"patients of both sexes, who may be two people: {count}"] if count else []


def _copies(table: pd.DataFrame, known: pd.DataFrame) -> dict[str, str]:
    """Units whose pixels are, bit for bit, those of another unit."""
    found: dict[str, str] = {}
    again = known[known["pixels_blake3"].isin(table["pixels_blake3"])]
    before = {str(pixels): rows for pixels, rows in again.groupby("pixels_blake3")}
    for pixels, rows in table.groupby("pixels_blake3", sort=False):
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


def _near(table: pd.DataFrame, known: pd.DataFrame, alike: float) -> dict[str, str]:
    """Units that are nearly the picture of another cluster's unit, exact copies among them (see `_copies`).

    With one label the later stays out. With two, the later does, and of the earlier the one that is most like it: its
    neighbouring slices are alike too, and are left alone.
    """
    found: dict[str, str] = {}
    for other, pairs in ((table, near_pairs(table, table, alike)), (known, near_pairs(table, known, alike))):
        within = other is table
        left, right = table.iloc[pairs[:, 0]], other.iloc[pairs[:, 1]]
        best: dict[tuple[str, str], str] = {}  # of each unit in each other cluster: the most alike come first
        for unit, cluster, name in zip(left["unit_id"], right["cluster"], right["unit_id"], strict=True):
            best.setdefault((unit, cluster), name)
        for (i, j), a, b in zip(pairs, left.to_dict("records"), right.to_dict("records"), strict=True):
            one, two, later = str(a["unit_id"]), str(b["unit_id"]), not within or j < i
            mutual = best[one, b["cluster"]] == two and best.get((two, a["cluster"])) == one
            if a["label"] != b["label"] and (later or mutual):
                found[one] = f"nearly the same picture has another label: {two}"
            elif later:
                found.setdefault(one, f"near-duplicate of another patient's scan: {two}")
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
