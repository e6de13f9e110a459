"""The sites and scanners of admitted units as keyed hashes, and which of them have enough patients."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from data.batch.manifest import read_manifest
from lineage import json_files, paths, site_hash
from lineage.record import ledger
from lineage.record.events import EventKind

BATCHES = Path("data/batches")
NAMES = "site-names.json"  # in the state folder
COLUMNS = ("unit_id", "cluster", "site", "scanner", "institution_hash", "scanner_hash")


def read_sources(task: str, batches: Iterable[str]) -> pd.DataFrame:
    """One row per unit of these batches, with `site_key` and `scanner_key`.

    `site_key` is the hash of the site in the table, else of the institution in the header, else "". `scanner_key` is
    the hash of the scanner in the table, else of the header's. `institution_hash` and `scanner_hash` are the header's.
    """
    paths = [BATCHES / task / name / "manifest.csv" for name in sorted(batches)]
    tables = [read_manifest(path)[list(COLUMNS)] for path in paths if path.is_file()]
    units = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=list(COLUMNS), dtype=str)
    return units.assign(
        site_key=units["site"].map(site_hash.hash_site).where(units["site"] != "", units["institution_hash"]),
        scanner_key=units["scanner"].map(site_hash.hash_scanner).where(units["scanner"] != "", units["scanner_hash"]),
    )


def version_batches(task: str, version: str) -> list[str]:
    """The batches that a version was made from; all admitted ones for a version of before their names were recorded."""
    events = reversed(ledger.events(EventKind.MODEL_LOGGED, task))
    logged = next((event.payload for event in events if str(event.payload["version"]) == version), {})
    all_batches = sorted(path.parent.name for path in (BATCHES / task).glob("*/manifest.csv"))
    return list(logged.get("batches", all_batches))


def enough_patients(units: pd.DataFrame, is_positive: pd.Series[bool], clusters: int) -> bool:
    """Whether the units have at least this number of clusters with a positive, and with a negative unit."""
    sides = (units.loc[is_positive.loc[units.index], "cluster"], units.loc[~is_positive.loc[units.index], "cluster"])
    return min(side.nunique() for side in sides) >= clusters


def accepted_scanners(
    judged: pd.DataFrame, is_positive: pd.Series[bool], admitted: pd.DataFrame, clusters: int
) -> list[str]:
    """The hashes of the scanners of one site that have enough patients among its judged units.

    The only scanner of a site is judged with the site. A scanner has the hash of its name in the table, and those of
    its names in the headers of its `admitted` units.
    """
    keys = sorted(set(judged["scanner_key"]) - {""})
    sufficient = {
        key
        for key in keys
        if len(keys) == 1 or enough_patients(judged[judged["scanner_key"] == key], is_positive, clusters)
    }
    header_hashes = set(admitted.loc[admitted["scanner_key"].isin(sufficient), "scanner_hash"])
    return sorted((sufficient | header_hashes) - {""})


def institutions(site_key: str, admitted: pd.DataFrame) -> list[str]:
    """The institutions in the headers of a site's units; one that several sites share belongs to the largest share."""
    in_headers = admitted[admitted["institution_hash"] != ""]
    counts = in_headers.groupby(["institution_hash", "site_key"], sort=True).size()
    owners = {} if counts.empty else counts.groupby(level=0).idxmax().to_dict()
    owned = {str(institution) for institution, (_, owner) in owners.items() if owner == site_key}
    return sorted(owned - {site_key, ""})


def write_names() -> None:
    """Write the names of the sites in the workspace's tables for the pages of the desk."""
    json_files.write_json(paths.state_path(NAMES), site_names())


def site_names() -> dict[str, str]:
    """Hash -> name of every site that the tables of this workspace name."""
    names: set[str] = set()
    for path in sorted(BATCHES.glob("*/*/manifest.csv")):
        names |= set(read_manifest(path)["site"]) - {""}
    return {site_hash.hash_site(name): name for name in sorted(names)}
