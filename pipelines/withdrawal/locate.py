"""Where a patient occurs: batches, versions, models, releases, predictions, refused batches and the inbox."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from data.batch import manifest, metadata_table, withdrawn_rows
from lineage import json_files, keys
from lineage.errors import Fault
from lineage.record import journal, ledger
from lineage.record.events import EventKind
from lineage.record.ledger import Event
from pipelines.workspace import git

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PatientRecords:
    """Everything that holds data of a patient.

    `patient`: the pseudonym. `batches`: (task, batch), with those that correct the patient's labels. `versions`: of
    the data. `models`: task/version of the models that learned from the patient or were judged on the patient.
    `releases`: those of these models. `predictions`: their ids. `answered`: the tasks of these predictions.
    `quarantined`: refused batches. `inbox`: folders of the inbox, which belong to the user.
    `relations`: for each of the patient's clusters, the number of other patients in it.
    """

    patient: str
    batches: list[tuple[str, str]]
    versions: list[str]
    models: list[str]
    releases: list[str]
    predictions: list[str]
    answered: list[str]
    quarantined: list[str]
    inbox: list[str]
    relations: dict[str, int]


def locate_patient(patient: str) -> PatientRecords:
    """Look for a patient by the identity in the scans or by the pseudonym. Fault if nothing holds the patient."""
    admitted_tables, quarantined_tables = read_manifests("data/batches/*/*"), read_manifests("data/quarantine/*")
    name = _pseudonym(patient, [*admitted_tables.values(), *quarantined_tables.values()])
    patient_rows = [table[_is_patient(table, name)] for table in admitted_tables.values()]
    units = {unit for rows in patient_rows for unit in rows["unit_id"]}
    folders = [
        folder
        for folder in admitted_tables
        if any(_mentions_patient(table, name, units) for table in _unit_tables(folder))
    ]
    ancestors = {(folder.parent.name, batch) for folder in folders for batch in batch_ancestry(folder)}
    models = _models(ancestors)
    predictions = journal.predictions(name)
    return PatientRecords(
        patient=name,
        batches=[(folder.parent.name, folder.name) for folder in folders],
        versions=_versions({f"{task}/{batch}" for task, batch in ancestors}),
        models=models,
        releases=_releases(set(models)),
        predictions=[prediction["id"] for prediction in predictions],
        answered=sorted({prediction["task"] for prediction in predictions}),
        quarantined=[folder.name for folder, table in quarantined_tables.items() if _is_patient(table, name).any()],
        inbox=_inbox(name, {sha256 for rows in patient_rows for sha256 in rows["sha256"]}),
        relations=_relations([admitted_tables[folder] for folder in folders], name),
    )


def withdrawal_event(name: str) -> Event | None:
    """The newest ledger event of the beginning of a patient's withdrawal. None if there is none."""
    events = ledger.events(kind=EventKind.WITHDRAWAL_BEGUN, subject=withdrawn_rows.hash_pseudonym(name))
    return events[-1] if events else None


def batch_ancestry(folder: Path) -> list[str]:
    """The predecessors of a batch, oldest first, and the batch. Each of them held all patients of the batch."""
    record = json_files.read_json(folder / "record.json")
    return [*record.get("predecessors", []), folder.name]


def read_manifests(pattern: str) -> dict[Path, pd.DataFrame]:
    """The manifests of the workspace's folders that match a pattern."""
    return {path.parent: manifest.read_manifest(path) for path in sorted(Path.cwd().glob(f"{pattern}/manifest.csv"))}


def _pseudonym(patient: str, tables: list[pd.DataFrame]) -> str:
    """The pseudonym of a patient who was given by identity or by pseudonym."""
    names = {name for table in tables for name in (*table["patient"], *table["cluster"])} - {""}
    for name in (keys.pseudonym(patient), patient):
        if name in names or journal.predictions(name) or withdrawal_event(name):
            return name
    raise Fault("no batch and no prediction holds this patient; give the patient id as in the scans, or the pseudonym")


def _is_patient(table: pd.DataFrame, name: str) -> pd.Series[bool]:
    return (table["patient"] == name) | (table["cluster"] == name)


def _mentions_patient(table: pd.DataFrame, name: str, units: set[str]) -> bool:
    return bool((_is_patient(table, name) | table["unit_id"].isin(units)).any())


def _unit_tables(folder: Path) -> list[pd.DataFrame]:
    """The tables of a batch, reduced to unit, patient and cluster."""
    tables = [pd.read_csv(path, dtype=str, keep_default_na=False) for path in folder.glob("*.csv")]
    return [table.reindex(columns=["unit_id", "patient", "cluster"], fill_value="") for table in tables]


def _models(batches: set[tuple[str, str]]) -> list[str]:
    logged = ledger.events(kind=EventKind.MODEL_LOGGED)
    events = [event for event in logged if any((event.subject, batch) in batches for batch in event.payload["batches"])]
    return [f"{event.subject}/{event.payload['version']}" for event in events]


def _releases(models: set[str]) -> list[str]:
    return [
        event.subject
        for event in ledger.events(kind=EventKind.RELEASE_BUILT)
        if models & {f"{task}/{version}" for task, version in event.payload["tasks"].items()}
    ]


def _versions(batches: set[str]) -> list[str]:
    events = [*ledger.events(kind=EventKind.BATCH_ADMITTED), *ledger.events(kind=EventKind.MODEL_LOGGED)]
    versions = dict.fromkeys(event.payload["data_version"] for event in events)
    return [version for version in versions if git.batches_of(version) & batches]


def _relations(tables: list[pd.DataFrame], name: str) -> dict[str, int]:
    """The number of other patients in each of the patient's clusters. They are relatives, and stay."""
    rows = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=["patient", "cluster"])
    shared = rows[rows["cluster"].isin(set(rows.loc[rows["patient"] == name, "cluster"])) & (rows["patient"] != name)]
    counts = shared.groupby("cluster")["patient"].nunique()
    return {str(cluster): int(count) for cluster, count in counts.items()}


def _inbox(name: str, scans: set[str]) -> list[str]:
    """The folders of the inbox that still hold the patient, or a correction of one of the patient's scans."""
    folders = []
    for path in sorted(Path("inbox").glob("*/metadata.csv")):
        try:
            table = manifest.read_metadata(path.parent)
        except Fault as fault:
            log.warning("inbox/%s could not be searched: %s", path.parent.name, fault)
            continue
        identities = {row["patient_id"] or row["group"] for row in table.to_dict("records")}
        identities |= {f"group {group}" for group in table["group"] if group}
        corrected_scans = set(table["file_name"].str.removeprefix(metadata_table.HASH_PREFIX)) & scans
        if corrected_scans or name in {keys.pseudonym(identity) for identity in identities}:
            folders.append(str(path.parent))
    return folders
