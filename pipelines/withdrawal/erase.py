"""Erasure of a withdrawn patient: every place with the patient's bytes or name is emptied of them.

Every step can be repeated: a withdrawal that was killed runs all of them again.
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

from data.batch import withdrawn_rows
from data.duplicates import admitted_units
from lineage import atomic_write, json_files, paths
from monitoring import evidently_erasure
from pipelines.workspace import dvc, git
from serving.inference import outlier

log = logging.getLogger(__name__)

NOTE = "A patient was withdrawn: what this page showed of the patient was removed. The ledger says when and why."
NOTE_PAGE = f"<!doctype html><meta charset='utf-8'><title>Withdrawn</title><p>{NOTE}</p>\n"
PICTURE_SUFFIXES = (".png", ".jpg", ".svg")
PAGE_SUFFIXES = (".html", ".json")
TEXT_SUFFIXES = (".csv", ".txt", ".log", ".md", ".yaml", ".jsonl")
SKIPPED_FOLDERS = (
    "cache",
    "remote",
    "keys",
    "worktree",
    "versions",
    "sent",
    "run",
)  # of the state: another step treats them, or they hold no names
REBUILT_FOLDERS = ("worktree", "versions", "sent", "staging", "quality", "population", "crossval", "checkpoints")
EVIDENCE_PREFIXES = ("evidence-",)  # signed copies of the ledger, which hold no names and never change
STORES = ("cache", "remote")
MODEL_TABLES = ("reference.npz", "reference.csv", "predictions.csv")  # files of a model that lose the patient's rows


@dataclass(frozen=True)
class ErasureTargets:
    """What must not remain: marks of names, units, SHA-256 of stored scans, and objects of DVC.

    `tasks` have learned from the patient; `answered` are the tasks with predictions for the patient.
    """

    marks: frozenset[str]
    units: frozenset[str]
    stored: frozenset[str]
    objects: frozenset[str]
    tasks: frozenset[str]
    answered: frozenset[str] = frozenset()


def erase(targets: ErasureTargets) -> None:
    """Erase the patient from cache, remote, worktrees, quarantine, models' artefacts, pages and logs."""
    _erase_trees(targets)
    _erase_objects(targets)
    _erase_quarantine(targets)
    _erase_references(targets)
    _erase_artefacts(targets)
    _erase_windows(targets)
    _erase_pages(targets)
    _erase_database_rows(targets)


def output_objects(digest: str) -> set[str]:
    """The objects of one DVC output: the list of the folder, and every file in it."""
    path = _object_path("cache", digest)
    entries = json.loads(path.read_text(encoding="utf-8")) if digest.endswith(".dir") and path.is_file() else []
    return {digest, *(str(entry["md5"]) for entry in entries)}


def pointer_objects(pointer: Path) -> set[str]:
    """The objects of a `.dvc` file."""
    return output_objects(str(yaml.safe_load(pointer.read_text(encoding="utf-8"))["outs"][0]["md5"]))


def cached_file(pointer: str, name: str) -> Path | None:
    """The cached copy of one file in the folder of a `.dvc` file, given as text. None if the cache lacks it."""
    listing = _object_path("cache", str(yaml.safe_load(pointer)["outs"][0]["md5"]))
    entries = json.loads(listing.read_text(encoding="utf-8")) if listing.is_file() else []
    paths_of_name = [_object_path("cache", str(entry["md5"])) for entry in entries if entry["relpath"] == name]
    return paths_of_name[0] if paths_of_name and paths_of_name[0].is_file() else None


def _object_path(store: str, digest: str) -> Path:
    return paths.home() / store / "files" / "md5" / digest[:2] / digest[2:]


def _erase_trees(targets: ErasureTargets) -> None:
    """Delete worktree and checked-out versions. They are built again when needed, without the patient."""
    for name in REBUILT_FOLDERS:
        shutil.rmtree(paths.home() / name, ignore_errors=True)
    git.run("worktree", "prune")
    for batch in Path("data/batches").glob("*/*"):
        if batch.is_dir() and not batch.with_name(f"{batch.name}.dvc").exists():
            shutil.rmtree(batch)
    for task in targets.tasks:
        for folder in (Path("data/processed", task), Path("evaluation", task)):
            shutil.rmtree(folder, ignore_errors=True)
        admitted_units.delete_projection(paths.home() / "known" / task)
    shutil.rmtree(paths.home() / "cache" / "dvc", ignore_errors=True)


