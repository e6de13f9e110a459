"""Corrected labels: a later batch names an admitted scan by its hash; what was said before is never overwritten."""

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
from data.batch.manifest import Refused, called, read_manifest
from data.deidentify import pseudonyms
from data.record import Task
from data.settings import Disagreement
from lineage import keys
from lineage.errors import Fault

NAME = "corrections.csv"
SAID = ("label", "truth", "labeller", "labelled_at", "stage", "lesion_mm")  # what a correction says anew of a unit
COLUMNS = ("unit_id", "sha256", "patient", "was", *SAID)
WAS = "was"  # the label before: a column that tells corrections from a manifest
TEXT = {name: str for name in COLUMNS if name != "lesion_mm"}
NEEDED = ("label", "labeller", "labelled_at", "truth")
WHOLE = re.compile(metadata_table.HASH + "[0-9a-f]{64}")
SHORTEST = 8  # characters of a hash that a person may type


@dataclass(frozen=True)
class Corrections:
    """A batch of corrections: `rows` (COLUMNS, one for each unit), the units' `manifest` rows as they will be read,
    and the scans whose correction can't be taken."""

    rows: pd.DataFrame
    manifest: pd.DataFrame
    refused: list[Refused]

    def without(self, failing: Mapping[str, list[str]]) -> pd.DataFrame:
        """The rows that may be admitted, where the suite found units `failing`."""
        return self.rows[~self.rows["unit_id"].isin(list(failing))]


def check(table: pd.DataFrame, folder: Path, task: Task, disagreement: Disagreement) -> Corrections:
    """Meet the rows of a metadata.csv that corrects with the admitted batches of its task in `folder`.

    Every correction says who, when and how the label is known; it may not be older or weaker than what it corrects.
    """
    units = admitted(folder, set(table["file_name"].str.removeprefix(metadata_table.HASH)))
    rows: list[dict[str, Any]] = []
    refused = []
    for name, said in table.groupby("file_name", sort=False):
        try:
            rows += _corrected(str(name), said, units, task, disagreement)
        except Fault as fault:
            sha256 = str(name).removeprefix(metadata_table.HASH) if WHOLE.fullmatch(str(name)) else ""
            refused.append(Refused(called(int(said.index[0]), sha256), str(fault)))
    new = pd.DataFrame(rows, columns=list(COLUMNS))
    return Corrections(new, apply(units[units["unit_id"].isin(new["unit_id"])], new), refused)


def admitted(folder: Path, hashes: set[str]) -> pd.DataFrame:
    """The units of the scans of these SHA-256, as they are read today, with their `batch`; one manifest at a time."""
    found = []
    for path in sorted(folder.glob("*/manifest.csv")):
        manifest = read_manifest(path)
        found.append(manifest[manifest["sha256"].isin(hashes)].assign(batch=path.parent.name))
    units = pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=["unit_id", "sha256"])
    return apply(units, given(folder))


def given(folder: Path) -> pd.DataFrame:
    """Every admitted correction of a task, oldest first, with the `batch` that brought it."""
    tables = [
        pd.read_csv(path, dtype=TEXT).fillna(dict.fromkeys(TEXT, "")).assign(batch=path.parent.name)
        for path in sorted(folder.glob(f"*/{NAME}"))
    ]
    if not tables:
        return pd.DataFrame(columns=[*COLUMNS, "batch"])
    return pd.concat(tables, ignore_index=True).sort_values(["labelled_at", "batch"], kind="stable", ignore_index=True)


def apply(manifest: pd.DataFrame, corrected: pd.DataFrame) -> pd.DataFrame:
    """A manifest (or some columns of it) with the newest correction of each unit; it changes nobody's side."""
    last = corrected.drop_duplicates("unit_id", keep="last").set_index("unit_id")
    mine = manifest["unit_id"].isin(last.index) if len(last) else pd.Series(False, manifest.index)
    if not mine.any():
        return manifest
    units = manifest.loc[mine, "unit_id"]
    named = [name for name in SAID if name in manifest]
    return manifest.assign(**{name: manifest[name].where(~mine, units.map(last[name])) for name in named})


def history(folder: Path, key: str) -> list[dict[str, str]]:
    """Who said what of a unit when, oldest first: `key` is a unit's name, or (the start of) the SHA-256 of its scan.

    A step: unit, sha256, at, who, truth, from ("" when it was first labelled), to, batch. Empty if nothing has that
    name.
    """
    if len(key) < SHORTEST:
        raise Fault(f"{len(key)} characters are too few for a scan; give at least {SHORTEST} of its SHA-256")
    steps = []
    for path in sorted(folder.glob("*/manifest.csv")):
        manifest = read_manifest(path)
        for unit in _named(manifest, key).to_dict("records"):
            steps.append(_step(unit, "", path.parent.name))
    units = {step["unit"] for step in steps}
    changes = given(folder)
    for row in changes[changes["unit_id"].isin(units)].to_dict("records"):
        steps.append(_step(row, str(row["was"]), str(row["batch"])))
    return sorted(steps, key=lambda step: (step["unit"], step["from"] != "", step["at"]))


