"""Model versions and aliases in MLflow. The ledger decides which version is champion; aliases are its projection."""

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

from lineage import current_state, model_files
from lineage.errors import Fault
from lineage.paths import home, set_environment, state_path
from lineage.record import ledger
from lineage.record.events import EventKind

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

log = logging.getLogger(__name__)

HEALTH_S = 5.0


def register(task: str, run_id: str, artifact_path: str, tags: dict[str, str]) -> str:
    """Register a run's model artefacts as the next version of a task's model; the version's number.

    Idempotent: for the same run and path the existing version is returned.
    """
    from mlflow.exceptions import MlflowException

    client = _client()
    if not client.search_registered_models(f"name='{task}'"):
        client.create_registered_model(task)
    try:
        source = f"{client.get_run(run_id).info.artifact_uri}/{artifact_path}"
    except MlflowException as error:
        raise Fault(
            f"MLflow has no run {run_id!r} that {task} could be registered from: {_first_line(error)}"
        ) from error
    for existing in client.search_model_versions(f"name='{task}'"):
        if existing.run_id == run_id and existing.source == source:
            return str(existing.version)
    created = client.create_model_version(task, source, run_id=run_id, tags=tags)
    return str(created.version)


def download(task: str, version: str) -> Path:
    """Download a version's model artefacts; the local folder.

    Fault with the file's name if one differs from what the gate judged: MLflow's server accepts uploads into any run.
    """
    target = state_path("mlflow", "downloads", task, version)
    target.mkdir(parents=True, exist_ok=True)
    folder = _fetch(task, version, target)
    model_files.check(task, version, folder)
    return folder


def check_artifacts(task: str, version: str) -> None:
    """Check a version's files in MLflow. Fault with the name of the first file that the gate has not judged."""
    with tempfile.TemporaryDirectory(dir=home()) as target:
        model_files.check(task, version, _fetch(task, version, Path(target)))


def changed_artifacts(task: str, version: str) -> dict[str, str | None]:
    """The files in MLflow that differ from the recorded hashes: name -> current SHA-256, None if the file is missing.

    Empty for a version without recorded hashes.
    """
    hashes = model_files.recorded_hashes(task, version)
    if hashes is None:
        return {}
    with tempfile.TemporaryDirectory(dir=home()) as target:
        return model_files.changed_files(hashes, _fetch(task, version, Path(target)))


def tags(task: str, version: str) -> dict[str, str]:
    """The tags of a version, and its `run_id`."""
    model_version = _version(task, version)
    return {**model_version.tags, "run_id": str(model_version.run_id)}


def set_tags(task: str, version: str, facts: dict[str, str]) -> None:
    """Set tags on a version and on its run."""
    client, model_version = _client(), _version(task, version)
    for name, value in facts.items():
        client.set_model_version_tag(task, version, name, value)
        client.set_tag(str(model_version.run_id), name, value)


def versions(task: str) -> list[str]:
    """The registered versions of a task, oldest first."""
    return [str(number) for number in sorted(int(v.version) for v in _client().search_model_versions(f"name='{task}'"))]


def run_facts(run_id: str) -> dict[str, object]:
    """Facts of a run in MLflow: status, parameters, final metrics, tags, and the address of its artefacts."""
    from mlflow.exceptions import MlflowException

    try:
        run = _client().get_run(run_id)
    except MlflowException as error:
        raise Fault(f"MLflow has no run {run_id!r}: {_first_line(error)}") from error
    user_tags = {name: value for name, value in run.data.tags.items() if not name.startswith("mlflow.")}
    return {
        "status": run.info.status,
        "artifacts": run.info.artifact_uri,
        "params": dict(run.data.params),
        "metrics": dict(run.data.metrics),
        "tags": user_tags,
    }


