"""Do git, DVC, cohort tables and ledger of a workspace agree? Everything that is missing or changed, by name."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from data.batch import withdrawal
from data.dataset import cohorts
from data.record import Side
from lineage import paths, registry
from lineage.errors import Fault
from lineage.record import ledger
from lineage.record.ledger import Event
from lineage.record.verdict import Outcome, Verdict
from pipelines.models import release
from pipelines.recovery import recorded_admissions
from pipelines.workspace import dvc, dvc_objects, git
from serving.inference import release_integrity

NAMING = ("batch.admitted", "model.logged", "patient.withdrawn", "task.added")  # events with a data version
SMALL = (".csv", ".json")  # tables of a batch: always read; scans and arrays only with `full`


@dataclass(frozen=True)
class Problem:
    """What disagrees: of which batch, version or table; in words; whether training would be harmed by it."""

    subject: str
    text: str
    harm: bool = True

    def __str__(self) -> str:
        """One line."""
        return f"{self.subject}: {self.text}"


def verify(full: bool = False) -> Verdict:
    """Compare everything; with `full` every byte of scans, cache and remote is read and hashed too.

    Fail: something that the ledger names is missing or changed. Inconclusive: only evidence beside the data is, or a
    repair has written down that something is lost for good.
    """
    batches, lost = recorded_admissions.admitted(), recorded_admissions.lost_for_good()
    problems = [
        *_versions(),
        *_batches(batches, dvc.stores(), full),
        *_cohorts(batches),
        *_quarantine(),
        *_models(),
        *_release(),
    ]
    gone = [
        f"{pair}: its data are lost for good, as a repair has written down; its folder may be admitted anew"
        for pair in sorted(lost["batches"])
    ]
    gone += [
        f"data version {version[:12]}: lost for good, as a repair has written down; it can't be checked out"
        for version in sorted(lost["versions"])
    ]
    reasons = [str(problem) for problem in problems] + gone
    outcome = Outcome.INCONCLUSIVE if problems or lost["batches"] else Outcome.PASS
    if any(problem.harm for problem in problems):
        outcome = Outcome.FAIL
    figures = {"batches": len(batches), "problems": len(problems), "lost": len(gone), "every_byte": full}
    sound = len(batches) - len(lost["batches"])
    agreed = f"{sound} batches are here as they were admitted: git, DVC, cohort tables and ledger agree"
    reasons += [agreed] if not problems else []
    return Verdict("workspace", "workspace", outcome, tuple(reasons), figures)


def _versions() -> Iterator[Problem]:
    """Commits that the ledger names and the history of today's commit does not hold."""
    history, lost = set(git.run("rev-list", "HEAD").split()), recorded_admissions.lost_for_good()["versions"]
    named: dict[str, str] = {}
    for kind in NAMING:
        for event in ledger.events(kind=kind):
            version = str(event.payload.get("data_version") or event.payload.get("version") or "")
            named.setdefault(version, f"{kind} {event.subject}")
    for version, where in named.items():
        if version not in history and version not in lost:
            there = bool(git.run("cat-file", "-t", version, check=False))
            what = "is outside the history of today's commit" if there else "is not in this git at all"
            yield Problem(f"data version {version[:12]}", f"{what} (named by {where})")


def _batches(batches: dict[str, Event], stores: dict[str, Path], full: bool) -> Iterator[Problem]:
    committed, lost = git.batches_of("HEAD"), recorded_admissions.lost_for_good()["batches"]
    for pair in recorded_admissions.lacking().returned:
        yield Problem(pair, "a patient of it was withdrawn, and today's commit has it again")
    for pair, event in batches.items():
        path = Path("data/batches", f"{pair}.dvc")
        if pair in committed:
            yield from _batch(pair, event, path, stores, full)
        elif pair not in lost:
            yield Problem(pair, f"the ledger has it (event {event.seq}), today's commit does not: {path} is missing")


