"""Erasure: every place that holds a withdrawn patient's bytes or name, emptied of them.

Every step may be done again: a withdrawal that was killed begins here anew.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from data.batch import withdrawal
from data.duplicates import admitted_units
from lineage import json_files, paths
from monitoring import evidently_erasure
from pipelines.workspace import dvc, git
from serving.inference import outlier

log = logging.getLogger(__name__)

NOTE = "A patient was withdrawn: what this page showed of the patient was removed. The ledger says when and why."
NOTE_PAGE = f"<!doctype html><meta charset='utf-8'><title>Withdrawn</title><p>{NOTE}</p>\n"
PICTURES = (".png", ".jpg", ".svg")
PAGES = (".html", ".json")
TEXTS = (".csv", ".txt", ".log", ".md", ".yaml", ".jsonl")
APART = (
    "cache",
    "remote",
    "keys",
    "worktree",
    "versions",
    "sent",
    "run",
)  # of the state: treated elsewhere, or without names
REMADE = ("worktree", "versions", "sent", "staging", "quality", "population", "crossval", "checkpoints")
RECORD = ("evidence-",)  # signed copies of the ledger, never written over: neither names anybody
STORES = ("cache", "remote")
TABLES = ("reference.npz", "reference.csv", "predictions.csv")  # of a model: they lose the patient's rows


@dataclass(frozen=True)
class Gone:
    """What must not be found again: marks of names, units, SHA-256 of stored scans, objects of DVC; the tasks that
    learned from the patient, and those that answered for the patient."""

    marks: frozenset[str]
    units: frozenset[str]
    stored: frozenset[str]
    objects: frozenset[str]
    tasks: frozenset[str]
    answered: frozenset[str] = frozenset()


def erase(gone: Gone) -> None:
    """Take the patient out of cache, remote, worktrees, quarantine, models' artefacts, pages and logs."""
    _trees(gone)
    _objects(gone)
    _quarantine(gone)
    _references(gone)
    _artefacts(gone)
    _windows(gone)
    _pages(gone)
    _databases(gone)


def listed(digest: str) -> set[str]:
    """The objects of one output of DVC: the folder's list, and each file in it."""
    path = _object("cache", digest)
    inside = json.loads(path.read_text(encoding="utf-8")) if digest.endswith(".dir") and path.is_file() else []
    return {digest, *(str(entry["md5"]) for entry in inside)}


def pointed(pointer: Path) -> set[str]:
    """The objects of a `.dvc` file."""
    return listed(str(yaml.safe_load(pointer.read_text(encoding="utf-8"))["outs"][0]["md5"]))


def inside(pointer: str, name: str) -> Path | None:
    """The cached file of a given name in the folder that the text of a `.dvc` file points to; None if it is gone."""
    listing = _object("cache", str(yaml.safe_load(pointer)["outs"][0]["md5"]))
    entries = json.loads(listing.read_text(encoding="utf-8")) if listing.is_file() else []
    found = [_object("cache", str(entry["md5"])) for entry in entries if entry["relpath"] == name]
    return found[0] if found and found[0].is_file() else None


def _object(store: str, digest: str) -> Path:
    return paths.home() / store / "files" / "md5" / digest[:2] / digest[2:]


def _trees(gone: Gone) -> None:
    """Worktree and checked-out versions: they are made again when they are needed, from what is left."""
    for name in REMADE:
        shutil.rmtree(paths.home() / name, ignore_errors=True)
    git.run("worktree", "prune")
    for batch in Path("data/batches").glob("*/*"):
        if batch.is_dir() and not batch.with_name(f"{batch.name}.dvc").exists():
            shutil.rmtree(batch)
    for task in gone.tasks:
        for folder in (Path("data/processed", task), Path("evaluation", task)):
            shutil.rmtree(folder, ignore_errors=True)
        admitted_units.forget(paths.home() / "known" / task)
    shutil.rmtree(paths.home() / "cache" / "dvc", ignore_errors=True)


