"""Repair of a damaged workspace from git's objects, DVC's cache and remote, and the ledger."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from data.batch import manifest as batch_manifest
from data.batch import withdrawn_rows
from data.dataset import cohorts
from lineage import atomic_write, json_files
from lineage.errors import Fault
from lineage.record import ledger
from lineage.record.events import EventKind
from lineage.record.ledger import Event
from pipelines import params
from pipelines.recovery import interrupted_runs, recorded_admissions, verify_workspace
from pipelines.workspace import dvc, dvc_objects, git, stale_locks
from pipelines.workspace.workspace import hold_lock

log = logging.getLogger(__name__)


def repair() -> list[str]:
    """Restore history, `.dvc` files, cohort tables and objects. Returns what was done, in words; the ledger records it.

    What cannot be restored is recorded as lost, by name, so that work can continue: its folder may be admitted again.
    A file is overwritten only if its bytes are not those that the ledger's versions name.
    """
    with hold_lock("workspace"):
        stale_locks.remove_stale_locks(Path.cwd())
        repairs, stores, batches = _restore_history(), dvc.object_stores(), recorded_admissions.admitted_batches()
        returned = recorded_admissions.compare_with_git().returned
        for pair in returned:
            repairs += _remove_batch(Path("data/batches", pair))
        for pair, event in batches.items():
            repairs += _restore_pointer(pair, event, stores)
        for pair in batches:
            repairs += _restore_objects(pair, stores)
        for task in sorted({pair.split("/")[0] for pair in batches}):
            repairs += _restore_cohorts(task, batches)
        version = _commit(list(batches), returned)
        missing = recorded_admissions.compare_with_git()
        if repairs or missing.batches or missing.versions:
            losses = {"batches": list(missing.batches), "versions": list(missing.versions)}
            facts = {"restored": repairs, "lost": losses, "data_version": version}
            ledger.append(EventKind.WORKSPACE_REPAIRED, "workspace", facts)
        interrupted_runs.recover_workspace()
        dvc.push()
    return repairs


def _restore_history() -> list[str]:
    """Commit today's files again, with the versions that are missing in the history as additional parents."""
    missing_versions = recorded_admissions.compare_with_git().versions
    versions = [version for version in missing_versions if git.run("cat-file", "-t", version, check=False)]
    if not versions:
        return []
    parents = [word for version in (git.head(), *versions) for word in ("-p", version)]
    text = "Restore the versions that the ledger names"
    git.run("update-ref", "HEAD", git.run("commit-tree", "HEAD^{tree}", *parents, "-m", text))
    return [f"data version {version[:12]}: in the history again" for version in versions]


def _commit(pairs: list[str], returned: tuple[str, ...]) -> str:
    """Commit `.dvc` files, tables and ignore lists only: files of an interrupted admission stay uncommitted."""
    tasks = sorted({pair.split("/")[0] for pair in pairs})
    for pair in pairs:
        _ignore(Path("data/batches", pair))
    if returned:
        removed = [f"data/batches/{pair}.dvc" for pair in returned]
        git.run("rm", "--quiet", "--cached", "--ignore-unmatch", "--", *removed)
    paths = [
        *(f"data/batches/{pair}.dvc" for pair in pairs),
        *(f"data/cohorts/{task}.csv" for task in tasks),
        *(f"data/batches/{task}/.gitignore" for task in tasks),
    ]
    return git.commit(paths, "Restore what the ledger names")


def _ignore(folder: Path) -> None:
    """Add a batch's folder to .gitignore: DVC versions its files, not git."""
    path, line = folder.with_name(".gitignore"), f"/{folder.name}"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    if folder.with_name(f"{folder.name}.dvc").is_file() and line not in text.splitlines():
        path.write_text(f"{text}{line}\n", encoding="utf-8")


def _remove_batch(folder: Path) -> list[str]:
    """Remove a batch that a withdrawal had removed before. Its successor is restored like the other batches."""
    folder.with_name(f"{folder.name}.dvc").unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    return [f"{folder}: removed again, since a patient of it was withdrawn"]


