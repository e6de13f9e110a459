"""The MLflow door for versions and aliases. Who is champion is decided in the ledger; aliases are its projection."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote
from urllib.request import urlopen

from lineage import model_files
from lineage.errors import Fault
from lineage.paths import home, place, set_environment
from lineage.record import ledger

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

log = logging.getLogger(__name__)

HEALTH_S = 5.0
ALIASES = ("champion", "previous", "anchor")


def register(task: str, run_id: str, artifact_path: str, tags: dict[str, str]) -> str:
    """Make a run's model artefacts the next version of a task's model; the version's number.

    A run is registered once: called again for the same run and path, it answers with the version that is there.
    """
    from mlflow.exceptions import MlflowException

    client = _client()
    if not client.search_registered_models(f"name='{task}'"):
        client.create_registered_model(task)
    try:
        source = f"{client.get_run(run_id).info.artifact_uri}/{artifact_path}"
    except MlflowException as error:
        raise Fault(f"MLflow has no run {run_id!r} that {task} could be registered from: {_line(error)}") from error
    for known in client.search_model_versions(f"name='{task}'"):
        if known.run_id == run_id and known.source == source:
            return str(known.version)
    made = client.create_model_version(task, source, run_id=run_id, tags=tags)
    return str(made.version)


def download(task: str, version: str) -> Path:
    """A local folder with a version's model artefacts.

    Fault that names the file where one is not what the gate judged: MLflow's server takes uploads into any run.
    """
    target = place("mlflow", "downloads", task, version)
    target.mkdir(parents=True, exist_ok=True)
    folder = _fetch(task, version, target)
    model_files.check(task, version, folder)
    return folder


def check_artifacts(task: str, version: str) -> None:
    """Fault that names the first file in MLflow which is not what the gate judged."""
    with tempfile.TemporaryDirectory(dir=home()) as target:
        model_files.check(task, version, _fetch(task, version, Path(target)))


def changed_artifacts(task: str, version: str) -> dict[str, str | None]:
    """The files in MLflow that differ from what is recorded: their SHA-256 now, None for one that is missing.

    Empty for a version whose files were never recorded.
    """
    hashes = model_files.recorded(task, version)
    if hashes is None:
        return {}
    with tempfile.TemporaryDirectory(dir=home()) as target:
        return model_files.changed(hashes, _fetch(task, version, Path(target)))


def tags(task: str, version: str) -> dict[str, str]:
    """The tags of a version, and its `run_id`."""
    found = _version(task, version)
    return {**found.tags, "run_id": str(found.run_id)}


def mark(task: str, version: str, facts: dict[str, str]) -> None:
    """Add tags to a version and to the run that it came from."""
    client, found = _client(), _version(task, version)
    for name, value in facts.items():
        client.set_model_version_tag(task, version, name, value)
        client.set_tag(str(found.run_id), name, value)


def versions(task: str) -> list[str]:
    """The registered versions of a task, oldest first."""
    return [str(number) for number in sorted(int(v.version) for v in _client().search_model_versions(f"name='{task}'"))]


def run_facts(run_id: str) -> dict[str, object]:
    """What MLflow knows of a run: its status, parameters, final metrics and tags, and where its artefacts are."""
    from mlflow.exceptions import MlflowException

    try:
        run = _client().get_run(run_id)
    except MlflowException as error:
        raise Fault(f"MLflow has no run {run_id!r}: {_line(error)}") from error
    own = {name: value for name, value in run.data.tags.items() if not name.startswith("mlflow.")}
    return {
        "status": run.info.status,
        "artifacts": run.info.artifact_uri,
        "params": dict(run.data.params),
        "metrics": dict(run.data.metrics),
        "tags": own,
    }


def roles(task: str) -> dict[str, str | None]:
    """Which version has which role, folded from the ledger's events of the task.

    A promotion makes the champion previous; a roll-back swaps the two or goes to the version it names; the first
    promoted version is the anchor until a person sets another.
    """
    found: dict[str, str | None] = dict.fromkeys(ALIASES)
    for event in ledger.events(subject=task):
        version = str(event.payload.get("version"))
        if event.kind == "anchor.set":
            found["anchor"] = version
        elif event.kind in ("model.promoted", "model.rolled-back") and version != found["champion"]:
            found["previous"] = found["champion"]
            found["champion"] = version
            found["anchor"] = found["anchor"] or version
    return found


def promote(task: str, version: str, facts: dict[str, object], actor: str = "system") -> None:
    """Write a promotion down, set the first anchor, and move the aliases."""
    first = roles(task)["anchor"] is None
    ledger.append("model.promoted", task, {**facts, "version": version}, actor)
    if first:
        ledger.append("anchor.set", task, {"version": version, "reason": "first promoted version"}, actor)
    project(task)


def project(task: str) -> None:
    """Move the aliases in MLflow to where the ledger says they are."""
    client, present = _client(), _aliases(task)
    for alias, version in roles(task).items():
        if version is None and alias in present:
            client.delete_registered_model_alias(task, alias)
        elif version is not None and present.get(alias) != version:
            client.set_registered_model_alias(task, alias, version)


def mismatches(task: str) -> list[str]:
    """Where an alias in MLflow says something else than the ledger; empty when they agree."""
    present = _aliases(task)
    return [
        f"{alias} of {task} is version {wanted or 'none'} in the ledger but {present.get(alias, 'none')} in MLflow"
        for alias, wanted in roles(task).items()
        if present.get(alias) != wanted
    ]


def relocate(before: Path) -> None:
    """Let MLflow's own database name artefacts where the state folder lies now, after it lay in `before`.

    MLflow keeps absolute addresses and has no command that changes them. Every text of its database that begins with
    the old folder of artefacts is changed, whatever the column; a server of the user's own is left alone.
    """
    path = place("mlflow", "mlflow.db")
    if not path.is_file():
        return
    old, new = f"{before / 'mlflow'}/", f"{path.parent}/"
    pairs = [(start + spell(old), start + spell(new)) for start in ("", "file://") for spell in (str, quote)]
    with contextlib.closing(sqlite3.connect(path, timeout=HEALTH_S)) as database, database:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        columns = [
            (table, row[1])
            for table in tables
            for row in database.execute(f'PRAGMA table_info("{table}")')
            if "CHAR" in row[2].upper() or "TEXT" in row[2].upper()
        ]
        for table, column in columns:
            for was, now in dict(pairs).items():
                database.execute(
                    f'UPDATE "{table}" SET "{column}" = ? || substr("{column}", ?) WHERE substr("{column}", 1, ?) = ?',
                    (now, len(was) + 1, len(was), was),
                )


def _fetch(task: str, version: str, target: Path) -> Path:
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    source = _version(task, version).source
    try:
        return Path(download_artifacts(artifact_uri=source, dst_path=str(target)))
    except (OSError, MlflowException) as error:
        raise Fault(
            f"the artefacts of {task}/{version} are not at {source} ({_line(error)}); restore a backup"
        ) from error


def _aliases(task: str) -> dict[str, str]:
    found = _client().search_registered_models(f"name='{task}'")
    return {alias: str(version) for alias, version in found[0].aliases.items()} if found else {}


def _version(task: str, version: str) -> ModelVersion:
    from mlflow.exceptions import MlflowException

    try:
        return _client().get_model_version(task, version)
    except MlflowException as error:
        raise Fault(f"MLflow has no version {version!r} of {task}: {_line(error)}") from error


def _client() -> MlflowClient:
    set_environment()
    _answering(os.environ["MLFLOW_TRACKING_URI"])
    from mlflow import MlflowClient

    return MlflowClient()


def _answering(address: str) -> None:
    """MLflow's own client tries for minutes to reach a server that is down; ask it once before."""
    if not address.startswith(("http://", "https://")):
        return
    try:
        with urlopen(f"{address.rstrip('/')}/health", timeout=HEALTH_S):
            log.debug("MLflow answers at %s", address)
    except OSError as error:
        raise Fault(
            f"MLflow at {address} does not answer ({error}); start it or correct MLFLOW_TRACKING_URI"
        ) from error


def _line(error: Exception) -> str:
    return str(error).splitlines()[0]