def _erase_objects(targets: ErasureTargets) -> None:
    """Delete from cache and remote: old batches, outputs of their tasks, and unreferenced objects of the patient."""
    referenced = set().union(*(pointer_objects(path) for path in Path("data/batches").glob("*/*.dvc")))
    for stage in dvc.locked_stages(Path.cwd()).values():
        referenced |= _stage_objects(stage)
    doomed_objects = (set(targets.objects) | _task_objects(targets.tasks)) - referenced
    # The list of a folder is deleted last, because it names the folder's other objects.
    for digest in sorted(doomed_objects, key=lambda name: name.endswith(".dir")):
        for store in STORES:
            _object_path(store, digest).unlink(missing_ok=True)
    for store in STORES:
        for path in regular_files(paths.home() / store / "files", skip=()):
            content = path.read_bytes() if path.parent.name + path.name not in referenced else b""
            names = withdrawn_rows.withdrawn_pseudonyms(content.decode("latin-1"), set(targets.marks))
            if names or sha256(content).hexdigest() in targets.stored:
                path.unlink()


def _task_objects(tasks: frozenset[str]) -> set[str]:
    """The objects of every stage output of these tasks: over the history of dvc.lock, and in DVC's run cache."""
    objects: set[str] = set()
    for commit in git.run("log", "--format=%H", "--", "dvc.lock").splitlines():
        stages = (yaml.safe_load(git.committed_text("dvc.lock", commit)) or {}).get("stages", {})
        for name, stage in stages.items():
            if name.split("@")[1] in tasks:
                objects |= _stage_objects(stage)
    for path in regular_files(paths.home() / "cache" / "runs", skip=()):
        stage = yaml.safe_load(path.read_text(encoding="utf-8"))
        if str(stage["cmd"]).split("--task ")[-1].strip() in tasks:
            objects |= _stage_objects(stage)
            path.unlink()
    return objects


def _stage_objects(stage: dict[str, Any]) -> set[str]:
    return set().union(*(output_objects(str(output["md5"])) for output in stage.get("outs", [])))


def _erase_quarantine(targets: ErasureTargets) -> None:
    """Delete rows and scans of refused batches. A scan that no row names is recognised by its hash."""
    for folder in (path for path in Path("data/quarantine").glob("*") if path.is_dir()):
        for path in regular_files(folder / "scans", skip=()):
            if sha256(path.read_bytes()).hexdigest() in targets.stored:
                path.unlink()
    for path in Path("data/quarantine").glob("*/manifest.csv"):
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        is_doomed = withdrawn_rows.affected_rows(table, set(targets.marks))
        for file in set(table.loc[is_doomed, "file"]):
            (path.parent / file).unlink(missing_ok=True)
        _rewrite_table(path, table[~is_doomed])


def _erase_references(targets: ErasureTargets) -> None:
    """Remove the patient's rows from `reference.npz` of a model, and all names from that of a release.

    The arrays are written before the table. If their lengths differ, a killed run has already done the arrays.
    """
    for path in regular_files(paths.home(), skip=_skipped_folders()):
        if path.name != "reference.npz" or not targets.tasks & {*path.parts, *_task_of(path.parent)}:
            continue
        with np.load(path, allow_pickle=False) as content:
            arrays = {name: content[name] for name in content.files}
        table = path.with_name("reference.csv")
        if not table.is_file():
            outlier.copy_anonymous(path, path)
            continue
        rows = pd.read_csv(table, dtype=str, keep_default_na=False)
        is_doomed = withdrawn_rows.rows_of_withdrawn(rows, set(targets.units), set(targets.marks)).to_numpy(bool)
        if is_doomed.any() and len(arrays["clusters"]) == len(rows):
            aligned = set(arrays) - {"centre", "scale"}
            reduced = {name: array[~is_doomed] if name in aligned else array for name, array in arrays.items()}
            _save_arrays(path, reduced)


def _task_of(folder: Path) -> set[str]:
    """The task in the metrics.json of an artefact folder; empty without that file."""
    metrics = folder / "metrics.json"
    return {str(json_files.read_json(metrics).get("task"))} if metrics.is_file() else set()


