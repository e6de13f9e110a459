"""Verification that git, DVC, cohort tables and ledger of a workspace agree, with every difference by name."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from data.batch import withdrawn_rows
from data.core_types import Side
from data.dataset import cohorts
from lineage import current_state, mlflow_registry, paths
from lineage.errors import Fault
from lineage.record import ledger
from lineage.record.events import EventKind
from lineage.record.ledger import Event
from lineage.record.verdict import Outcome, Verdict
from pipelines.recovery import recorded_admissions
from pipelines.workspace import dvc, dvc_objects, git
from serving.inference import release_integrity

VERSION_EVENTS = (  # they name a data version
    *(EventKind.BATCH_ADMITTED, EventKind.MODEL_LOGGED),
    *(EventKind.PATIENT_WITHDRAWN, EventKind.TASK_ADDED),
)
TABLE_SUFFIXES = (".csv", ".json")  # always read; scans and arrays only with `full`


@dataclass(frozen=True)
class Problem:
    """One difference: the batch, version or table, the text, and whether it would harm training."""

    subject: str
    text: str
    is_harmful: bool = True

    def __str__(self) -> str:
        """Subject and text in one line."""
        return f"{self.subject}: {self.text}"


def verify(full: bool = False) -> Verdict:
    """Compare everything. With `full` every byte of scans, cache and remote is read and hashed too.

    Fail: something that the ledger names is missing or changed. Inconclusive: only quarantined evidence is missing,
    or a repair recorded something as lost for good.
    """
    batches, losses = recorded_admissions.admitted_batches(), recorded_admissions.permanent_losses()
    problems = [
        *_check_versions(),
        *_check_batches(batches, dvc.object_stores(), full),
        *_check_cohorts(batches),
        *_check_quarantine(),
        *_check_models(),
        *_check_releases(),
    ]
    loss_reasons = [
        f"{pair}: its data are lost for good, as a repair has recorded; its folder may be admitted again"
        for pair in sorted(losses["batches"])
    ]
    loss_reasons += [
        f"data version {version[:12]}: lost for good, as a repair has recorded; it can't be checked out"
        for version in sorted(losses["versions"])
    ]
    reasons = [str(problem) for problem in problems] + loss_reasons
    outcome = Outcome.INCONCLUSIVE if problems or losses["batches"] else Outcome.PASS
    if any(problem.is_harmful for problem in problems):
        outcome = Outcome.FAIL
    figures = {"batches": len(batches), "problems": len(problems), "lost": len(loss_reasons), "every_byte": full}
    present_count = len(batches) - len(losses["batches"])
    if not problems:
        reasons += [
            f"{present_count} batches are present as they were admitted: git, DVC, cohort tables and ledger agree"
        ]
    return Verdict("workspace", "workspace", outcome, tuple(reasons), figures)


def _check_versions() -> Iterator[Problem]:
    """The commits that the ledger names and that are not in the history of today's commit."""
    history = set(git.run("rev-list", "HEAD").split())
    lost_versions = recorded_admissions.permanent_losses()["versions"]
    naming_events: dict[str, str] = {}
    for kind in VERSION_EVENTS:
        for event in ledger.events(kind=kind):
            version = str(event.payload.get("data_version") or event.payload.get("version") or "")
            naming_events.setdefault(version, f"{kind} {event.subject}")
    for version, event_name in naming_events.items():
        if version not in history and version not in lost_versions:
            is_in_git = bool(git.run("cat-file", "-t", version, check=False))
            fact = "is outside the history of today's commit" if is_in_git else "is not in this git at all"
            yield Problem(f"data version {version[:12]}", f"{fact} (named by {event_name})")


def _check_batches(batches: dict[str, Event], stores: dict[str, Path], full: bool) -> Iterator[Problem]:
    committed, lost_batches = git.batches_of("HEAD"), recorded_admissions.permanent_losses()["batches"]
    for pair in recorded_admissions.compare_with_git().returned:
        yield Problem(pair, "a patient of it was withdrawn, and today's commit has it again")
    for pair, event in batches.items():
        path = Path("data/batches", f"{pair}.dvc")
        if pair in committed:
            yield from _check_batch(pair, event, path, stores, full)
        elif pair not in lost_batches:
            yield Problem(pair, f"the ledger has it (event {event.seq}), today's commit does not: {path} is missing")


