"""Cohorts by patient: an append-only table that says on which side each cluster (its mark) is, for ever."""

from __future__ import annotations

import os
import re
from collections import Counter
from functools import lru_cache
from pathlib import Path

import pandas as pd

from data.batch.withdrawal import STAND_IN, marked
from data.record import Side, Task, check_cluster
from data.settings import SplitSettings
from lineage import fingerprint
from lineage.errors import Fault
from lineage.patient_hash import mark
from lineage.record import database

COHORTS = ("task", "cluster", "side", "epoch", "stratum", "batch", "assigned_at")
ROW = re.compile(rb"^[^,\n]+,([0-9a-f]{64}|" + STAND_IN.encode() + rb"[0-9a-f]+),", re.MULTILINE)
FEW = 20  # clusters under which a test side of its own says next to nothing


def read_cohorts(path: Path) -> pd.DataFrame:
    """The table of assignments of one task, clusters under their marks; empty before its first batch."""
    if not path.exists():
        return pd.DataFrame({name: pd.Series(dtype=int if name == "epoch" else str) for name in COHORTS})
    seen = path.stat()
    return _read(path.absolute(), seen.st_ino, seen.st_mtime_ns, seen.st_size).copy()


@lru_cache(maxsize=1)
def _read(path: Path, _inode: int, _changed: int, _size: int) -> pd.DataFrame:
    """The table in a file, read once for as long as the file stays as it is."""
    try:
        table = pd.read_csv(path, dtype=dict.fromkeys(COHORTS, str) | {"epoch": int}, keep_default_na=False)
    except ValueError as error:
        raise Fault(f"{path}: an epoch in it is not a number; restore it from git") from error
    if tuple(table.columns) != COHORTS:
        raise Fault(f"{path}: the columns are {list(table.columns)}, expected {list(COHORTS)}; restore it from git")
    return table


def append_cohorts(path: Path, rows: pd.DataFrame) -> None:
    """Add new assignments under the old ones, in one atomic step. A cluster that is already there is refused.

    The table lies in git, whose old commits nobody rewrites: it holds the marks of clusters and never their names.
    """
    new, written = marked(rows[list(COHORTS)]), path.read_bytes() if path.exists() else b""
    there = _marks(written)
    if there is None:
        table = marked(read_cohorts(path))
        there, written = set(table["cluster"]), table.to_csv(index=False, lineterminator="\n").encode()
    twice = sorted(there & set(new["cluster"]))
    if twice:
        raise Fault(f"{path}: {len(twice)} clusters already have a side ({twice[0][:12]}); it never changes")
    path.parent.mkdir(parents=True, exist_ok=True)
    _put(path, written + new.to_csv(index=False, header=False, lineterminator="\n").encode())


def _marks(written: bytes) -> set[str] | None:
    """The marks in a table as it is written, much faster than by reading it; None if it has to be written anew."""
    marks = ROW.findall(written)
    whole = written.startswith(",".join(COHORTS).encode() + b"\n") and written.endswith(b"\n")
    return {mark.decode() for mark in marks} if whole and len(marks) == written.count(b"\n") - 1 else None


def called(clusters: pd.Series[str], cohorts: pd.DataFrame) -> pd.Series[str]:
    """What the cohorts call each cluster (n): its mark, or in what `assign` has just dealt its name."""
    known = set(cohorts["cluster"])
    return clusters.map({name: name if name in known else mark(str(name)) for name in clusters.unique()})


def named(cohorts: pd.DataFrame, batches: list[Path]) -> pd.DataFrame:
    """The cohorts with the clusters of some admitted batches under the names that their manifests know."""
    tables = [pd.read_csv(path / "manifest.csv", usecols=["cluster"], dtype=str) for path in batches]
    names = {name for table in tables for name in table["cluster"].dropna()}
    marks = {mark(name): name for name in names}
    return cohorts.assign(cluster=[marks.get(cluster, cluster) for cluster in cohorts["cluster"]])