def _restore_pointer(pair: str, event: Event, stores: Mapping[str, Path]) -> list[str]:
    """Restore the `.dvc` file of a batch: from the commit that admitted it or today's commit, else from the stores."""
    path = Path("data/batches", f"{pair}.dvc")
    version = str(event.payload["data_version"])
    text = (
        git.committed_text(str(path), version) or git.committed_text(str(path)) or _working_pointer(path, event, stores)
    )
    if text and (not path.is_file() or path.read_text(encoding="utf-8").strip() != text.strip()):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.strip() + "\n", encoding="utf-8")
        return [f"{pair}: {path} is back"]
    if text:
        return []
    for md5, files in dvc_objects.all_folder_listings(stores.values()):
        if _is_record_of(event, _find_object(files.get("record.json", ""), stores)):
            folder = Path("data/batches", pair)
            shutil.rmtree(folder, ignore_errors=True)
            for name, file_md5 in files.items():
                _copy_object(_find_object(file_md5, stores), folder / name)
            dvc.add(folder)
            return [f"{pair}: {path} and its folder are rebuilt from the stored list {md5}"]
    return []


def _working_pointer(path: Path, event: Event, stores: Mapping[str, Path]) -> str:
    """The text of the `.dvc` file in the working folder if it points to the batch of the event, else empty."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    try:
        files = dvc_objects.folder_listing(stores.values(), dvc_objects.read_pointer(text).md5) or {}
    except ValueError:
        return ""
    return text if _is_record_of(event, _find_object(files.get("record.json", ""), stores)) else ""


def _is_record_of(event: Event, record: Path | None) -> bool:
    """Whether a record.json belongs to the admission of a ledger event."""
    facts = json_files.read_json(record) if record else {}
    return bool(facts) and all(facts.get(name) == event.payload[name] for name in ("task", "batch", "digest"))


def _find_object(md5: str, stores: Mapping[str, Path]) -> Path | None:
    """A copy of an object with the right bytes, or None."""
    paths = [dvc_objects.object_path(store, md5) for store in stores.values()] if md5 else []
    return next((path for path in paths if dvc_objects.is_sound(path, md5)), None)


def _copy_object(source: Path | None, target: Path) -> None:
    if source is not None:
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write.replace_file(target) as temporary:
            shutil.copyfile(source, temporary)
            temporary.chmod(0o444)  # like DVC's own files: a file that is shared with the cache must not be changed


def _restore_objects(pair: str, stores: Mapping[str, Path]) -> list[str]:
    """Replace missing or changed objects in each store, from the other store or from the batch's own folder."""
    path, folder = Path("data/batches", f"{pair}.dvc"), Path("data/batches", pair)
    if not path.is_file():
        return []
    list_md5 = dvc_objects.read_pointer(path.read_text(encoding="utf-8")).md5
    if "remote" not in stores:
        dvc.fetch(path)  # the remote is on another machine
    files = dvc_objects.folder_listing(stores.values(), list_md5) or _rebuild_list(path, list_md5, stores)
    if files is None:
        return []
    restored_count = 0
    for name, md5 in {".": list_md5, **files}.items():
        sound_copy = _find_object(md5, stores) or (folder / name if dvc_objects.is_sound(folder / name, md5) else None)
        for store in stores.values():
            target = dvc_objects.object_path(store, md5)
            if sound_copy is not None and not dvc_objects.is_sound(target, md5):
                _copy_object(sound_copy, target)
                restored_count += 1
    wrong_files = [name for name, md5 in files.items() if not dvc_objects.is_sound(folder / name, md5)]
    for name in wrong_files:
        _copy_object(_find_object(files[name], stores), folder / name)
    repairs = [f"{pair}: {restored_count} objects are back in cache or remote"] if restored_count else []
    return repairs + ([f"{pair}: {len(wrong_files)} files are back in {folder}"] if wrong_files else [])


