"""A window: the predictions of a time span, read from the journal."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pandas as pd

from lineage import accounts
from lineage.errors import Fault
from lineage.record import journal

DESCRIPTION_PREFIX = "d_"  # of the description columns in the journal
OWN_CLUSTER = "unknown patient "


def read_window(
    task: str, hours: float | None = None, since: str | None = None, release: str | None = None
) -> pd.DataFrame:
    """The task's predictions of the last `hours`, or from `since` (UTC, ISO 8601) on, oldest first.

    One row per prediction. The description columns have the names of the reference (no prefix), `embedding` has
    arrays. The warm-up scans of a release's check are left out. With `release` only its answers are read: scores and
    distances are not comparable between releases. Raises Fault if both `hours` and `since` are set.
    """
    if hours is not None and since is not None:
        raise Fault("a window is defined by `hours` or by `since`, not by both")
    start = since if hours is None else _time_before(hours)
    rows = journal.rows(task=task, since=start, release=release)
    rows = rows[rows["actor"] != accounts.CHECK_ACCOUNT] if len(rows) else rows
    plain_names = {
        name: name.removeprefix(DESCRIPTION_PREFIX)
        for name in rows.columns
        if name.startswith(DESCRIPTION_PREFIX) and name.removeprefix(DESCRIPTION_PREFIX) not in rows.columns
    }
    return with_clusters(rows.rename(columns=plain_names)).sort_values("at", kind="stable").reset_index(drop=True)


def count_patients(rows: pd.DataFrame) -> int:
    """The number of independent patients in the rows."""
    return int(rows["cluster"].nunique())


def with_clusters(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with a cluster for each; a row of an unknown patient is its own cluster."""
    cluster_names = rows["cluster"].fillna("").astype(str)
    own_names = pd.Series(
        [f"{OWN_CLUSTER}{row_number}" for row_number in range(len(rows))], index=rows.index, dtype=object
    )
    return rows.assign(cluster=cluster_names.where(cluster_names != "", own_names))


def _time_before(hours: float | None) -> str | None:
    if hours is None:
        return None
    return (datetime.now(UTC) - timedelta(hours=hours)).strftime("%Y-%m-%dT%H:%M:%SZ")