def promote(task: str, version: str, facts: dict[str, object], actor: str = "system") -> None:
    """Record a promotion, set the first anchor, and update the aliases."""
    needs_anchor = current_state.roles(task)["anchor"] is None
    ledger.append(EventKind.MODEL_PROMOTED, task, {**facts, "version": version}, actor)
    if needs_anchor:
        ledger.append(EventKind.ANCHOR_SET, task, {"version": version, "reason": "first promoted version"}, actor)
    update_aliases(task)


def update_aliases(task: str) -> None:
    """Set the aliases in MLflow to the roles in the ledger."""
    client, aliases = _client(), _aliases(task)
    for alias, version in current_state.roles(task).items():
        if version is None and alias in aliases:
            client.delete_registered_model_alias(task, alias)
        elif version is not None and aliases.get(alias) != version:
            client.set_registered_model_alias(task, alias, version)


def mismatches(task: str) -> list[str]:
    """A sentence for each alias in MLflow that differs from the ledger; empty if all agree."""
    aliases = _aliases(task)
    return [
        f"{alias} of {task} is version {expected or 'none'} in the ledger but {aliases.get(alias, 'none')} in MLflow"
        for alias, expected in current_state.roles(task).items()
        if aliases.get(alias) != expected
    ]


def relocate(before: Path) -> None:
    """Change the artefact addresses in MLflow's database after the state folder was moved from `before`.

    MLflow stores absolute addresses and has no command that changes them. Every text column value that begins with the
    old artefact folder is changed. Another MLflow server of the user is not touched.
    """
    path = state_path("mlflow", "mlflow.db")
    if not path.is_file():
        return
    old_folder, new_folder = f"{before / 'mlflow'}/", f"{path.parent}/"
    pairs = [
        (scheme + encode(old_folder), scheme + encode(new_folder))
        for scheme in ("", "file://")
        for encode in (str, quote)
    ]
    with contextlib.closing(sqlite3.connect(path, timeout=HEALTH_S)) as database, database:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        columns = [
            (table, row[1])
            for table in tables
            for row in database.execute(f'PRAGMA table_info("{table}")')
            if "CHAR" in row[2].upper() or "TEXT" in row[2].upper()
        ]
        for table, column in columns:
            for old_prefix, new_prefix in dict(pairs).items():
                database.execute(
                    f'UPDATE "{table}" SET "{column}" = ? || substr("{column}", ?) WHERE substr("{column}", 1, ?) = ?',
                    (new_prefix, len(old_prefix) + 1, len(old_prefix), old_prefix),
                )


def _fetch(task: str, version: str, target: Path) -> Path:
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    source = _version(task, version).source
    try:
        return Path(download_artifacts(artifact_uri=source, dst_path=str(target)))
    except (OSError, MlflowException) as error:
        raise Fault(
            f"the artefacts of {task}/{version} are not at {source} ({_first_line(error)}); restore a backup"
        ) from error


def _aliases(task: str) -> dict[str, str]:
    models = _client().search_registered_models(f"name='{task}'")
    return {alias: str(version) for alias, version in models[0].aliases.items()} if models else {}


def _version(task: str, version: str) -> ModelVersion:
    from mlflow.exceptions import MlflowException

    try:
        return _client().get_model_version(task, version)
    except MlflowException as error:
        raise Fault(f"MLflow has no version {version!r} of {task}: {_first_line(error)}") from error


def _client() -> MlflowClient:
    set_environment()
    _check_server(os.environ["MLFLOW_TRACKING_URI"])
    from mlflow import MlflowClient

    return MlflowClient()


def _check_server(address: str) -> None:
    """Check that an MLflow server answers: MLflow's own client retries for minutes if it is down."""
    if not address.startswith(("http://", "https://")):
        return
    try:
        with urlopen(f"{address.rstrip('/')}/health", timeout=HEALTH_S):
            log.debug("MLflow answers at %s", address)
    except OSError as error:
        raise Fault(
            f"MLflow at {address} does not answer ({error}); start it or correct MLFLOW_TRACKING_URI"
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
