"""Withdrawn patients in tables: find their rows, and replace their clusters by stand-ins."""

from __future__ import annotations

import re

import pandas as pd

from lineage.fingerprint import hash_pseudonym

__all__ = [
    "affected_rows",
    "changed_row",
    "hash_pseudonym",
    "hide_withdrawn_clusters",
    "mark_clusters",
    "rows_of_withdrawn",
    "stand_in",
    "withdrawn_pseudonyms",
]

PSEUDONYM = re.compile(r"P[0-9a-f]{12}")
MARK = re.compile(r"[0-9a-f]{64}")
STAND_IN = "withdrawn-"


def stand_in(pseudonym: str) -> str:
    """The name of a withdrawn cluster in the cohorts table. The row stays, because the table is append-only."""
    return _stand_in_of(hash_pseudonym(pseudonym))


def mark_clusters(cohorts: pd.DataFrame) -> pd.DataFrame:
    """The cohorts table with every cluster replaced by its mark. Stand-ins of withdrawn clusters stay."""
    return cohorts.assign(cluster=[_mark_of(str(cluster)) for cluster in cohorts["cluster"]])


def withdrawn_pseudonyms(text: str, marks: set[str]) -> set[str]:
    """The pseudonyms of withdrawn patients that occur in a text."""
    return {name for name in set(PSEUDONYM.findall(text)) if hash_pseudonym(name) in marks}


def affected_rows(manifest: pd.DataFrame, marks: set[str]) -> pd.Series[bool]:
    """Which rows of a manifest (n) belong to a withdrawn patient, or share the stored file of such a row."""
    names = set(manifest["patient"]) | set(manifest["cluster"])
    withdrawn = {name for name in names if hash_pseudonym(str(name)) in marks}
    is_withdrawn = manifest["patient"].isin(withdrawn) | manifest["cluster"].isin(withdrawn)
    return is_withdrawn | manifest["stored_sha256"].isin(set(manifest.loc[is_withdrawn, "stored_sha256"]))


def hide_withdrawn_clusters(cohorts: pd.DataFrame, marks: set[str]) -> pd.DataFrame:
    """The cohorts table with withdrawn clusters replaced by stand-ins. Side, epoch and stratum do not change."""
    table = mark_clusters(cohorts)
    return table.assign(
        cluster=[_stand_in_of(cluster) if cluster in marks else cluster for cluster in table["cluster"]]
    )


def changed_row(before: pd.DataFrame, after: pd.DataFrame) -> str | None:
    """A message on the first old row of the cohorts table that `after` lacks or changes; None if rows were only added.

    A cluster replaced by its mark or by its stand-in counts as unchanged.
    """
    if len(after) < len(before):
        return f"only {len(after)} of {len(before)} rows are left"
    for old, new in zip(before.to_dict("records"), after.to_dict("records"), strict=False):
        cluster_mark = _mark_of(str(old["cluster"]))
        allowed_names = (old["cluster"], cluster_mark, _stand_in_of(cluster_mark))
        column = next((name for name in old if name != "cluster" and str(old[name]) != str(new[name])), None)
        if new["cluster"] not in allowed_names:
            return f"the row of {old['cluster']} is now the row of {new['cluster']}"
        if column is not None:
            return f"{old['cluster']}: {column} was {old[column]!r} and is now {new[column]!r}"
    return None


def rows_of_withdrawn(table: pd.DataFrame, units: set[str], marks: set[str]) -> pd.Series[bool]:
    """Which rows of any table (n) belong to a withdrawn patient: by unit, patient or cluster."""
    is_withdrawn = pd.Series(False, table.index)
    if "unit_id" in table:
        is_withdrawn |= table["unit_id"].isin(units)
    for column in ("patient", "cluster"):
        if column in table:
            is_withdrawn |= table[column].map(lambda name: hash_pseudonym(str(name)) in marks)
    return is_withdrawn


def _mark_of(cluster: str) -> str:
    """The mark of a cluster as named in the cohorts table. Old tables name it by its pseudonym."""
    return cluster if MARK.fullmatch(cluster) or cluster.startswith(STAND_IN) else hash_pseudonym(cluster)


def _stand_in_of(cluster_mark: str) -> str:
    return cluster_mark if cluster_mark.startswith(STAND_IN) else STAND_IN + cluster_mark[:12]
