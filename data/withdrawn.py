"""What a withdrawn patient leaves behind: a hash, and the tables that go on without the patient's rows."""

from __future__ import annotations

import re

import pandas as pd

from lineage.fingerprint import text_sha256

PSEUDONYM = re.compile(r"P[0-9a-f]{12}")
STAND_IN = "withdrawn-"


def mark(pseudonym: str) -> str:
    """What the ledger keeps of a withdrawn patient: the SHA-256 of the pseudonym, from which nobody gets it back."""
    return text_sha256(f"withdrawn {pseudonym}")


def stand_in(pseudonym: str) -> str:
    """The name under which the cohorts keep a withdrawn cluster's row, so that the table still only grows."""
    return STAND_IN + mark(pseudonym)[:12]


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
    names = [stand_in(name) if mark(name) in marks else name for name in cohorts["cluster"]]
    return cohorts.assign(cluster=names)


def changed_row(before: pd.DataFrame, now: pd.DataFrame) -> str | None:
    """The first old row of the cohorts that `now` lacks or tells otherwise, in words; None where it only grew.

    A cluster that stands under its stand-in has not changed.
    """
    if len(now) < len(before):
        return f"only {len(now)} of {len(before)} rows are left"
    for old, new in zip(before.to_dict("records"), now.to_dict("records"), strict=False):
        allowed = (old["cluster"], stand_in(str(old["cluster"])))
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