def _batch(pair: str, event: Event, path: Path, stores: dict[str, Path], full: bool) -> Iterator[Problem]:
    """One batch: its `.dvc` file, its objects, its folder."""
    text = git.committed(str(path))
    before = git.committed(str(path), str(event.payload["data_version"]))
    try:
        pointer = dvc_objects.pointer(text)
        if before and dvc_objects.pointer(before) != pointer:
            yield Problem(pair, f"{path} was changed after it was admitted")
    except ValueError:
        yield Problem(pair, f"{path} is no .dvc file of a folder")
        return
    if not path.is_file() or path.read_text(encoding="utf-8").strip() != text:
        yield Problem(pair, f"{path} is {'changed' if path.is_file() else 'missing'} in the working folder")
    files = dvc_objects.listing(stores.values(), pointer.md5)
    if files is None:
        yield Problem(pair, f"its list of files ({pointer.md5}) is neither in cache nor remote")
        return
    for name, store in stores.items():
        yield from _objects(pair, {pointer.md5, *files.values()}, name, store, full)
    yield from _folder(pair, event, files, full)


def _objects(pair: str, wanted: set[str], name: str, store: Path, full: bool) -> Iterator[Problem]:
    missing = {md5 for md5 in wanted if not dvc_objects.location(store, md5).is_file()}
    if missing:
        yield Problem(pair, f"{len(missing)} of its {len(wanted)} objects are missing in {name}")
    present = sorted(wanted - missing) if full else []
    wrong = [md5 for md5 in present if not dvc_objects.is_sound(dvc_objects.location(store, md5), md5)]
    if wrong:
        yield Problem(pair, f"{len(wrong)} of its objects in {name} have other bytes ({wrong[0]})")


def _folder(pair: str, event: Event, files: dict[str, str], full: bool) -> Iterator[Problem]:
    """The batch's folder, which stages and checks read."""
    folder = Path("data/batches", pair)
    missing = sorted(name for name in files if not (folder / name).is_file())
    if missing:
        yield Problem(pair, f"{len(missing)} of its {len(files)} files are missing in {folder} ({missing[0]})")
    read = [name for name in files if name not in missing and (full or Path(name).suffix in SMALL)]
    wrong = sorted(name for name in read if not dvc_objects.is_sound(folder / name, files[name]))
    if wrong:
        yield Problem(pair, f"{len(wrong)} files in {folder} were changed ({wrong[0]})")
    record = folder / "record.json"
    if record.is_file() and "record.json" not in wrong:
        facts = json.loads(record.read_text(encoding="utf-8"))
        told = ("task", "batch", "digest", "units", "clusters")
        names = [name for name in told if facts.get(name) != event.payload.get(name)]
        if names:
            yield Problem(pair, f"its record and event {event.seq} of the ledger differ in {', '.join(names)}")


def _cohorts(batches: dict[str, Event]) -> Iterator[Problem]:
    """Tables of sides: nothing changed since the newest version that is there, and one side for every cluster."""
    for task in sorted({str(event.payload["task"]) for event in batches.values()}):
        path = Path("data/cohorts", f"{task}.csv")
        try:
            committed, here = cohorts_of(path, "HEAD"), cohorts.read_cohorts(path)
        except (Fault, ValueError) as error:
            yield Problem(str(path), f"can't be read: {error}")
            continue
        before = newest_cohorts(task)
        for table, where in ((committed, "in today's commit"), (here.astype(str), "in the working folder")):
            if wrong := withdrawal.changed_row(before, table) if before is not None else None:
                yield Problem(str(path), f"{where}, an old assignment is gone or changed: {wrong}")
        yield from _sides(path, here, {pair for pair in batches if pair.split("/")[0] == task})


