"""What a withdrawn patient leaves behind: a hash, and the tables that go on without the patient's rows."""

from __future__ import annotations

import re

import pandas as pd

from lineage.patient_hash import mark

__all__ = ["hide_withdrawn_clusters", "changed_row", "affected_rows", "mark", "mark_clusters", "withdrawn_pseudonyms", "rows_of_withdrawn", "stand_in"]

PSEUDONYM = re.compile(r"P[0-9a-f]{12}")
MARK = re.compile(r"[0-9a-f]{64}")
STAND_IN = "withdrawn-"


def stand_in(pseudonym: str) -> str:
    """The name under which the cohorts keep a withdrawn cluster's row, so that the table still only grows."""
    return _blind(mark(pseudonym))


def marked(cohorts: pd.DataFrame) -> pd.DataFrame:
    """The cohorts with every cluster under its mark; withdrawn ones stay under their stand-ins."""
    return cohorts.assign(cluster=[_mark_of(str(cluster)) for cluster in cohorts["cluster"]])


def named(text: str, marks: set[str]) -> set[str]:
    """The pseudonyms in a text that belong to withdrawn patients."""
    return {name for name in set(PSEUDONYM.findall(text)) if mark(name) in marks}


def concerned(manifest: pd.DataFrame, marks: set[str]) -> pd.Series[bool]:
    """Which rows of a manifest (n) are a withdrawn patient's, or share the stored file of such a row."""
    names = set(manifest["patient"]) | set(manifest["cluster"])
    gone = {name for name in names if mark(str(name)) in marks}
    own = manifest["patient"].isin(gone) | manifest["cluster"].isin(gone)
    return own | manifest["stored_sha256"].isin(set(manifest.loc[own, "stored_sha256"]))


def blinded(cohorts: pd.DataFrame, marks: set[str]) -> pd.DataFrame:
    """The cohorts with each withdrawn cluster under its stand-in; side, epoch and stratum stay as they were dealt."""
    table = marked(cohorts)
    return table.assign(cluster=[_blind(each) if each in marks else each for each in table["cluster"]])


def changed_row(before: pd.DataFrame, now: pd.DataFrame) -> str | None:
    """The first old row of the cohorts that `now` lacks or tells otherwise, in words; None where it only grew.

    A cluster that stands under its mark now, or its stand-in, has not changed.
    """
    if len(now) < len(before):
        return f"only {len(now)} of {len(before)} rows are left"
    for old, new in zip(before.to_dict("records"), now.to_dict("records"), strict=False):
        key = _mark_of(str(old["cluster"]))
        allowed = (old["cluster"], key, _blind(key))
        wrong = [name for name in old if name != "cluster" and str(old[name]) != str(new[name])]
        if new["cluster"] not in allowed:
            return f"the row of {old['cluster']} is now that of {new['cluster']}"
        if wrong:
            return f"{old['cluster']}: {wrong[0]} was {old[wrong[0]]!r} and is now {new[wrong[0]]!r}"
    return None


def rows_of(table: pd.DataFrame, units: set[str], marks: set[str]) -> pd.Series[bool]:
    """Which rows of any table (n) speak of a withdrawn patient: by unit, or by the name of patient or cluster."""
    found = pd.Series(False, table.index)
    if "unit_id" in table:
        found |= table["unit_id"].isin(units)
    for column in ("patient", "cluster"):
        if column in table:
            found |= table[column].map(lambda name: mark(str(name)) in marks)
    return found


def _mark_of(cluster: str) -> str:
    """The mark of what the cohorts call a cluster: tables of before called it by its pseudonym."""
    return cluster if MARK.fullmatch(cluster) or cluster.startswith(STAND_IN) else mark(cluster)


def _blind(mark: str) -> str:
    return mark if mark.startswith(STAND_IN) else STAND_IN + mark[:12]
