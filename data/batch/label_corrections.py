"""Label corrections: a later batch corrects admitted scans by their hash; earlier labels are never overwritten."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd

from data import identifiers
from data.batch import metadata_table
from data.batch.manifest import RefusedFile, file_reference, read_manifest
from data.core_types import Task
from data.deidentify import pseudonyms
from data.settings import Disagreement
from lineage import keys
from lineage.errors import Fault

NAME = "corrections.csv"
CORRECTED_COLUMNS = ("label", "truth", "labeller", "labelled_at", "stage", "lesion_mm")
COLUMNS = ("unit_id", "sha256", "patient", "was", *CORRECTED_COLUMNS)
PREVIOUS_LABEL = "was"  # column of the previous label; a manifest does not have it
TEXT = {name: str for name in COLUMNS if name != "lesion_mm"}
REQUIRED_CELLS = ("label", "labeller", "labelled_at", "truth")
FULL_HASH = re.compile(metadata_table.HASH_PREFIX + "[0-9a-f]{64}")
MIN_HASH_LENGTH = 8  # characters of a typed hash


@dataclass(frozen=True)
class Corrections:
    """A batch of corrections.

    `rows` has COLUMNS and one row per unit. `manifest` has the rows of these units with the corrections applied.
    `refused` are the scans whose correction is not accepted.
    """

    rows: pd.DataFrame
    manifest: pd.DataFrame
    refused: list[RefusedFile]

    def without(self, failing: Mapping[str, list[str]]) -> pd.DataFrame:
        """The rows to admit: all but those of the units in `failing`."""
        return self.rows[~self.rows["unit_id"].isin(list(failing))]


def check_corrections(table: pd.DataFrame, folder: Path, task: Task, disagreement: Disagreement) -> Corrections:
    """Match the rows of a correcting metadata.csv with the admitted batches of its task in `folder`.

    A correction states who labelled, when, and how the label is known. It must not be older than the label that it
    corrects, nor have a weaker kind of truth.
    """
    units = admitted_units(folder, set(table["file_name"].str.removeprefix(metadata_table.HASH_PREFIX)))
    rows: list[dict[str, Any]] = []
    refused = []
    for name, scan_rows in table.groupby("file_name", sort=False):
        try:
            rows += _correct_scan(str(name), scan_rows, units, task, disagreement)
        except Fault as fault:
            sha256 = str(name).removeprefix(metadata_table.HASH_PREFIX) if FULL_HASH.fullmatch(str(name)) else ""
            refused.append(RefusedFile(file_reference(int(scan_rows.index[0]), sha256), str(fault)))
    corrections = pd.DataFrame(rows, columns=list(COLUMNS))
    return Corrections(
        corrections, apply_corrections(units[units["unit_id"].isin(corrections["unit_id"])], corrections), refused
    )


def admitted_units(folder: Path, hashes: set[str]) -> pd.DataFrame:
    """The units of the scans with these SHA-256, with corrections applied and their `batch`.

    Reads a manifest at a time.
    """
    tables = []
    for path in sorted(folder.glob("*/manifest.csv")):
        manifest = read_manifest(path)
        tables.append(manifest[manifest["sha256"].isin(hashes)].assign(batch=path.parent.name))
    units = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=["unit_id", "sha256"])
    return apply_corrections(units, read_corrections(folder))


def read_corrections(folder: Path) -> pd.DataFrame:
    """Every admitted correction of a task, oldest first, with the `batch` that contains it."""
    tables = [
        pd.read_csv(path, dtype=TEXT).fillna(dict.fromkeys(TEXT, "")).assign(batch=path.parent.name)
        for path in sorted(folder.glob(f"*/{NAME}"))
    ]
    if not tables:
        return pd.DataFrame(columns=[*COLUMNS, "batch"])
    return pd.concat(tables, ignore_index=True).sort_values(["labelled_at", "batch"], kind="stable", ignore_index=True)


def apply_corrections(manifest: pd.DataFrame, corrections: pd.DataFrame) -> pd.DataFrame:
    """A manifest (or some columns of it) with the newest correction of each unit. No cluster changes its cohort."""
    newest = corrections.drop_duplicates("unit_id", keep="last").set_index("unit_id")
    is_corrected = manifest["unit_id"].isin(newest.index) if len(newest) else pd.Series(False, manifest.index)
    if not is_corrected.any():
        return manifest
    units = manifest.loc[is_corrected, "unit_id"]
    columns = [name for name in CORRECTED_COLUMNS if name in manifest]
    return manifest.assign(**{name: manifest[name].where(~is_corrected, units.map(newest[name])) for name in columns})


def label_history(folder: Path, key: str) -> list[dict[str, str]]:
    """The labels of units over time, oldest first. `key` is a unit_id, or (the start of) the SHA-256 of a scan.

    Every step has: unit, sha256, at, who, truth, from ("" for the first label), to, batch. Empty if nothing matches.
    Fault if `key` is too short.
    """
    if len(key) < MIN_HASH_LENGTH:
        raise Fault(f"{len(key)} characters are too few for a scan; give at least {MIN_HASH_LENGTH} of its SHA-256")
    steps = []
    for path in sorted(folder.glob("*/manifest.csv")):
        manifest = read_manifest(path)
        for unit in _matching_units(manifest, key).to_dict("records"):
            steps.append(_history_step(unit, "", path.parent.name))
    units = {step["unit"] for step in steps}
    corrections = read_corrections(folder)
    for row in corrections[corrections["unit_id"].isin(units)].to_dict("records"):
        steps.append(_history_step(row, str(row["was"]), str(row["batch"])))
    return sorted(steps, key=lambda step: (step["unit"], step["from"] != "", step["at"]))


def _matching_units(manifest: pd.DataFrame, key: str) -> pd.DataFrame:
    hash_start = key.removeprefix(metadata_table.HASH_PREFIX)
    return manifest[(manifest["unit_id"] == key) | manifest["sha256"].str.startswith(hash_start)]


def _history_step(row: Mapping[Any, Any], before: str, batch: str) -> dict[str, str]:
    return {
        "unit": str(row["unit_id"]),
        "sha256": str(row["sha256"]),
        "at": str(row["labelled_at"]),
        "who": str(row["labeller"]),
        "truth": str(row["truth"]),
        "from": before,
        "to": str(row["label"]),
        "batch": batch,
    }


def _correct_scan(
    name: str, scan_rows: pd.DataFrame, units: pd.DataFrame, task: Task, disagreement: Disagreement
) -> Iterator[dict[str, Any]]:
    """Yield one correction for every unit that the rows of one scan refer to."""
    if not FULL_HASH.fullmatch(name):
        raise Fault("is not the whole SHA-256 of a scan, 64 of the digits 0-9 and a-f")
    scan = units[units["sha256"] == name.removeprefix(metadata_table.HASH_PREFIX)]
    if scan.empty:
        raise Fault(f"is no admitted scan of {task.name}; `oncoloop data history` lists those")
    row_by_unit: dict[str, dict[str, str]] = {}
    for slice_text, readings in scan_rows.groupby("slice", sort=True):
        chosen_row = metadata_table.resolve_readings(readings, disagreement)
        slice_units = scan if slice_text == "" else scan[scan["slice"].astype(int).astype(str) == slice_text]
        if slice_units.empty:
            raise Fault("names in the column slice no admitted slice of its scan; they are counted from 0")
        if row_by_unit.keys() & set(slice_units["unit_id"]):
            raise Fault("is corrected twice for one slice; keep one of the rows")
        row_by_unit |= dict.fromkeys(slice_units["unit_id"], chosen_row)
    for unit in scan[scan["unit_id"].isin(row_by_unit)].to_dict("records"):
        yield _correct_unit(unit, row_by_unit[unit["unit_id"]], task)


def _correct_unit(unit: Mapping[Any, Any], row: dict[str, str], task: Task) -> dict[str, Any]:
    missing = [name for name in REQUIRED_CELLS if not row[name]]
    if missing:
        raise Fault(
            f"is corrected without {' and '.join(missing)}; a correction states label, labeller, time and truth"
        )
    unknown_columns = [
        name
        for name, allowed in (("label", task.classes), ("truth", metadata_table.TRUTHS))
        if row[name] not in allowed
    ]
    if unknown_columns:
        raise Fault(
            f"has in the column {' and '.join(unknown_columns)} a value that {task.name} does not have; correct the "
            "cell"
        )
    _check_no_identity(row)
    if row["patient_id"] and keys.pseudonym(row["patient_id"]) != unit["patient"]:
        raise Fault("belongs to another patient than the row says; check the hash")
    labelled_at = _utc_text(row["labelled_at"])
    if metadata_table.truth_rank(row["truth"]) > metadata_table.truth_rank(unit["truth"]):
        raise Fault(f"is known by {unit['truth']}, which {row['truth']} does not correct")
    if (row["label"], row["truth"]) == (unit["label"], unit["truth"]):
        raise Fault(f"is {unit['label']} by {unit['truth']} already")
    if _is_dated(unit["labelled_at"]) and labelled_at <= _utc_text(str(unit["labelled_at"])):
        raise Fault(f"is corrected as of {labelled_at}, and its present label is not older ({unit['labelled_at']})")
    lesion = pseudonyms.parse_number(row["lesion_mm"], "lesion_mm") if row["lesion_mm"] else unit["lesion_mm"]
    identity = {name: unit[name] for name in ("unit_id", "sha256", "patient")}
    labels = {name: row[name] for name in ("label", "truth", "labeller")}
    stage = row["stage"] or unit["stage"]
    return identity | labels | {"was": unit["label"], "labelled_at": labelled_at, "stage": stage, "lesion_mm": lesion}


def _check_no_identity(row: dict[str, str]) -> None:
    """Fault if a text that is stored repeats the identity of its patient."""
    secrets = identifiers.secrets_of_row(row)
    for text, column in identifiers.free_text_cells([row]).items():
        if identifiers.contains_secret(text, secrets, words=False):
            raise Fault(f"repeats in the column {column} the patient's name or number; correct the cell")


def _is_dated(text: str) -> bool:
    """Whether the text is a time. A label without a known time can be corrected as of any time."""
    return bool(re.match(r"\d{4}-\d\d-\d\d", text))


def _utc_text(text: str) -> str:
    """A time as UTC text to the second, so that times sort as text. Fault if it is no time or in the future."""
    try:
        time = datetime.fromisoformat(text)
        time = time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise Fault("has in the column labelled_at no time such as 2026-01-31T09:00:00Z; correct the cell") from error
    if time > datetime.now(UTC) + timedelta(days=1):
        raise Fault("has in the column labelled_at a time in the future; correct the cell")
    return time.isoformat(timespec="seconds").replace("+00:00", "Z")
