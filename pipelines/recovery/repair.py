"""Repair of a harmed workspace: brings back what git's objects, DVC's cache and remote, and the ledger still know."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from data.batch import manifest as batch_manifest
from data.batch import withdrawal
from data.dataset import cohorts
from lineage import json_files
from lineage.errors import Fault
from lineage.record import ledger
from lineage.record.ledger import Event
from pipelines import params
from pipelines.recovery import interrupted_runs, recorded_admissions, verify_workspace
from pipelines.workspace import dvc, dvc_objects, git, stale_locks
from pipelines.workspace.workspace import alone

log = logging.getLogger(__name__)


def repair() -> list[str]:
    """Bring back history, `.dvc` files, cohort tables and objects; what was done, in words. Written to the ledger.

    What nothing knows any more is written down as lost, by name, so that work can go on: its folder may be admitted
    anew. Nothing that is there is overwritten unless its bytes are not those that the ledger's versions name.
    """
    with alone("workspace"):
        stale_locks.mend(Path.cwd())
        done, stores, batches = _history(), dvc.stores(), recorded_admissions.admitted()
        returned = recorded_admissions.lacking().returned
        for pair in returned:
            done += _take_away(Path("data/batches", pair))
        for pair, event in batches.items():
            done += _pointer(pair, event, stores)
        for pair in batches:
            done += _objects(pair, stores)
        for task in sorted({pair.split("/")[0] for pair in batches}):
            done += _cohorts(task, batches)
        version = _commit(list(batches), returned)
        left = recorded_admissions.lacking()
        if done or left.batches or left.versions:
            lost = {"batches": list(left.batches), "versions": list(left.versions)}
            facts = {"restored": done, "lost": lost, "data_version": version}
            ledger.append(recorded_admissions.REPAIRED, "workspace", facts)
        interrupted_runs.settle()
        dvc.push()
    return done


def _history() -> list[str]:
    """A commit with the files of today's whose parents are also the versions that fell out of history."""
    there = [
        version for version in recorded_admissions.lacking().versions if git.run("cat-file", "-t", version, check=False)
    ]
    if not there:
        return []
    parents = [word for version in (git.head(), *there) for word in ("-p", version)]
    text = "Take back the versions that the ledger names"
    git.run("update-ref", "HEAD", git.run("commit-tree", "HEAD^{tree}", *parents, "-m", text))
    return [f"data version {version[:12]}: in the history again" for version in there]


def _commit(pairs: list[str], returned: tuple[str, ...]) -> str:
    """The `.dvc` files, tables and ignore lists alone: what an interrupted admission left is not committed."""
    tasks = sorted({pair.split("/")[0] for pair in pairs})
    for pair in pairs:
        _ignore(Path("data/batches", pair))
    if returned:
        gone = [f"data/batches/{pair}.dvc" for pair in returned]
        git.run("rm", "--quiet", "--cached", "--ignore-unmatch", "--", *gone)
    paths = [
        *(f"data/batches/{pair}.dvc" for pair in pairs),
        *(f"data/cohorts/{task}.csv" for task in tasks),
        *(f"data/batches/{task}/.gitignore" for task in tasks),
    ]
    return git.commit(paths, "Bring back what the ledger names")


def _ignore(folder: Path) -> None:
    """The line by which git leaves a batch's own files to DVC."""
    path, line = folder.with_name(".gitignore"), f"/{folder.name}"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    if folder.with_name(f"{folder.name}.dvc").is_file() and line not in text.splitlines():
        path.write_text(f"{text}{line}\n", encoding="utf-8")


def _take_away(folder: Path) -> list[str]:
    """A batch that a withdrawal had taken away goes again; its successor comes back with the others."""
    folder.with_name(f"{folder.name}.dvc").unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    return [f"{folder}: taken away again, since a patient of it was withdrawn"]


def _pointer(pair: str, event: Event, stores: Mapping[str, Path]) -> list[str]:
    """The `.dvc` file of a batch: from the commit that admitted it or today's, else from what the stores hold."""
    path = Path("data/batches", f"{pair}.dvc")
    version = str(event.payload["data_version"])
    text = git.committed(str(path), version) or git.committed(str(path)) or _known(path, event, stores)
    if text and (not path.is_file() or path.read_text(encoding="utf-8").strip() != text.strip()):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.strip() + "\n", encoding="utf-8")
        return [f"{pair}: {path} is back"]
    if text:
        return []
    for md5, files in dvc_objects.lists(stores.values()):
        if _is_of(event, _object(files.get("record.json", ""), stores)):
            folder = Path("data/batches", pair)
            shutil.rmtree(folder, ignore_errors=True)
            for name, each in files.items():
                _put(_object(each, stores), folder / name)
            dvc.add(folder)
            return [f"{pair}: {path} and its folder are made again from the stored list {md5}"]
    return []


