"""Cohorts by patient: an append-only table with the permanent side of each cluster, stored under its mark."""

from __future__ import annotations

import re
from collections import Counter
from functools import lru_cache
from pathlib import Path

import pandas as pd

from data.batch.withdrawn_rows import STAND_IN, mark_clusters
from data.core_types import Side, Task, check_cluster
from data.settings import SplitSettings
from lineage import atomic_write, fingerprint
from lineage.errors import Fault
from lineage.fingerprint import hash_pseudonym
from lineage.record import database

COHORTS = ("task", "cluster", "side", "epoch", "stratum", "batch", "assigned_at")
ROW = re.compile(rb"^[^,\n]+,([0-9a-f]{64}|" + STAND_IN.encode() + rb"[0-9a-f]+),", re.MULTILINE)
FEW = 20  # clusters under which a test cohort is too small


def read_cohorts(path: Path) -> pd.DataFrame:
    """The cohorts table of one task, with clusters under their marks; empty before the first batch."""
    if not path.exists():
        return pd.DataFrame({name: pd.Series(dtype=int if name == "epoch" else str) for name in COHORTS})
    status = path.stat()
    return _read_cached(path.absolute(), status.st_ino, status.st_mtime_ns, status.st_size).copy()


@lru_cache(maxsize=1)
def _read_cached(path: Path, _inode: int, _changed: int, _size: int) -> pd.DataFrame:
    """Read the table; cached until the file changes."""
    try:
        table = pd.read_csv(path, dtype=dict.fromkeys(COHORTS, str) | {"epoch": int}, keep_default_na=False)
    except ValueError as error:
        raise Fault(f"{path}: an epoch in it is not a number; restore it from git") from error
    if tuple(table.columns) != COHORTS:
        raise Fault(f"{path}: the columns are {list(table.columns)}, expected {list(COHORTS)}; restore it from git")
    return table


def append_cohorts(path: Path, rows: pd.DataFrame) -> None:
    """Append new assignments in one atomic step. Fault for a cluster that already has a side.

    The table is committed to git, whose history is permanent: it contains the marks of clusters and never their names.
    """
    new, written = mark_clusters(rows[list(COHORTS)]), path.read_bytes() if path.exists() else b""
    existing = _marks_of(written)
    if existing is None:
        table = mark_clusters(read_cohorts(path))
        existing, written = set(table["cluster"]), table.to_csv(index=False, lineterminator="\n").encode()
    repeated = sorted(existing & set(new["cluster"]))
    if repeated:
        raise Fault(f"{path}: {len(repeated)} clusters already have a side ({repeated[0][:12]}); it never changes")
    path.parent.mkdir(parents=True, exist_ok=True)
    new_rows = new.to_csv(index=False, header=False, lineterminator="\n").encode()
    atomic_write.write_bytes(path, written + new_rows, durable=True)


def _marks_of(written: bytes) -> set[str] | None:
    """The marks in the bytes of a table, much faster than parsing it; None if the table must be rewritten."""
    marks = ROW.findall(written)
    is_intact = written.startswith(",".join(COHORTS).encode() + b"\n") and written.endswith(b"\n")
    return {mark.decode() for mark in marks} if is_intact and len(marks) == written.count(b"\n") - 1 else None


def names_in_cohorts(clusters: pd.Series[str], cohorts: pd.DataFrame) -> pd.Series[str]:
    """The name of each cluster (n) in a cohorts table: its mark, or its own name in new rows of `assign`."""
    cohort_clusters = set(cohorts["cluster"])
    return clusters.map(
        {name: name if name in cohort_clusters else hash_pseudonym(str(name)) for name in clusters.unique()}
    )


def restore_cluster_names(cohorts: pd.DataFrame, batches: list[Path]) -> pd.DataFrame:
    """The cohorts table with marks replaced by the cluster names of the manifests of these batches."""
    tables = [pd.read_csv(path / "manifest.csv", usecols=["cluster"], dtype=str) for path in batches]
    names = {name for table in tables for name in table["cluster"].dropna()}
    marks = {hash_pseudonym(name): name for name in names}
    return cohorts.assign(cluster=[marks.get(cluster, cluster) for cluster in cohorts["cluster"]])