def write_cohorts(path: Path, table: pd.DataFrame) -> None:
    """Put a whole table in the place of the old one: on disk when this returns, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _put(path, table.to_csv(index=False, lineterminator="\n").encode())


def _put(path: Path, content: bytes) -> None:
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def assign(
    manifest: pd.DataFrame, cohorts: pd.DataFrame, settings: SplitSettings, epoch: int, batch: str, task: Task
) -> pd.DataFrame:
    """Give each cluster of `manifest` that has no side yet a side; return the new rows only.

    Strata are (worst label that the cluster holds, site). The first clusters of a class go one to each side, so that
    small classes are tested too; after that the side goes to where class and stratum together need it most. Order and
    ties come from a hash of the cluster's decoded pixels and `split.seed`: neither a new pseudonym key nor another
    compressor moves anybody.
    """
    check_cluster(task)
    shares = _shares(settings)
    classes, strata = _counts(cohorts)
    rows = []
    for ballot, cluster, label, site in _ballots(manifest, cohorts, settings.seed, task):
        stratum = f"{label}|{site}"
        side = _neediest(classes[label], strata[stratum], shares, ballot)
        classes[label][side] += 1
        strata[stratum][side] += 1
        rows.append((task.name, cluster, side.value, epoch, stratum, batch, database.now()))
    return pd.DataFrame(rows, columns=list(COHORTS)).sort_values("cluster", ignore_index=True)


def few(manifest: pd.DataFrame, cohorts: pd.DataFrame) -> list[str]:
    """The warning of a set that is too small for sides, with these units and all that is admitted; else none."""
    count = len(set(called(manifest["cluster"], cohorts)) | set(_staying(cohorts)["cluster"]))
    if count >= FEW:
        return []
    return [
        f"{count} clusters are fewer than {FEW}: a test side of so few says next to nothing; "
        "`oncoloop crossval TASK --folds 0` judges such a set by all of them in turn"
    ]


def _shares(settings: SplitSettings) -> dict[Side, float]:
    training = 1 - settings.test - settings.validation
    if min(settings.test, settings.validation, training) < 0:
        raise Fault(f"split: test {settings.test} and validation {settings.validation} must be shares of at most 1")
    return {Side.TRAINING: training, Side.TEST: settings.test, Side.VALIDATION: settings.validation}


class _Tally(dict[str, Counter[Side]]):
    """Clusters on each side, by class or by stratum."""

    def __missing__(self, key: str) -> Counter[Side]:
        self[key] = Counter()
        return self[key]


def _counts(cohorts: pd.DataFrame) -> tuple[_Tally, _Tally]:
    classes, strata = _Tally(), _Tally()
    staying = _staying(cohorts)
    for (stratum, side), count in Counter(zip(staying["stratum"], staying["side"], strict=True)).items():
        classes[stratum.split("|", 1)[0]][Side(side)] += count
        strata[stratum][Side(side)] += count
    return classes, strata


def _staying(cohorts: pd.DataFrame) -> pd.DataFrame:
    """Without the clusters that were withdrawn: their rows stay, and nothing is balanced against them."""
    gone = cohorts["cluster"].str.startswith(STAND_IN)
    return cohorts[~gone] if gone.any() else cohorts


def _ballots(manifest: pd.DataFrame, cohorts: pd.DataFrame, seed: int, task: Task) -> list[tuple[str, str, str, str]]:
    """(ballot, cluster, worst label, site) of each new cluster, in the order of the ballots."""
    new = manifest[~called(manifest["cluster"], cohorts).isin(cohorts["cluster"])]
    ballots = []
    for cluster, units in new.groupby("cluster", sort=True):
        seen = "\n".join(sorted(units["pixels_blake3"]))
        ballot = fingerprint.text_sha256(f"{seen}:{seed}")
        site = min(units["site"].mode(), default="")
        ballots.append((ballot, str(cluster), _worst(set(units["label"]), task), str(site)))
    return sorted(ballots)


def _worst(labels: set[str], task: Task) -> str:
    """The positive class before any other, then the class that the task names last."""
    return max(labels, key=lambda label: (label in task.positive, task.classes.index(label)))


def _neediest(of_class: Counter[Side], of_stratum: Counter[Side], shares: dict[Side, float], ballot: str) -> Side:
    missing = [side for side, share in shares.items() if share > 0 and not of_class[side]]
    if missing:
        return max(missing, key=lambda side: shares[side])

    def need(side: Side) -> tuple[float, str]:
        lacking = sum(shares[side] * (tally.total() + 1) - tally[side] for tally in (of_class, of_stratum))
        return round(lacking, 9), fingerprint.text_sha256(f"{ballot}:{side.value}")

    return max((side for side, share in shares.items() if share > 0), key=need)