def _objects(gone: Gone) -> None:
    """Out of cache and remote: old batches, every product of their tasks, and strays that hold or name the patient."""
    kept = set().union(*(pointed(path) for path in Path("data/batches").glob("*/*.dvc")))
    for stage in dvc.lock(Path.cwd()).values():
        kept |= set().union(*(listed(str(out["md5"])) for out in stage.get("outs", [])))
    doomed = (set(gone.objects) | _products(gone.tasks)) - kept
    for digest in sorted(doomed, key=lambda name: name.endswith(".dir")):  # a folder's list last: it names the others
        for store in STORES:
            _object(store, digest).unlink(missing_ok=True)
    for store in STORES:
        for path in files(paths.home() / store / "files", skip=()):
            content = path.read_bytes() if path.parent.name + path.name not in kept else b""
            name = withdrawal.named(content.decode("latin-1"), set(gone.marks))
            if name or sha256(content).hexdigest() in gone.stored:
                path.unlink()


def _products(tasks: frozenset[str]) -> set[str]:
    """The objects of every stage output of these tasks: over the history of dvc.lock, and in DVC's run cache."""
    found: set[str] = set()
    for commit in git.run("log", "--format=%H", "--", "dvc.lock").splitlines():
        stages = (yaml.safe_load(git.committed("dvc.lock", commit)) or {}).get("stages", {})
        outs = [out for name, stage in stages.items() if name.split("@")[1] in tasks for out in stage.get("outs", [])]
        found |= set().union(*(listed(str(out["md5"])) for out in outs))
    for path in files(paths.home() / "cache" / "runs", skip=()):
        stage = yaml.safe_load(path.read_text(encoding="utf-8"))
        if str(stage["cmd"]).split("--task ")[-1].strip() in tasks:
            found |= set().union(*(listed(str(out["md5"])) for out in stage.get("outs", [])))
            path.unlink()
    return found


def _quarantine(gone: Gone) -> None:
    """The rows and copies of refused batches; a copy that no row tells of is known by its hash."""
    for folder in (path for path in Path("data/quarantine").glob("*") if path.is_dir()):
        for path in files(folder / "scans", skip=()):
            if sha256(path.read_bytes()).hexdigest() in gone.stored:
                path.unlink()
    for path in Path("data/quarantine").glob("*/manifest.csv"):
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        doomed = withdrawal.concerned(table, set(gone.marks))
        for file in set(table.loc[doomed, "file"]):
            (path.parent / file).unlink(missing_ok=True)
        _rewrite(path, table[~doomed])


def _references(gone: Gone) -> None:
    """`reference.npz` of models and releases. A model's loses rows, a release's its names.

    The arrays are written before the table: where their lengths differ, a killed run has done the arrays already.
    """
    for path in files(paths.home(), skip=_apart()):
        if path.name != "reference.npz" or not gone.tasks & {*path.parts, *_told(path.parent)}:
            continue
        with np.load(path, allow_pickle=False) as content:
            arrays = {name: content[name] for name in content.files}
        table = path.with_name("reference.csv")
        if not table.is_file():
            outlier.reduce(path, path)
            continue
        rows = pd.read_csv(table, dtype=str, keep_default_na=False)
        doomed = withdrawal.rows_of(rows, set(gone.units), set(gone.marks)).to_numpy(bool)
        if doomed.any() and len(arrays["clusters"]) == len(rows):
            aligned = set(arrays) - {"centre", "scale"}
            _save(path, {name: held[~doomed] if name in aligned else held for name, held in arrays.items()})


def _told(folder: Path) -> set[str]:
    """The task that a folder of artefacts is of, as its metrics say."""
    told = folder / "metrics.json"
    return {str(json_files.read_json(told).get("task"))} if told.is_file() else set()