def write_cohorts(path: Path, table: pd.DataFrame) -> None:
    """Replace the table atomically. It is on disk when this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write.write_text(path, table.to_csv(index=False, lineterminator="\n"), durable=True)


def assign_cohorts(
    manifest: pd.DataFrame, cohorts: pd.DataFrame, settings: SplitSettings, epoch: int, batch: str, task: Task
) -> pd.DataFrame:
    """Assign a side to each cluster of `manifest` that has none; return only the new rows.

    Strata are (worst label of the cluster, site). The first clusters of a class go to different sides, so that small
    classes are tested too. After that a cluster goes to the side that lacks most by class and stratum. Order and ties
    depend on a hash of the decoded pixels of the cluster and `split.seed`. So they do not depend on the pseudonym key
    or on compression.
    """
    check_cluster(task)
    shares = _shares(settings)
    classes, strata = _tallies(cohorts)
    rows = []
    for ballot, cluster, label, site in _ballots(manifest, cohorts, settings.seed, task):
        stratum = f"{label}|{site}"
        side = _side_in_most_need(classes[label], strata[stratum], shares, ballot)
        classes[label][side] += 1
        strata[stratum][side] += 1
        rows.append((task.name, cluster, side.value, epoch, stratum, batch, database.now()))
    return pd.DataFrame(rows, columns=list(COHORTS)).sort_values("cluster", ignore_index=True)


def small_set_warning(manifest: pd.DataFrame, cohorts: pd.DataFrame) -> list[str]:
    """A warning if these units and all admitted ones have too few clusters for a test cohort; else an empty list."""
    count = len(set(names_in_cohorts(manifest["cluster"], cohorts)) | set(_without_withdrawn(cohorts)["cluster"]))
    if count >= FEW:
        return []
    return [
        f"{count} clusters are fewer than {FEW}: so small a test side has almost no statistical power; "
        "`oncoloop crossval TASK --folds 0` tests on each cluster in turn"
    ]


def _shares(settings: SplitSettings) -> dict[Side, float]:
    training = 1 - settings.test - settings.validation
    if min(settings.test, settings.validation, training) < 0:
        raise Fault(f"split: test {settings.test} and validation {settings.validation} must be shares of at most 1")
    return {Side.TRAINING: training, Side.TEST: settings.test, Side.VALIDATION: settings.validation}


class _Tally(dict[str, Counter[Side]]):
    """The number of clusters on each side, by class or by stratum."""

    def __missing__(self, key: str) -> Counter[Side]:
        self[key] = Counter()
        return self[key]


def _tallies(cohorts: pd.DataFrame) -> tuple[_Tally, _Tally]:
    classes, strata = _Tally(), _Tally()
    active = _without_withdrawn(cohorts)
    for (stratum, side), count in Counter(zip(active["stratum"], active["side"], strict=True)).items():
        classes[stratum.split("|", 1)[0]][Side(side)] += count
        strata[stratum][Side(side)] += count
    return classes, strata


def _without_withdrawn(cohorts: pd.DataFrame) -> pd.DataFrame:
    """The rows of clusters that were not withdrawn. Withdrawn ones keep their rows, but do not count in the balance."""
    is_withdrawn = cohorts["cluster"].str.startswith(STAND_IN)
    return cohorts[~is_withdrawn] if is_withdrawn.any() else cohorts


def _ballots(manifest: pd.DataFrame, cohorts: pd.DataFrame, seed: int, task: Task) -> list[tuple[str, str, str, str]]:
    """(ballot, cluster, worst label, site) of each new cluster, sorted by ballot."""
    new = manifest[~names_in_cohorts(manifest["cluster"], cohorts).isin(cohorts["cluster"])]
    ballots = []
    for cluster, units in new.groupby("cluster", sort=True):
        pixel_hashes = "\n".join(sorted(units["pixels_blake3"]))
        ballot = fingerprint.text_sha256(f"{pixel_hashes}:{seed}")
        site = min(units["site"].mode(), default="")
        ballots.append((ballot, str(cluster), _worst_label(set(units["label"]), task), str(site)))
    return sorted(ballots)


def _worst_label(labels: set[str], task: Task) -> str:
    """The worst label: a positive class before others, then the last class of the task."""
    return max(labels, key=lambda label: (label in task.positive, task.classes.index(label)))


def _side_in_most_need(
    of_class: Counter[Side], of_stratum: Counter[Side], shares: dict[Side, float], ballot: str
) -> Side:
    unused_sides = [side for side, share in shares.items() if share > 0 and not of_class[side]]
    if unused_sides:
        return max(unused_sides, key=lambda side: shares[side])

    def need(side: Side) -> tuple[float, str]:
        deficit = sum(shares[side] * (tally.total() + 1) - tally[side] for tally in (of_class, of_stratum))
        return round(deficit, 9), fingerprint.text_sha256(f"{ballot}:{side.value}")

    return max((side for side, share in shares.items() if share > 0), key=need)