def _check_batch(pair: str, event: Event, path: Path, stores: dict[str, Path], full: bool) -> Iterator[Problem]:
    """Check one batch: its `.dvc` file, its objects, its folder."""
    text = git.committed_text(str(path))
    admitted_text = git.committed_text(str(path), str(event.payload["data_version"]))
    try:
        pointer = dvc_objects.read_pointer(text)
        if admitted_text and dvc_objects.read_pointer(admitted_text) != pointer:
            yield Problem(pair, f"{path} was changed after it was admitted")
    except ValueError:
        yield Problem(pair, f"{path} is no .dvc file of a folder")
        return
    if not path.is_file() or path.read_text(encoding="utf-8").strip() != text:
        yield Problem(pair, f"{path} is {'changed' if path.is_file() else 'missing'} in the working folder")
    files = dvc_objects.folder_listing(stores.values(), pointer.md5)
    if files is None:
        yield Problem(pair, f"its list of files ({pointer.md5}) is neither in cache nor remote")
        return
    for name, store in stores.items():
        yield from _check_objects(pair, {pointer.md5, *files.values()}, name, store, full)
    yield from _check_folder(pair, event, files, full)


def _check_objects(pair: str, objects: set[str], name: str, store: Path, full: bool) -> Iterator[Problem]:
    missing = {md5 for md5 in objects if not dvc_objects.object_path(store, md5).is_file()}
    if missing:
        yield Problem(pair, f"{len(missing)} of its {len(objects)} objects are missing in {name}")
    present = sorted(objects - missing) if full else []
    wrong_objects = [md5 for md5 in present if not dvc_objects.is_sound(dvc_objects.object_path(store, md5), md5)]
    if wrong_objects:
        yield Problem(pair, f"{len(wrong_objects)} of its objects in {name} have other bytes ({wrong_objects[0]})")


def _check_folder(pair: str, event: Event, files: dict[str, str], full: bool) -> Iterator[Problem]:
    """Check the batch's folder, which stages and checks read."""
    folder = Path("data/batches", pair)
    missing = sorted(name for name in files if not (folder / name).is_file())
    if missing:
        yield Problem(pair, f"{len(missing)} of its {len(files)} files are missing in {folder} ({missing[0]})")
    hashed_files = [name for name in files if name not in missing and (full or Path(name).suffix in TABLE_SUFFIXES)]
    changed_files = sorted(name for name in hashed_files if not dvc_objects.is_sound(folder / name, files[name]))
    if changed_files:
        yield Problem(pair, f"{len(changed_files)} files in {folder} were changed ({changed_files[0]})")
    record = folder / "record.json"
    if record.is_file() and "record.json" not in changed_files:
        facts = json.loads(record.read_text(encoding="utf-8"))
        compared_names = ("task", "batch", "digest", "units", "clusters")
        differences = [name for name in compared_names if facts.get(name) != event.payload.get(name)]
        if differences:
            yield Problem(pair, f"its record and event {event.seq} of the ledger differ in {', '.join(differences)}")


def _check_cohorts(batches: dict[str, Event]) -> Iterator[Problem]:
    """Check each cohort table: no row changed since the newest version in git, and every cluster has one side."""
    for task in sorted({str(event.payload["task"]) for event in batches.values()}):
        path = Path("data/cohorts", f"{task}.csv")
        try:
            committed, working = cohort_table_at(path, "HEAD"), cohorts.read_cohorts(path)
        except (Fault, ValueError) as error:
            yield Problem(str(path), f"can't be read: {error}")
            continue
        newest = newest_cohort_table(task)
        for table, place in ((committed, "in today's commit"), (working.astype(str), "in the working folder")):
            if change := withdrawn_rows.changed_row(newest, table) if newest is not None else None:
                yield Problem(str(path), f"{place}, an old assignment is gone or changed: {change}")
        yield from _check_sides(path, working, {pair for pair in batches if pair.split("/")[0] == task})


