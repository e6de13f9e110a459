"""Paths of all state, resolved at use and never at import, and the variables that confine every vendor to them."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

from lineage import subprocess_environment

SOCKET_BYTES = 107
PRIVATE = 0o077  # umask for keys, databases, logs, backups and scans: no access for group and others


def keep_private() -> None:
    """Let this process and its children create files and folders that only their owner may access."""
    os.umask(PRIVATE)


def home() -> Path:
    """The folder of all state: `ONCOLOOP_HOME`, or `var` in the working folder."""
    return _absolute(os.environ.get("ONCOLOOP_HOME") or "var", os.getcwd())  # noqa: PTH109, called for every key


@lru_cache(maxsize=16)
def _absolute(folder: str, working_folder: str) -> Path:
    return Path(os.path.abspath(Path(working_folder, Path(folder).expanduser())))  # noqa: PTH100, without ..


def state_path(*parts: str) -> Path:
    """A path below `home()`; its parent folder is created."""
    path = home().joinpath(*parts)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def relative(path: str | Path) -> str:
    """A path for the ledger: relative to `home()` if it is below it, since a workspace can be moved."""
    return str(Path(path).relative_to(home())) if path and Path(path).is_relative_to(home()) else str(path)


def database_url() -> str:
    """The database: `ONCOLOOP_DATABASE_URL`, or SQLite in `home()`."""
    return os.environ.get("ONCOLOOP_DATABASE_URL") or f"sqlite:///{home() / 'oncoloop.db'}"


def mlflow_socket() -> Path:
    """The Unix socket of MLflow's server, in a folder that only its owner may enter."""
    folder = state_path("run", "mlflow", "x").parent
    if folder.stat().st_mode & PRIVATE:
        folder.chmod(0o700)
    return folder / "http.sock"


def socket_address(path: Path) -> str:
    """A socket's path in at most 107 bytes (unix(7)); a longer path goes through the open folder in /proc/self/fd."""
    if len(os.fsencode(path)) <= SOCKET_BYTES:
        return str(path)
    return f"/proc/self/fd/{_folder(path.parent)}/{path.name}"


@lru_cache(maxsize=4)
def _folder(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY)


def environment() -> dict[str, str]:
    """The variables that confine every vendor to `home()` and switch telemetry off; creates the folders that they name.

    They include git's settings and NO_PROXY: see `lineage/subprocess_environment.py`.
    """
    folders = {name: home().joinpath(*parts) for name, parts in FOLDERS.items()}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    _quiet_dvc(folders["DVC_GLOBAL_CONFIG_DIR"] / "config")
    return {
        "ONCOLOOP_HOME": str(home()),
        "MLFLOW_TRACKING_URI": f"sqlite:///{home() / 'mlflow' / 'mlflow.db'}",
        **{name: str(folder) for name, folder in folders.items()},
        **SILENT,
        **subprocess_environment.GIT,
        **subprocess_environment.without_proxy(os.environ),
    }


def set_environment() -> None:
    """Set the variables of `environment()` that the user has not set. Call it before importing any vendor.

    Variables that would send work to another repository are dropped (`subprocess_environment.isolate`). A desktop's XDG
    folders are always replaced: they do not say where a workspace keeps its state. New files are private from now on.
    """
    keep_private()
    subprocess_environment.isolate_process(os.environ)
    for name, value in environment().items():
        if name.startswith("XDG_"):
            os.environ[name] = value
        else:
            os.environ.setdefault(name, value)


# The variables were looked up in the installed source of each tool (versions in pyproject.toml).
FOLDERS = {
    "PREFECT_HOME": ("prefect",),
    "BENTOML_HOME": ("bentoml",),
    # artefacts of new experiments in a store without a server; MLflow's own command sets the same variable
    "_MLFLOW_SERVER_ARTIFACT_ROOT": ("mlflow", "artifacts"),
    "MLFLOW_ENV_ROOT": ("cache", "mlflow"),
    "KERAS_HOME": ("cache", "keras"),
    "MPLCONFIGDIR": ("cache", "matplotlib"),
    "DVC_SITE_CACHE_DIR": ("cache", "dvc"),  # else /var/tmp/dvc
    "DVC_GLOBAL_CONFIG_DIR": ("cache", "dvc-global"),
    "DVC_SYSTEM_CONFIG_DIR": ("cache", "dvc-system"),
    # evidently, iterative_telemetry, mlflow's installation id, onnxruntime, fontconfig
    "XDG_CACHE_HOME": ("cache", "xdg"),
    "XDG_CONFIG_HOME": ("cache", "config"),
    "XDG_DATA_HOME": ("cache", "share"),
}
SILENT = {
    "DO_NOT_TRACK": "1",  # prefect's client, evidently
    "ITERATIVE_DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
    # an in-memory lease of a run that was killed with its server is never released, and later runs wait forever
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "BENTOML_DO_NOT_TRACK": "True",
    "DVC_NO_ANALYTICS": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "ORT_DISABLE_TELEMETRY": "1",
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "MPLBACKEND": "Agg",
    # openvino reports its import and writes to ~/intel unless it detects CI; it checks no other switch
    "TF_BUILD": "1",
}
DVC_CONFIG = "[core]\n    analytics = false\n    check_update = false\n"


def _quiet_dvc(config: Path) -> None:
    """Switch DVC's update check off in a settings file: there is no variable for it."""
    if not config.exists():
        config.write_text(DVC_CONFIG)
