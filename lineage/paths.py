"""Where state lives. Resolved when used, never at import; every vendor is confined to it and kept silent."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

from lineage import subprocess_environment

SOCKET_BYTES = 107
PRIVATE = 0o077  # what nobody but the owner may do with any file of ours: keys, databases, logs, backups, scans


def keep_private() -> None:
    """Let this process and all that it starts make files and folders for their owner alone."""
    os.umask(PRIVATE)


def home() -> Path:
    """The folder of all state: `ONCOLOOP_HOME`, or `var` in the working folder."""
    return _absolute(os.environ.get("ONCOLOOP_HOME") or "var", os.getcwd())  # noqa: PTH109, asked for by every key


@lru_cache(maxsize=16)
def _absolute(folder: str, working: str) -> Path:
    return Path(os.path.abspath(Path(working, Path(folder).expanduser())))  # noqa: PTH100, without ..


def place(*parts: str) -> Path:
    """A path below `home()`; the folder that it lies in is made."""
    path = home().joinpath(*parts)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def relative(path: str | Path) -> str:
    """A path as the ledger may keep it: below `home()` where it lies there, since a workspace can be moved."""
    return str(Path(path).relative_to(home())) if path and Path(path).is_relative_to(home()) else str(path)


def database_url() -> str:
    """The database: `ONCOLOOP_DATABASE_URL`, or SQLite in `home()`."""
    return os.environ.get("ONCOLOOP_DATABASE_URL") or f"sqlite:///{home() / 'oncoloop.db'}"


def mlflow_socket() -> Path:
    """Where MLflow's pages are asked for: a socket in a folder that only its owner may enter."""
    folder = place("run", "mlflow", "x").parent
    if folder.stat().st_mode & PRIVATE:
        folder.chmod(0o700)
    return folder / "http.sock"


def socket_address(path: Path) -> str:
    """A socket's path in the 107 bytes that an address holds (unix(7)), through the open folder if it is longer."""
    if len(os.fsencode(path)) <= SOCKET_BYTES:
        return str(path)
    return f"/proc/self/fd/{_folder(path.parent)}/{path.name}"


@lru_cache(maxsize=4)
def _folder(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY)


def environment() -> dict[str, str]:
    """The variables that confine every vendor to `home()` and switch its telemetry off; makes the folders they name.

    With them come git's own settings and NO_PROXY: see `lineage/subprocess_environment.py`.
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
    """Set what `environment()` says, except where the user has said where things are. Call it before any vendor.

    Variables that would send work to another repository are dropped (`isolation.isolate`), and a desktop's own XDG
    folders are nobody's word for where a workspace keeps its state. Files are made for their owner alone from now on.
    """
    keep_private()
    subprocess_environment.isolate(os.environ)
    for name, value in environment().items():
        if name.startswith("XDG_"):
            os.environ[name] = value
        else:
            os.environ.setdefault(name, value)


# What each tool reads was looked up in its installed source (versions in pyproject.toml).
FOLDERS = {
    "PREFECT_HOME": ("prefect",),
    "BENTOML_HOME": ("bentoml",),
    # where a store without a server puts artefacts of new experiments; MLflow's own command sets the same variable
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
    # kept in memory, the slot of a run that was killed with its server is never given back, and its successors wait on
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "BENTOML_DO_NOT_TRACK": "True",
    "DVC_NO_ANALYTICS": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "ORT_DISABLE_TELEMETRY": "1",
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "MPLBACKEND": "Agg",
    # openvino reports its mere import and writes to ~/intel unless it believes to run in CI; it asks nothing else
    "TF_BUILD": "1",
}
DVC_CONFIG = "[core]\n    analytics = false\n    check_update = false\n"


def _quiet_dvc(config: Path) -> None:
    """DVC asks its maker for updates unless a settings file says otherwise: there is no variable for that."""
    if not config.exists():
        config.write_text(DVC_CONFIG)