def _known(path: Path, event: Event, stores: Mapping[str, Path]) -> str:
    """The text of a `.dvc` file that lies here, if what it points to is the batch of the ledger; else empty."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    try:
        files = dvc_objects.listing(stores.values(), dvc_objects.pointer(text).md5) or {}
    except ValueError:
        return ""
    return text if _is_of(event, _object(files.get("record.json", ""), stores)) else ""


def _is_of(event: Event, record: Path | None) -> bool:
    """Whether a record.json is that of the admission which the ledger names."""
    facts = json_files.read_json(record) if record else {}
    return bool(facts) and all(facts.get(name) == event.payload[name] for name in ("task", "batch", "digest"))


def _object(md5: str, stores: Mapping[str, Path]) -> Path | None:
    """A sound copy of an object."""
    paths = [dvc_objects.location(store, md5) for store in stores.values()] if md5 else []
    return next((path for path in paths if dvc_objects.is_sound(path, md5)), None)


def _put(source: Path | None, target: Path) -> None:
    if source is not None:
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f"{target.name}.part")
        shutil.copyfile(source, part)
        part.chmod(0o444)  # as DVC's own: what is shared with the cache must not be written to
        part.replace(target)


def _objects(pair: str, stores: Mapping[str, Path]) -> list[str]:
    """Objects that one store lacks, or holds with other bytes, from the other one or from the batch's own folder."""
    path, folder = Path("data/batches", f"{pair}.dvc"), Path("data/batches", pair)
    if not path.is_file():
        return []
    md5 = dvc_objects.pointer(path.read_text(encoding="utf-8")).md5
    if "remote" not in stores:
        dvc.fetch(path)  # it is on another machine
    files = dvc_objects.listing(stores.values(), md5) or _listed_anew(path, md5, stores)
    if files is None:
        return []
    mended = 0
    for name, each in {".": md5, **files}.items():
        sound = _object(each, stores) or (folder / name if dvc_objects.is_sound(folder / name, each) else None)
        for store in stores.values():
            target = dvc_objects.location(store, each)
            if sound is not None and not dvc_objects.is_sound(target, each):
                _put(sound, target)
                mended += 1
    wrong = [name for name, each in files.items() if not dvc_objects.is_sound(folder / name, each)]
    for name in wrong:
        _put(_object(files[name], stores), folder / name)
    done = [f"{pair}: {mended} objects are back in cache or remote"] if mended else []
    return done + ([f"{pair}: {len(wrong)} files are back in {folder}"] if wrong else [])


def _listed_anew(path: Path, md5: str, stores: Mapping[str, Path]) -> dict[str, str] | None:
    """The list of a batch whose folder gives the very list that was lost; else None, and nothing changes."""
    if not path.with_suffix("").is_dir():
        return None
    text = path.read_text(encoding="utf-8")
    dvc.add(path.with_suffix(""))
    if dvc_objects.pointer(path.read_text(encoding="utf-8")).md5 != md5:
        path.write_text(text, encoding="utf-8")
    return dvc_objects.listing(stores.values(), md5)


def _cohorts(task: str, batches: Mapping[str, Event]) -> list[str]:
    """The table of the newest version that is there, the rows that only another one knows, and new rows by the rule."""
    path = Path("data/cohorts", f"{task}.csv")
    committed = verify_workspace.cohorts_of(path, "HEAD")
    before = verify_workspace.newest_cohorts(task)
    table = committed if before is None or withdrawal.changed_row(before, committed) is None else before
    versions = [str(event.payload["data_version"]) for pair, event in batches.items() if pair.split("/")[0] == task]
    here = _uncommitted(path)
    names = {pair.split("/")[1] for pair in batches}
    for other in [committed, *(verify_workspace.cohorts_of(path, version) for version in versions)]:
        table = _joined(table, other)
    table = _joined(table, here[here["batch"].isin(names)]) if here is not None else table
    table = table.drop_duplicates("cluster", ignore_index=True)
    done = []
    for pair, event in batches.items():
        if pair.split("/")[0] == task and (fresh := _dealt(table, pair, event)) is not None:
            table = pd.concat([table, fresh], ignore_index=True)
            done.append(f"{path}: {len(fresh)} clusters of {pair} have their sides again, by the same rule")
    if here is not None and table.equals(here):
        return done
    cohorts.write_cohorts(path, table)
    return [*done, f"{path}: {len(table)} rows, where {0 if here is None else len(here)} were"]


def _uncommitted(path: Path) -> pd.DataFrame | None:
    """The table as it lies here: what was dealt before the commit was lost is still true. None if it can't be read."""
    try:
        return cohorts.read_cohorts(path).astype(str) if path.is_file() else None
    except (Fault, ValueError):
        return None


def _joined(table: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    """The table with the rows of another that it knows under no name, a withdrawn cluster's stand-in included."""
    known = set(table["cluster"])
    stays = [name not in known and f"{withdrawal.STAND_IN}{name[:12]}" not in known for name in other["cluster"]]
    return pd.concat([table, other[stays]], ignore_index=True)


def _dealt(table: pd.DataFrame, pair: str, event: Event) -> pd.DataFrame | None:
    """The sides of clusters whose rows nothing holds any more, by the rule that dealt them; None where there are none.

    The rule knows only content, seed and the table before. Where a model has learned from the batch since, its sides
    are not guessed: `verify` goes on to name them.
    """
    lacking = verify_workspace.without_side(table, pair)
    task, name = pair.split("/")
    learned = [
        str(model.payload["version"])
        for model in ledger.events(kind="model.logged", subject=task)
        if lacking and name in model.payload["batches"]
    ]
    if learned:
        log.warning(
            "%s/%s has learned from %s: bring data/cohorts/%s.csv back from a backup", task, learned[0], pair, task
        )
    if learned or not lacking:
        return None
    settings = params.load()
    manifest = batch_manifest.read_manifest(Path("data/batches", pair, "manifest.csv"))
    epoch = 1 + len([e for e in ledger.events(kind="model.promoted", subject=task) if e.seq < event.seq])
    numbered = table.astype({"epoch": int})
    rows = cohorts.assign(manifest, numbered, settings.split, epoch, name, settings.task(task))
    return withdrawal.marked(rows.assign(assigned_at=event.payload["received"])).astype(str)
