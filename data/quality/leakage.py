"""Leakage checks: copies, near-duplicates, patients in two groups, two labels for one picture."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from data.duplicates.near_duplicates import near_pairs, pictures
from data.patients import contradictions
from data.quality.shortcuts import find_shortcuts
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
    """The result of the leakage checks.

    `failing`: the units that must stay out, by `unit_id`, with reasons "kind: detail". `errors` keep the whole batch
    out.
    """

    failing: Mapping[str, list[str]]
    warnings: list[str]
    figures: Mapping[str, Any]
    errors: Sequence[str] = ()


def check_leakage(
    manifest: pd.DataFrame, admitted: pd.DataFrame, settings: IngestSettings, rows: Mapping[str, int] | None = None
) -> Findings:
    """Find leakage within a batch, and between it and the `admitted` units of its task.

    `admitted` are the related units (data/duplicates/admitted_units.py). It can be empty, or contain all units.
    Of copies with one label the first stays. Of copies with two labels none stays, because the right one is unknown.
    Near-duplicates within a cluster are neighbouring slices; between clusters they are one patient twice. `rows` has
    the row number of each unit in metadata.csv, for messages on contradictions (data/patients/contradictions.py).
    """
    table = manifest.reindex(columns=COLUMNS).fillna(dict.fromkeys(contradictions.SIGNS, "")).reset_index(drop=True)
    before = admitted.reindex(columns=COLUMNS).fillna("").reset_index(drop=True) if len(admitted) else table.iloc[:0]
    visible = table[pictures(table)] if len(table) else table
    visible_before = before[pictures(before)] if len(before) else before
    copies = _copies(visible, visible_before)
    near = _near_duplicates(visible, visible_before, settings.near_duplicate_likeness)
    reasons_by_kind = {
        "exact_copies": copies,
        "near_duplicates": {unit: reason for unit, reason in near.items() if unit not in copies},
        "patient_overlaps": _patient_overlaps(table, before),
    }
    failing: defaultdict[str, list[str]] = defaultdict(list)
    for reasons in reasons_by_kind.values():
        for unit, reason in reasons.items():
            failing[unit].append(reason)
    identity = contradictions.check_identities(table, before, rows)
    for unit, contradiction in identity.failing.items():
        failing[unit] += contradiction
    mixed = _mixed_clusters(table)
    found_shortcuts = find_shortcuts(manifest, settings.shortcut_accuracy)
    warnings = (
        [f"clusters that contain files with different labels (each stays on one side): {len(mixed)}"] if mixed else []
    )
    warnings += [*identity.warnings, *_two_sexes_warning(manifest)]
    warnings += [shortcut.warning() for shortcut in found_shortcuts if shortcut.is_shortcut(settings.shortcut_accuracy)]
    figures: dict[str, Any] = {kind: len(reasons) for kind, reasons in reasons_by_kind.items()}
    figures |= {
        "mixed_clusters": len(mixed),
        "patient_contradictions": identity.count,
        "shortcut_accuracy": found_shortcuts[0].accuracy if found_shortcuts else None,
        "clusters": int(table.cluster.nunique()),
    }
    return Findings(dict(failing), warnings, figures, identity.errors)


def _two_sexes_warning(manifest: pd.DataFrame) -> list[str]:
    """A warning if patients have both sexes in their rows; else an empty list."""
    rows = manifest.reindex(columns=["patient", "sex"])
    sexes = rows[rows["sex"].isin(["F", "M"])].groupby("patient")["sex"].nunique()
    count = int((sexes > 1).sum())
    return [f"patients of both sexes, who may be two people: {count}"] if count else []


def _copies(table: pd.DataFrame, admitted: pd.DataFrame) -> dict[str, str]:
    """The reasons of units whose pixels are bit-identical to those of another unit."""
    reasons: dict[str, str] = {}
    matching = admitted[admitted["pixels_blake3"].isin(table["pixels_blake3"])]
    before = {str(pixels): rows for pixels, rows in matching.groupby("pixels_blake3")}
    for pixels, rows in table.groupby("pixels_blake3", sort=False):
        earlier = before.get(str(pixels))
        if len(rows) < 2 and earlier is None:
            continue
        labels = set(rows["label"]) | (set(earlier["label"]) if earlier is not None else set())
        if len(labels) > 1:
            two_labels = f"the same picture has two labels: {', '.join(sorted(labels))}"
            reasons |= dict.fromkeys(rows["unit_id"], two_labels)
        elif earlier is not None:
            reasons |= dict.fromkeys(rows["unit_id"], f"copy of an admitted scan: {earlier['unit_id'].iloc[0]}")
        else:
            reasons |= dict(_later_copies(rows))
    return reasons


def _later_copies(rows: pd.DataFrame) -> Iterable[tuple[str, str]]:
    first = rows.iloc[0]
    for unit, cluster in zip(rows["unit_id"].iloc[1:], rows["cluster"].iloc[1:], strict=True):
        kind = "exact copy" if cluster == first["cluster"] else "exact copy of another patient's scan"
        yield unit, f"{kind}: {first['unit_id']}"


def _near_duplicates(table: pd.DataFrame, admitted: pd.DataFrame, min_likeness: float) -> dict[str, str]:
    """The reasons of units that are near-duplicates of a unit in another cluster, including copies (see `_copies`).

    With one label the later unit stays out. With two labels the most similar earlier unit stays out too. Neighbouring
    slices of that one are also similar, but are not affected.
    """
    reasons: dict[str, str] = {}
    for other_table, pairs in (
        (table, near_pairs(table, table, min_likeness)),
        (admitted, near_pairs(table, admitted, min_likeness)),
    ):
        is_within = other_table is table
        left, right = table.iloc[pairs[:, 0]], other_table.iloc[pairs[:, 1]]
        most_similar: dict[
            tuple[str, str], str
        ] = {}  # most similar unit of each other cluster; pairs are sorted by likeness
        for unit, cluster, name in zip(left["unit_id"], right["cluster"], right["unit_id"], strict=True):
            most_similar.setdefault((unit, cluster), name)
        for (first, second), left_row, right_row in zip(
            pairs, left.to_dict("records"), right.to_dict("records"), strict=True
        ):
            first_unit, second_unit = str(left_row["unit_id"]), str(right_row["unit_id"])
            is_later = not is_within or second < first
            is_mutual = (
                most_similar[first_unit, right_row["cluster"]] == second_unit
                and most_similar.get((second_unit, left_row["cluster"])) == first_unit
            )
            if left_row["label"] != right_row["label"] and (is_later or is_mutual):
                reasons[first_unit] = f"nearly the same picture has another label: {second_unit}"
            elif is_later:
                reasons.setdefault(first_unit, f"near-duplicate of another patient's scan: {second_unit}")
    return reasons


def _patient_overlaps(table: pd.DataFrame, admitted: pd.DataFrame) -> dict[str, str]:
    """The reasons of units whose patient is in two clusters, and so could be on two sides."""
    admitted_rows = admitted[admitted["patient"].isin(table["patient"])]
    pairs = pd.concat([table[["patient", "cluster"]], admitted_rows[["patient", "cluster"]]]).drop_duplicates()
    cluster_count = pairs[pairs.duplicated("patient", keep=False)].groupby("patient")["cluster"].nunique()
    rows = table[table["patient"].isin(cluster_count.index)]
    return {
        unit: f"patient in two groups: {patient} is in {cluster_count[patient]}"
        for unit, patient in zip(rows["unit_id"], rows["patient"], strict=True)
    }


def _mixed_clusters(table: pd.DataFrame) -> list[str]:
    """Clusters whose files have different labels. A volume with different labels per slice does not count."""
    has_one_label = table.groupby("file")["label"].transform("nunique") == 1
    labels = table[has_one_label].groupby("cluster")["label"].nunique()
    mixed_files = set(table.groupby("file")["label"].nunique().loc[lambda count: count > 1].index)
    mixed_volumes = set(table[table["file"].isin(mixed_files)]["cluster"])
    return sorted(str(cluster) for cluster in labels[labels > 1].index if cluster not in mixed_volumes)
