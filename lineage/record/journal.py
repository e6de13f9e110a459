"""The journal: one row for each prediction. Hashes, description, output and engine; no pixels, no identity, no name."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lineage.errors import Fault
from lineage.fingerprint import canonical
from lineage.patient_hash import mark
from lineage.record import database

if TYPE_CHECKING:
    import pandas as pd

JSON_COLUMNS = ("inputs", "description", "embedding", "probabilities", "reasons", "slices", "engine")


@dataclass(frozen=True)
class JournalRow:
    """One prediction as it was answered or withheld.

    `cluster` says whose it is, "" where that is unknown: a pseudonym on the way in, of which the journal keeps the mark
    alone, so that what is read from it tells patients apart and names none. `inputs` are SHA-256 of the files,
    `description` the figures and facts of `data.scan.slice_features`, `embedding` the descriptor's vector,
    `probabilities` in the
    order of the task's classes, `answer` None if it was withheld, `score` the pooled positive score, `outcome` and
    `reasons` those of the serving gate, `map` a small PNG in base64,
    `shadows` the id of the answer behind which a shadow gave this one, empty for what somebody was told.
    """

    id: str
    at: str
    actor: str
    release: str
    task: str
    version: str
    cluster: str
    inputs: list[str]
    description: Mapping[str, float | str]
    embedding: list[float]
    probabilities: list[float]
    answer: str | None
    score: float | None
    outcome: str
    reasons: list[str]
    slices: list[dict[str, Any]]
    map: str
    engine: Mapping[str, Any]
    duration_ms: float
    shadows: str = ""


def append(row: JournalRow, again: bool = False) -> bool:
    """Write one prediction down, on disk when this returns. Fault if it can't be: then the answer is not given.

    With `again` a row of the same id may stand already, from an earlier try of the same request: it stays as it is,
    and False says so.
    """
    values = vars(row).copy()
    values |= {name: canonical(values[name]) for name in JSON_COLUMNS}
    values["cluster"] = mark(row.cluster) if row.cluster else ""
    for name in ("score", "duration_ms"):
        values[name] = None if values[name] is None else float(values[name])
    waiting = _Waiting(values, again)
    _written(waiting)
    return not waiting.stood


@dataclass
class _Waiting:
    """A row that is not written yet; `error` says why it could not be, `stood` that an earlier try had written it."""

    values: dict[str, Any]
    again: bool = False
    stood: bool = False
    done: bool = False
    error: BaseException | None = None


_pending: list[_Waiting] = []  # of this process
_mine, _turn = threading.Lock(), threading.Lock()


def _written(row: _Waiting) -> None:
    """Write a row, and in the same transaction all that came while another one was written: one sync for many."""
    with _mine:
        _pending.append(row)
    with _turn:
        if not row.done:
            with _mine:
                together, _pending[:] = list(_pending), []
            _write(together)
    if row.error is not None:
        raise row.error


def _write(rows: list[_Waiting]) -> None:
    try:
        _insert(rows)
    except BaseException as error:  # each of those who wait for their row is told
        for row in rows:
            row.error = None if row.stood else error
        if not isinstance(error, Exception):
            raise
    finally:
        for row in rows:
            row.done = True


def _insert(rows: list[_Waiting]) -> None:
    """All rows in one transaction. One that stands already spoils it for those beside it, so they go without it."""
    first: dict[str, _Waiting] = {}
    for row in rows:
        if first.setdefault(row.values["id"], row) is not row and row.again:
            row.stood = True
    fresh = [row for row in rows if not row.stood]
    try:
        with database.writing() as connection:
            connection.execute(database.journal.insert(), [row.values for row in fresh])
    except Fault:
        for row in fresh:
            row.stood = row.again and _stands(row.values["id"])
        left = [row for row in fresh if not row.stood]
        if len(left) == len(fresh):
            raise
        if left:
            _insert(left)


def _stands(prediction_id: str) -> bool:
    table = database.journal
    return bool(database.fetch(table.select().with_only_columns(table.c.id).where(table.c.id == prediction_id)))


def get(prediction_id: str) -> dict[str, Any]:
    """One prediction, with the fields of `JournalRow`. Fault if there is none of that id."""
    found = database.fetch(database.journal.select().where(database.journal.c.id == prediction_id))
    if not found:
        raise Fault(f"the journal has no prediction {prediction_id!r}; `oncoloop status` lists the latest")
    return _decoded(found[0])


def rows(
    task: str | None = None,
    since: str | None = None,
    until: str | None = None,
    release: str | None = None,
    limit: int | None = None,
    shadows: bool = False,
) -> pd.DataFrame:
    """Predictions oldest first, `since` included and `until` excluded; with `limit` the newest so many.

    Those that somebody was told, or with `shadows` those that stood behind one and nobody saw.

    The description is expanded into columns with the prefix `d_`; `embedding` and `probabilities` hold arrays.
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
    """The `id` and `task` of every prediction of one patient, those of shadows among them, oldest first."""
    table = database.journal
    query = table.select().with_only_columns(table.c.id, table.c.task).order_by(table.c.number)
    return database.fetch(query.where(table.c.cluster == mark(pseudonym)))


def count() -> int:
    """How many predictions somebody was told."""
    with database.reading() as connection:
        return int(connection.exec_driver_sql("SELECT count(*) FROM journal WHERE shadows = ''").scalar_one())


def _decoded(row: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in row.items() if name != "number"}
    return kept | {name: json.loads(kept[name]) for name in JSON_COLUMNS}