def _named(manifest: pd.DataFrame, key: str) -> pd.DataFrame:
    plain = key.removeprefix(metadata_table.HASH)
    return manifest[(manifest["unit_id"] == key) | manifest["sha256"].str.startswith(plain)]


def _step(row: Mapping[Any, Any], before: str, batch: str) -> dict[str, str]:
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


def _corrected(
    name: str, said: pd.DataFrame, units: pd.DataFrame, task: Task, disagreement: Disagreement
) -> Iterator[dict[str, Any]]:
    """One row for each unit that the rows of one scan speak of."""
    if not WHOLE.fullmatch(name):
        raise Fault("is not the whole SHA-256 of a scan, 64 of the digits 0-9 and a-f")
    scan = units[units["sha256"] == name.removeprefix(metadata_table.HASH)]
    if scan.empty:
        raise Fault(f"is no admitted scan of {task.name}; `oncoloop data history` knows those that are")
    told: dict[str, dict[str, str]] = {}
    for slice_, heard in said.groupby("slice", sort=True):
        chosen = metadata_table.resolve(heard, disagreement)
        mine = scan if slice_ == "" else scan[scan["slice"].astype(int).astype(str) == slice_]
        if mine.empty:
            raise Fault("names in the column slice no admitted slice of its scan; they are counted from 0")
        if told.keys() & set(mine["unit_id"]):
            raise Fault("is corrected twice for one slice; keep one of the rows")
        told |= dict.fromkeys(mine["unit_id"], chosen)
    for unit in scan[scan["unit_id"].isin(told)].to_dict("records"):
        yield _row(unit, told[unit["unit_id"]], task)


def _row(unit: Mapping[Any, Any], said: dict[str, str], task: Task) -> dict[str, Any]:
    missing = [name for name in NEEDED if not said[name]]
    if missing:
        raise Fault(f"is corrected without {' and '.join(missing)}; a correction says what, who, when and how known")
    odd = [
        name for name, known in (("label", task.classes), ("truth", metadata_table.TRUTHS)) if said[name] not in known
    ]
    if odd:
        raise Fault(f"has in the column {' and '.join(odd)} what {task.name} does not know; mend the cell")
    _silent(said)
    if said["patient_id"] and keys.pseudonym(said["patient_id"]) != unit["patient"]:
        raise Fault("belongs to another patient than the row says; look whether the hash is the right one")
    at = _moment(said["labelled_at"])
    if metadata_table.strength(said["truth"]) > metadata_table.strength(unit["truth"]):
        raise Fault(f"is known by {unit['truth']}, which {said['truth']} does not correct")
    if (said["label"], said["truth"]) == (unit["label"], unit["truth"]):
        raise Fault(f"is {unit['label']} by {unit['truth']} already")
    if _dated(unit["labelled_at"]) and at <= _moment(str(unit["labelled_at"])):
        raise Fault(f"is corrected as of {at}, and its present label is not older ({unit['labelled_at']})")
    lesion = pseudonyms.number(said["lesion_mm"], "lesion_mm") if said["lesion_mm"] else unit["lesion_mm"]
    kept = {name: unit[name] for name in ("unit_id", "sha256", "patient")}
    new = {name: said[name] for name in ("label", "truth", "labeller")}
    stage = said["stage"] or unit["stage"]
    return kept | new | {"was": unit["label"], "labelled_at": at, "stage": stage, "lesion_mm": lesion}


def _silent(said: dict[str, str]) -> None:
    """Fault where a text that is kept repeats who it is of."""
    secrets = identifiers.of_row(said)
    for text, column in identifiers.cells([said]).items():
        if identifiers.betrays(text, secrets, words=False):
            raise Fault(f"repeats in the column {column} the patient's name or number; mend the cell")


def _dated(text: str) -> bool:
    """Is it a time at all? What was said at no known time may be corrected at any."""
    return bool(re.match(r"\d{4}-\d\d-\d\d", text))


def _moment(text: str) -> str:
    """A time as UTC to the second, so that times sort as text. Fault if it is none or lies ahead."""
    try:
        told = datetime.fromisoformat(text)
        told = told.replace(tzinfo=UTC) if told.tzinfo is None else told.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise Fault("has in the column labelled_at no time such as 2026-01-31T09:00:00Z; mend the cell") from error
    if told > datetime.now(UTC) + timedelta(days=1):
        raise Fault("has in the column labelled_at a time that lies in the future; mend the cell")
    return told.isoformat(timespec="seconds").replace("+00:00", "Z")
