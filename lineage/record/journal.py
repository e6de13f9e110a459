"""The journal: one row per prediction with hashes, description, output and engine; no pixels and no identity."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lineage.errors import Fault
from lineage.fingerprint import canonical, hash_pseudonym
from lineage.record import database
from lineage.record.prediction import JournalRow, fields_of

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["JSON_COLUMNS", "JournalRow", "append", "count", "get", "predictions", "rows"]

JSON_COLUMNS = tuple(field.name for field in fields_of(JournalRow) if field.is_json)
NUMBER_COLUMNS = tuple(field.name for field in fields_of(JournalRow) if field.plain_type is float)


def append(row: JournalRow, again: bool = False) -> bool:
    """Write one prediction; it is on disk when this returns. Fault if that fails: then no answer may be given.

    With `again` (a repeated request) a row of the same id may exist. It stays as it is, and the result is False.
    """
    values = vars(row).copy()
    values |= {name: canonical(values[name]) for name in JSON_COLUMNS}
    values["cluster"] = hash_pseudonym(row.cluster) if row.cluster else ""
    for name in NUMBER_COLUMNS:
        values[name] = None if values[name] is None else float(values[name])
    pending = _PendingRow(values, again)
    _write_in_turn(pending)
    return not pending.was_stored


@dataclass
class _PendingRow:
    """A row to be written; `error` is why that failed, `was_stored` says that an earlier try had written it."""

    values: dict[str, Any]
    is_retry: bool = False
    was_stored: bool = False
    is_done: bool = False
    error: BaseException | None = None


_pending: list[_PendingRow] = []  # of this process
_pending_lock, _write_lock = threading.Lock(), threading.Lock()


def _write_in_turn(row: _PendingRow) -> None:
    """Write a row together with all rows that came during the previous write: one transaction and one sync."""
    with _pending_lock:
        _pending.append(row)
    with _write_lock:
        if not row.is_done:
            with _pending_lock:
                batch, _pending[:] = list(_pending), []
            _write_together(batch)
    if row.error is not None:
        raise row.error


def _write_together(rows: list[_PendingRow]) -> None:
    try:
        _insert(rows)
    except BaseException as error:  # every thread that waits for its row raises it
        for row in rows:
            row.error = None if row.was_stored else error
        if not isinstance(error, Exception):
            raise
    finally:
        for row in rows:
            row.is_done = True


def _insert(rows: list[_PendingRow]) -> None:
    """Insert the rows in one transaction. If a row exists already the transaction fails; it is repeated without it."""
    first_by_id: dict[str, _PendingRow] = {}
    for row in rows:
        if first_by_id.setdefault(row.values["id"], row) is not row and row.is_retry:
            row.was_stored = True
    new_rows = [row for row in rows if not row.was_stored]
    try:
        with database.writing() as connection:
            connection.execute(database.journal.insert(), [row.values for row in new_rows])
    except Fault:
        for row in new_rows:
            row.was_stored = row.is_retry and _is_stored(row.values["id"])
        remaining = [row for row in new_rows if not row.was_stored]
        if len(remaining) == len(new_rows):
            raise
        if remaining:
            _insert(remaining)


def _is_stored(prediction_id: str) -> bool:
    table = database.journal
    return bool(database.fetch(table.select().with_only_columns(table.c.id).where(table.c.id == prediction_id)))


def get(prediction_id: str) -> JournalRow:
    """One prediction; its `cluster` is the hash of the pseudonym. Fault if there is none with this id."""
    records = database.fetch(database.journal.select().where(database.journal.c.id == prediction_id))
    if not records:
        raise Fault(f"the journal has no prediction {prediction_id!r}; `oncoloop status` lists the latest")
    return JournalRow(**_decoded(records[0]))


def rows(
    task: str | None = None,
    since: str | None = None,
    until: str | None = None,
    release: str | None = None,
    limit: int | None = None,
    shadows: bool = False,
) -> pd.DataFrame:
    """Predictions, oldest first; `since` is included, `until` excluded; with `limit` only that many of the newest.

    Without `shadows` the answers that users received, with it only those of shadow releases. The description is
    expanded into columns with the prefix `d_`; `embedding` and `probabilities` hold arrays.
    """
    import numpy as np
    import pandas as pd

    table = database.journal
    query = table.select().where((table.c.shadows != "") if shadows else (table.c.shadows == ""))
    query = query.order_by(table.c.number.desc())
    query = query if task is None else query.where(table.c.task == task)
    query = query if since is None else query.where(table.c.at >= since)
    query = query if until is None else query.where(table.c.at < until)
    query = query if release is None else query.where(table.c.release == release)
    query = query if limit is None else query.limit(limit)
    records = [_decoded(row) for row in reversed(database.fetch(query))]
    for record in records:
        description = record.pop("description")
        record["embedding"] = np.asarray(record["embedding"], dtype=np.float32)
        record["probabilities"] = np.asarray(record["probabilities"], dtype=np.float64)
        record.update({f"d_{name}": value for name, value in description.items()})
    names = [column.name for column in table.columns if column.name not in ("number", "description")]
    return pd.DataFrame(records) if records else pd.DataFrame(columns=names)


def predictions(pseudonym: str) -> list[dict[str, Any]]:
    """The `id` and `task` of every prediction of one patient, including shadow releases, oldest first."""
    table = database.journal
    query = table.select().with_only_columns(table.c.id, table.c.task).order_by(table.c.number)
    return database.fetch(query.where(table.c.cluster == hash_pseudonym(pseudonym)))


def count() -> int:
    """The number of predictions that users received."""
    with database.reading() as connection:
        return int(connection.exec_driver_sql("SELECT count(*) FROM journal WHERE shadows = ''").scalar_one())


def _decoded(row: dict[str, Any]) -> dict[str, Any]:
    fields = {name: value for name, value in row.items() if name != "number"}
    return fields | {name: json.loads(fields[name]) for name in JSON_COLUMNS}
