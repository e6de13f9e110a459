"""Where a patient is: batches, versions, models, releases, predictions, refused batches and the inbox."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from data.batch import manifest, metadata_table, withdrawal
from lineage import json_files, keys
from lineage.errors import Fault
from lineage.record import journal, ledger
from lineage.record.ledger import Event
from pipelines.workspace import git

log = logging.getLogger(__name__)

BEGUN = "withdrawal.begun"


@dataclass(frozen=True)
class Held:
    """What holds a patient.

    `batches` as (task, batch), those that correct the patient's labels among them; `versions` of the data; `models` as
    task/version that learned from the patient or were judged on them; `releases` of those; `predictions` by id and the
    tasks `answered` by them; `quarantined` batches; `inbox` folders, which are the user's; `relations`: how many other
    patients share each cluster with this one.
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


def find(patient: str) -> Held:
    """Look for a patient, by the identity in the scans or by the pseudonym. Fault if nothing holds the patient."""
    tables, aside = manifests("data/batches/*/*"), manifests("data/quarantine/*")
    name = _name(patient, [*tables.values(), *aside.values()])
    own = [table[_own(table, name)] for table in tables.values()]
    units = {unit for rows in own for unit in rows["unit_id"]}
    holding = [folder for folder in tables if any(_speaks(table, name, units) for table in _said(folder))]
    ancestors = {(folder.parent.name, each) for folder in holding for each in chain(folder)}
    models = _models(ancestors)
    answers = journal.predictions(name)
    return Held(
        patient=name,
        batches=[(folder.parent.name, folder.name) for folder in holding],
        versions=_versions({f"{task}/{batch}" for task, batch in ancestors}),
        models=models,
        releases=_releases(set(models)),
        predictions=[answer["id"] for answer in answers],
        answered=sorted({answer["task"] for answer in answers}),
        quarantined=[folder.name for folder, table in aside.items() if _own(table, name).any()],
        inbox=_inbox(name, {sha256 for rows in own for sha256 in rows["sha256"]}),
        relations=_relations([tables[folder] for folder in holding], name),
    )


def event_of(name: str, kind: str = BEGUN) -> Event | None:
    """The ledger's event that a patient's withdrawal began (or is done), if it did."""
    found = ledger.events(kind=kind, subject=withdrawal.mark(name))
    return found[-1] if found else None


def chain(folder: Path) -> list[str]:
    """A batch and those whose successor it is: the patients of a batch were in each of them."""
    record = json_files.read_json(folder / "record.json")
    return [*record.get("predecessors", []), folder.name]


def manifests(pattern: str) -> dict[Path, pd.DataFrame]:
    """The manifests of the folders that a pattern finds in the workspace."""
    return {path.parent: manifest.read_manifest(path) for path in sorted(Path.cwd().glob(f"{pattern}/manifest.csv"))}


def _name(patient: str, tables: list[pd.DataFrame]) -> str:
    """The pseudonym of somebody who is told by identity or by pseudonym."""
    seen = {name for table in tables for name in (*table["patient"], *table["cluster"])} - {""}
    known = (keys.pseudonym(patient), patient)
    for name in known:
        if name in seen or journal.predictions(name) or event_of(name):
            return name
    raise Fault("no batch and no prediction holds this patient; give the patient id as in the scans, or the pseudonym")


def _own(table: pd.DataFrame, name: str) -> pd.Series[bool]:
    return (table["patient"] == name) | (table["cluster"] == name)


def _speaks(table: pd.DataFrame, name: str, units: set[str]) -> bool:
    return bool((_own(table, name) | table["unit_id"].isin(units)).any())


def _said(folder: Path) -> list[pd.DataFrame]:
    """The tables of a batch that say whose scans they speak of."""
    tables = [pd.read_csv(path, dtype=str, keep_default_na=False) for path in folder.glob("*.csv")]
    return [table.reindex(columns=["unit_id", "patient", "cluster"], fill_value="") for table in tables]


def _models(batches: set[tuple[str, str]]) -> list[str]:
    logged = ledger.events(kind="model.logged")
    held = [e for e in logged if any((e.subject, batch) in batches for batch in e.payload["batches"])]
    return [f"{event.subject}/{event.payload['version']}" for event in held]


def _releases(models: set[str]) -> list[str]:
    built = ledger.events(kind="release.built")
    return [e.subject for e in built if models & {f"{task}/{v}" for task, v in e.payload["tasks"].items()}]


def _versions(batches: set[str]) -> list[str]:
    told = [event.payload["data_version"] for event in ledger.events(kind="batch.admitted")]
    told += [event.payload["data_version"] for event in ledger.events(kind="model.logged")]
    return [version for version in dict.fromkeys(told) if git.batches_of(version) & batches]


def _relations(tables: list[pd.DataFrame], name: str) -> dict[str, int]:
    """Other patients in the clusters that hold the patient: near relations, which stay."""
    rows = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=["patient", "cluster"])
    shared = rows[rows["cluster"].isin(set(rows.loc[rows["patient"] == name, "cluster"])) & (rows["patient"] != name)]
    counted = shared.groupby("cluster")["patient"].nunique()
    return {str(cluster): int(count) for cluster, count in counted.items()}


def _inbox(name: str, scans: set[str]) -> list[str]:
    """The folders of the inbox that still hold the patient, or a correction of one of the patient's scans."""
    found = []
    for path in sorted(Path("inbox").glob("*/metadata.csv")):
        try:
            table = manifest.metadata(path.parent)
        except Fault as fault:
            log.warning("inbox/%s could not be searched: %s", path.parent.name, fault)
            continue
        identities = {row["patient_id"] or row["group"] for row in table.to_dict("records")}
        identities |= {f"group {group}" for group in table["group"] if group}
        corrected = set(table["file_name"].str.removeprefix(metadata_table.HASH)) & scans
        if corrected or name in {keys.pseudonym(identity) for identity in identities}:
            found.append(str(path.parent))
    return found