def _check_sides(path: Path, table: pd.DataFrame, pairs: set[str]) -> Iterator[Problem]:
    duplicates = [name for name, count in Counter(table["cluster"]).items() if count > 1]
    if duplicates:
        yield Problem(str(path), f"{len(duplicates)} clusters occur in it twice ({duplicates[0][:12]})")
    if unknown_sides := sorted(set(table["side"]) - {side.value for side in Side}):
        yield Problem(str(path), f"{unknown_sides[0]!r} is no side")
    for pair in sorted(pairs):
        if clusters := clusters_without_side(table, pair):
            yield Problem(pair, f"{len(clusters)} of its clusters have no side in {path}")


def clusters_without_side(table: pd.DataFrame, pair: str) -> set[str]:
    """The clusters of an admitted batch, by name, without a row in a cohort table. Empty if its folder is missing."""
    manifest = Path("data/batches", pair, "manifest.csv")
    if not manifest.is_file():
        return set()
    rows = pd.read_csv(manifest, dtype=str, keep_default_na=False)
    clusters = rows["cluster"].drop_duplicates() if "cluster" in rows else pd.Series(dtype=str)
    return set(clusters[~cohorts.names_in_cohorts(clusters, table).isin(table["cluster"])])


def newest_cohort_table(task: str) -> pd.DataFrame | None:
    """The cohort table of a task in its newest version that is still in git. None if no version is."""
    path = Path("data/cohorts", f"{task}.csv")
    admitted = [event for event in ledger.events(kind=EventKind.BATCH_ADMITTED) if event.payload["task"] == task]
    for event in reversed(admitted):
        if git.committed_text(str(path), str(event.payload["data_version"])):
            return cohort_table_at(path, str(event.payload["data_version"]))
    return None


def cohort_table_at(path: Path, version: str) -> pd.DataFrame:
    """A cohort table in a version, all cells as text."""
    text = git.committed_text(str(path), version) or ",".join(cohorts.COHORTS)
    return pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)


def _check_quarantine() -> Iterator[Problem]:
    """The missing copies of refused batches. They are evidence in no data version, so training is not harmed."""
    for name in dict.fromkeys(event.subject for event in ledger.events(kind=EventKind.BATCH_QUARANTINED)):
        if not Path("data/quarantine", name).is_dir():
            yield Problem(
                f"data/quarantine/{name}",
                "the copy of this quarantined batch, with the reasons, is missing",
                is_harmful=False,
            )


def _check_models() -> Iterator[Problem]:
    logged = [(event.subject, str(event.payload["version"])) for event in ledger.events(kind=EventKind.MODEL_LOGGED)]
    for task in dict.fromkeys(task for task, _ in logged):
        present = mlflow_registry.versions(task)
        for version in [number for name, number in logged if name == task and number not in present]:
            yield Problem(f"{task}/{version}", "the ledger has this model, MLflow does not")
        for version in dict.fromkeys(number for name, number in logged if name == task and number in present):
            yield from _check_artifacts(task, version)


def _check_artifacts(task: str, version: str) -> Iterator[Problem]:
    """The files of a version that differ from those that the training gate judged."""
    try:
        for name, value in mlflow_registry.changed_artifacts(task, version).items():
            fact = "has other bytes than the training gate judged" if value else "is missing"
            yield Problem(f"{task}/{version}", f"{name} in MLflow {fact}")
    except Fault as fault:
        yield Problem(f"{task}/{version}", str(fault))


def _check_releases() -> Iterator[Problem]:
    """Check that the release to serve exists, and that folder and Bento of every present release are unchanged."""
    served = current_state.release_to_serve()
    if served and not (paths.home() / "releases" / served.subject / "manifest.json").is_file():
        yield Problem(f"release {served.subject}", "it is the release to serve, and its folder is missing")
    built = {
        event.subject: str(event.payload.get("bento", ""))
        for kind in release_integrity.BUILD_EVENTS
        for event in ledger.events(kind=kind)
    }
    for name, tag in built.items():
        if (folder := paths.home() / "releases" / name).is_dir():
            yield from _check_release(name, release_integrity.check_release, folder)
        if tag and release_integrity.bento_folder(tag).is_dir():
            yield from _check_release(name, release_integrity.check_bento, tag)


def _check_release(name: str, check: Callable[..., None], subject: Path | str) -> Iterator[Problem]:
    try:
        check(subject)
    except Fault as fault:
        yield Problem(f"release {name}", str(fault))