def _sides(path: Path, table: pd.DataFrame, pairs: set[str]) -> Iterator[Problem]:
    twice = [name for name, count in Counter(table["cluster"]).items() if count > 1]
    if twice:
        yield Problem(str(path), f"{len(twice)} clusters stand in it twice ({twice[0][:12]})")
    if unknown := sorted(set(table["side"]) - {side.value for side in Side}):
        yield Problem(str(path), f"{unknown[0]!r} is no side")
    for pair in sorted(pairs):
        if lacking := without_side(table, pair):
            yield Problem(pair, f"{len(lacking)} of its clusters have no side in {path}")


def without_side(table: pd.DataFrame, pair: str) -> set[str]:
    """The clusters of an admitted batch, by name, that a cohort table does not know; none where its folder is gone."""
    manifest = Path("data/batches", pair, "manifest.csv")
    if not manifest.is_file():
        return set()
    rows = pd.read_csv(manifest, dtype=str, keep_default_na=False)
    clusters = rows["cluster"].drop_duplicates() if "cluster" in rows else pd.Series(dtype=str)
    return set(clusters[~cohorts.called(clusters, table).isin(table["cluster"])])


def newest_cohorts(task: str) -> pd.DataFrame | None:
    """The table of the newest version of a task that is still in git; None if none is."""
    path = Path("data/cohorts", f"{task}.csv")
    admitted = [event for event in ledger.events(kind=recorded_admissions.ADMITTED) if event.payload["task"] == task]
    for event in reversed(admitted):
        if git.committed(str(path), str(event.payload["data_version"])):
            return cohorts_of(path, str(event.payload["data_version"]))
    return None


def cohorts_of(path: Path, version: str) -> pd.DataFrame:
    """A cohort table as a version holds it, all cells as text."""
    text = git.committed(str(path), version) or ",".join(cohorts.COHORTS)
    return pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)


def _quarantine() -> Iterator[Problem]:
    """Copies of refused batches lie in no version: they are evidence, and nothing learns from them."""
    for name in dict.fromkeys(event.subject for event in ledger.events(kind="batch.quarantined")):
        if not Path("data/quarantine", name).is_dir():
            yield Problem(f"data/quarantine/{name}", "what stayed out, and why, is no longer there", harm=False)


def _models() -> Iterator[Problem]:
    logged = [(event.subject, str(event.payload["version"])) for event in ledger.events(kind="model.logged")]
    for task in dict.fromkeys(task for task, _ in logged):
        present = registry.versions(task)
        for version in [number for name, number in logged if name == task and number not in present]:
            yield Problem(f"{task}/{version}", "the ledger has this model, MLflow does not")
        for version in dict.fromkeys(number for name, number in logged if name == task and number in present):
            yield from _artifacts(task, version)


def _artifacts(task: str, version: str) -> Iterator[Problem]:
    """The files of a version that are not what the training gate judged."""
    try:
        for name, value in registry.changed_artifacts(task, version).items():
            fact = "has other bytes than the training gate judged" if value else "is missing"
            yield Problem(f"{task}/{version}", f"{name} in MLflow {fact}")
    except Fault as fault:
        yield Problem(f"{task}/{version}", str(fault))


def _release() -> Iterator[Problem]:
    """The wanted release is there; folder and Bento of every release that is kept hold what was built."""
    wanted = release.wanted()
    if wanted and not (paths.home() / "releases" / wanted.subject / "manifest.json").is_file():
        yield Problem(f"release {wanted.subject}", "it should answer, and its folder is no longer there")
    built = {
        event.subject: str(event.payload.get("bento", ""))
        for kind in release_integrity.BUILT
        for event in ledger.events(kind=kind)
    }
    for name, tag in built.items():
        if (folder := paths.home() / "releases" / name).is_dir():
            yield from _refused(name, release_integrity.check_release, folder)
        if tag and release_integrity.bento(tag).is_dir():
            yield from _refused(name, release_integrity.check_bento, tag)


def _refused(release: str, check: Callable[..., None], subject: Path | str) -> Iterator[Problem]:
    try:
        check(subject)
    except Fault as fault:
        yield Problem(f"release {release}", str(fault))
