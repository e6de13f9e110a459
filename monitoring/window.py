"""A window: the predictions of a span of time, read from the journal alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pandas as pd

from lineage import accounts
from lineage.errors import Fault
from lineage.record import journal

DESCRIPTION_PREFIX = "d_"  # how the journal marks the columns of a description
OWN_CLUSTER = "unknown patient "


def window(task: str, hours: float | None = None, since: str | None = None, release: str | None = None) -> pd.DataFrame:
    """The task's predictions of the last `hours`, or from `since` (UTC, ISO 8601) on, oldest first.

    One row per prediction. The description stands under the names that the reference uses (no prefix), `embedding`
    holds arrays. The warm-up scans of a release's check are left out. With `release` only its answers count: scores
    and distances mean nothing across releases.
    """
    if hours is not None and since is not None:
        raise Fault("a window is told either by `hours` or by `since`, not by both")
    start = since if hours is None else _before(hours)
    rows = journal.rows(task=task, since=start, release=release)
    rows = rows[rows["actor"] != accounts.CHECK] if len(rows) else rows
    named = {
        name: name.removeprefix(DESCRIPTION_PREFIX)
        for name in rows.columns
        if name.startswith(DESCRIPTION_PREFIX) and name.removeprefix(DESCRIPTION_PREFIX) not in rows.columns
    }
    return with_clusters(rows.rename(columns=named)).sort_values("at", kind="stable").reset_index(drop=True)


def clusters(rows: pd.DataFrame) -> int:
    """How many independent patients the rows come from."""
    return int(rows["cluster"].nunique())


def with_clusters(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with a cluster each: where the patient is unknown, a row stands for itself."""
    named = rows["cluster"].fillna("").astype(str)
    alone = pd.Series([f"{OWN_CLUSTER}{place}" for place in range(len(rows))], index=rows.index, dtype=object)
    return rows.assign(cluster=named.where(named != "", alone))


def _before(hours: float | None) -> str | None:
    if hours is None:
        return None
    return (datetime.now(UTC) - timedelta(hours=hours)).strftime("%Y-%m-%dT%H:%M:%SZ")