def _artefacts(gone: Gone) -> None:
    """Downloads, and of each run of the tasks: rows of its tables, and the gallery that shows slices."""
    for task in gone.tasks:
        shutil.rmtree(paths.home() / "mlflow" / "downloads" / task, ignore_errors=True)
    for metrics in (paths.home() / "mlflow" / "artifacts").glob("**/model/metrics.json"):
        gallery = metrics.parent.parent / "plots" / "errors.png"
        if gone.tasks & _told(metrics.parent) and gallery.is_file():
            gallery.with_suffix(".txt").write_text(NOTE + "\n", encoding="utf-8")
            gallery.unlink()


def _windows(gone: Gone) -> None:
    """Evidently's pages and the plots of its runs: they show every row of a window and of the reference."""
    tasks = gone.tasks | gone.answered
    for task in tasks:
        shutil.rmtree(paths.home() / "evidently" / "pages" / task, ignore_errors=True)
    evidently_erasure.forget(paths.home() / "evidently", tasks)


def _pages(gone: Gone) -> None:
    """Every text of the state: rows of tables go, a page about a unit becomes a note, other names a stand-in."""
    for path in [*files(paths.home(), skip=_apart()), *Path.cwd().glob("*.log")]:
        if path.suffix not in (*PAGES, *TEXTS) or _record(path):
            continue
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
        names = withdrawal.named(text, set(gone.marks))
        if not names and not any(unit in text for unit in gone.units):
            continue
        if path.suffix == ".csv":
            table = pd.read_csv(path, dtype=str, keep_default_na=False)
            _rewrite(path, table[~withdrawal.rows_of(table, set(gone.units), set(gone.marks))])
        elif path.suffix in PAGES:
            _replace(path, NOTE_PAGE if path.suffix == ".html" else json.dumps({"note": NOTE}) + "\n")
            _beside(path)
        else:
            for name in names:
                text = text.replace(name, withdrawal.stand_in(name))
            _replace(path, text)


def _beside(path: Path) -> None:
    """Pictures in a folder that belongs to one page alone go with it."""
    for picture in path.parent.glob(f"{path.stem}*/*"):
        if picture.suffix in PICTURES:
            picture.unlink()


def _databases(gone: Gone) -> None:
    """Prefect's tables of artifacts and log lines: rows that name the patient go, and their pages are overwritten."""
    path = paths.home() / "prefect" / "prefect.db"
    if not path.is_file():
        return
    with contextlib.closing(sqlite3.connect(path, timeout=30)) as database:
        database.execute("PRAGMA secure_delete = ON")
        for table, column in (("artifact", "data"), ("artifact_collection", "data"), ("log", "message")):
            known = {row[1] for row in database.execute(f"PRAGMA table_info({table})")}
            rows = database.execute(f"SELECT id, {column} FROM {table}").fetchall() if column in known else []
            named = [(key,) for key, text in rows if withdrawal.named(str(text), set(gone.marks))]
            database.executemany(f"DELETE FROM {table} WHERE id = ?", named)
        database.commit()
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def files(folder: Path, skip: tuple[Path, ...]) -> Iterator[Path]:
    """Every regular file below a folder, links not followed."""
    for path in sorted(folder.iterdir()) if folder.is_dir() and not folder.is_symlink() else []:
        if path in skip or path.is_symlink():
            continue
        if path.is_dir():
            yield from files(path, skip)
        elif path.is_file():
            yield path


def _record(path: Path) -> bool:
    return any(part.startswith(RECORD) for part in path.parts[-4:])


def _apart() -> tuple[Path, ...]:
    return tuple(paths.home() / name for name in APART)


def _rewrite(path: Path, table: pd.DataFrame) -> None:
    _replace(path, table.to_csv(index=False, lineterminator="\n"))


def _replace(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8", errors="surrogateescape")
    part.replace(path)


def _save(path: Path, arrays: dict[str, Any]) -> None:
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as stream:
        np.savez(stream, **arrays)
    part.replace(path)