def _erase_artefacts(targets: ErasureTargets) -> None:
    """Delete downloads of the tasks' models, and the error gallery of each run, which shows slices."""
    for task in targets.tasks:
        shutil.rmtree(paths.home() / "mlflow" / "downloads" / task, ignore_errors=True)
    for metrics in (paths.home() / "mlflow" / "artifacts").glob("**/model/metrics.json"):
        gallery = metrics.parent.parent / "plots" / "errors.png"
        if targets.tasks & _task_of(metrics.parent) and gallery.is_file():
            gallery.with_suffix(".txt").write_text(NOTE + "\n", encoding="utf-8")
            gallery.unlink()


def _erase_windows(targets: ErasureTargets) -> None:
    """Delete Evidently's pages and the plots of its runs: they show every row of a window and of the reference."""
    tasks = targets.tasks | targets.answered
    for task in tasks:
        shutil.rmtree(paths.home() / "evidently" / "pages" / task, ignore_errors=True)
    evidently_erasure.empty_plots(paths.home() / "evidently", tasks)


def _erase_pages(targets: ErasureTargets) -> None:
    """Erase the patient from every text file of the state.

    Tables lose rows, pages are replaced by a note, and names in other texts by their stand-in.
    """
    for path in [*regular_files(paths.home(), skip=_skipped_folders()), *Path.cwd().glob("*.log")]:
        if path.suffix not in (*PAGE_SUFFIXES, *TEXT_SUFFIXES) or _is_evidence(path):
            continue
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
        names = withdrawn_rows.withdrawn_pseudonyms(text, set(targets.marks))
        if not names and not any(unit in text for unit in targets.units):
            continue
        if path.suffix == ".csv":
            table = pd.read_csv(path, dtype=str, keep_default_na=False)
            _rewrite_table(
                path, table[~withdrawn_rows.rows_of_withdrawn(table, set(targets.units), set(targets.marks))]
            )
        elif path.suffix in PAGE_SUFFIXES:
            atomic_write.write_text(path, NOTE_PAGE if path.suffix == ".html" else json.dumps({"note": NOTE}) + "\n")
            _delete_page_pictures(path)
        else:
            for name in names:
                text = text.replace(name, withdrawn_rows.stand_in(name))
            atomic_write.write_text(path, text)


def _delete_page_pictures(path: Path) -> None:
    """Delete the pictures in the folder that belongs to this page alone."""
    for picture in path.parent.glob(f"{path.stem}*/*"):
        if picture.suffix in PICTURE_SUFFIXES:
            picture.unlink()


def _erase_database_rows(targets: ErasureTargets) -> None:
    """Delete rows of Prefect's artifact and log tables that name the patient, and overwrite their pages."""
    path = paths.home() / "prefect" / "prefect.db"
    if not path.is_file():
        return
    with contextlib.closing(sqlite3.connect(path, timeout=30)) as database:
        database.execute("PRAGMA secure_delete = ON")
        for table, column in (("artifact", "data"), ("artifact_collection", "data"), ("log", "message")):
            columns = {row[1] for row in database.execute(f"PRAGMA table_info({table})")}
            rows = database.execute(f"SELECT id, {column} FROM {table}").fetchall() if column in columns else []
            doomed_rows = [
                (key,) for key, text in rows if withdrawn_rows.withdrawn_pseudonyms(str(text), set(targets.marks))
            ]
            database.executemany(f"DELETE FROM {table} WHERE id = ?", doomed_rows)
        database.commit()
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def regular_files(folder: Path, skip: tuple[Path, ...]) -> Iterator[Path]:
    """Every regular file below a folder, except below the paths of `skip`. Links are not followed."""
    for path in sorted(folder.iterdir()) if folder.is_dir() and not folder.is_symlink() else []:
        if path in skip or path.is_symlink():
            continue
        if path.is_dir():
            yield from regular_files(path, skip)
        elif path.is_file():
            yield path


def _is_evidence(path: Path) -> bool:
    return any(part.startswith(EVIDENCE_PREFIXES) for part in path.parts[-4:])


def _skipped_folders() -> tuple[Path, ...]:
    return tuple(paths.home() / name for name in SKIPPED_FOLDERS)


def _rewrite_table(path: Path, table: pd.DataFrame) -> None:
    atomic_write.write_text(path, table.to_csv(index=False, lineterminator="\n"))


def _save_arrays(path: Path, arrays: dict[str, Any]) -> None:
    with atomic_write.replace_file(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **arrays)