def _rebuild_list(path: Path, md5: str, stores: Mapping[str, Path]) -> dict[str, str] | None:
    """Rebuild the lost list of a batch from its folder. None, without a change, if that gives another list."""
    if not path.with_suffix("").is_dir():
        return None
    text = path.read_text(encoding="utf-8")
    dvc.add(path.with_suffix(""))
    if dvc_objects.read_pointer(path.read_text(encoding="utf-8")).md5 != md5:
        path.write_text(text, encoding="utf-8")
    return dvc_objects.folder_listing(stores.values(), md5)


def _restore_cohorts(task: str, batches: Mapping[str, Event]) -> list[str]:
    """Restore a task's cohort table.

    It begins with the newest version in git, takes rows that only another version or the working folder has, and
    assigns clusters that have no row anywhere by the same rule as before.
    """
    path = Path("data/cohorts", f"{task}.csv")
    committed = verify_workspace.cohort_table_at(path, "HEAD")
    newest = verify_workspace.newest_cohort_table(task)
    table = committed if newest is None or withdrawn_rows.changed_row(newest, committed) is None else newest
    versions = [str(event.payload["data_version"]) for pair, event in batches.items() if pair.split("/")[0] == task]
    working = _working_table(path)
    names = {pair.split("/")[1] for pair in batches}
    for version_table in [committed, *(verify_workspace.cohort_table_at(path, version) for version in versions)]:
        table = _add_missing_rows(table, version_table)
    table = _add_missing_rows(table, working[working["batch"].isin(names)]) if working is not None else table
    table = table.drop_duplicates("cluster", ignore_index=True)
    repairs = []
    for pair, event in batches.items():
        if pair.split("/")[0] == task and (new_rows := _reassign_clusters(table, pair, event)) is not None:
            table = pd.concat([table, new_rows], ignore_index=True)
            repairs.append(f"{path}: {len(new_rows)} clusters of {pair} have their sides again, by the same rule")
    if working is not None and table.equals(working):
        return repairs
    cohorts.write_cohorts(path, table)
    return [*repairs, f"{path}: {len(table)} rows, where {0 if working is None else len(working)} were"]


def _working_table(path: Path) -> pd.DataFrame | None:
    """The table in the working folder. Its assignments are valid even if their commit is lost. None if unreadable."""
    try:
        return cohorts.read_cohorts(path).astype(str) if path.is_file() else None
    except (Fault, ValueError):
        return None


def _add_missing_rows(table: pd.DataFrame, source: pd.DataFrame) -> pd.DataFrame:
    """The table with the rows of `source` whose cluster it lacks, under its mark and under its stand-in."""
    clusters = set(table["cluster"])
    is_missing = [
        name not in clusters and f"{withdrawn_rows.STAND_IN}{name[:12]}" not in clusters for name in source["cluster"]
    ]
    return pd.concat([table, source[is_missing]], ignore_index=True)


def _reassign_clusters(table: pd.DataFrame, pair: str, event: Event) -> pd.DataFrame | None:
    """New rows for a batch's clusters that have no row anywhere, by the original rule. None if there are none.

    The rule depends only on content, seed and the earlier table. If a model has learned from the batch since, its
    sides are not guessed, and `verify` continues to name them.
    """
    clusters = verify_workspace.clusters_without_side(table, pair)
    task, name = pair.split("/")
    if not clusters:
        return None
    models = [
        str(model.payload["version"])
        for model in ledger.events(kind=EventKind.MODEL_LOGGED, subject=task)
        if name in model.payload["batches"]
    ]
    if models:
        log.warning(
            "%s/%s has learned from %s: bring data/cohorts/%s.csv back from a backup", task, models[0], pair, task
        )
        return None
    settings = params.load()
    manifest = batch_manifest.read_manifest(Path("data/batches", pair, "manifest.csv"))
    promotions = [
        promotion
        for promotion in ledger.events(kind=EventKind.MODEL_PROMOTED, subject=task)
        if promotion.seq < event.seq
    ]
    epoch = 1 + len(promotions)
    earlier_rows = table.astype({"epoch": int})
    rows = cohorts.assign_cohorts(manifest, earlier_rows, settings.split, epoch, name, settings.task(task))
    return withdrawn_rows.mark_clusters(rows.assign(assigned_at=event.payload["received"])).astype(str)
