"""The environment of git, DVC and Prefect: without the caller's repositories, and without a proxy for loopback."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from pathlib import Path

# Settings of git that override those of the user and the repository.
SETTINGS = {
    "commit.gpgsign": "false",
    "core.attributesFile": "/dev/null",
    "core.autocrlf": "false",
    "core.excludesFile": "/dev/null",  # a user's ignore list could keep a cohort table out of a commit
    "core.fsmonitor": "false",
    "core.hooksPath": "/dev/null",
    "gc.pruneExpire": "never",  # a commit named in the ledger must stay, even without a branch
}
GIT = {
    # a workspace may belong to another user, and old versions of git read `safe.directory` only from a file
    "GIT_CONFIG_GLOBAL": str(Path(__file__).with_name("gitconfig")),
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_AUTHOR_NAME": "oncoloop",
    "GIT_AUTHOR_EMAIL": "oncoloop@localhost",
    "GIT_COMMITTER_NAME": "oncoloop",
    "GIT_COMMITTER_EMAIL": "oncoloop@localhost",
    "GIT_CONFIG_COUNT": str(len(SETTINGS)),
    **{f"GIT_CONFIG_KEY_{number}": name for number, name in enumerate(SETTINGS)},
    **{f"GIT_CONFIG_VALUE_{number}": value for number, value in enumerate(SETTINGS.values())},
}
# Settings for reaching other machines are kept (docs/how-to/engineer/work-pool.md), not those for repository, index
# or objects.
TRANSPORT = ("GIT_SSH", "GIT_ASKPASS", "GIT_SSL_", "GIT_HTTP_", "GIT_PROXY_")
DVC_FOLDERS = ("DVC_SITE_CACHE_DIR", "DVC_GLOBAL_CONFIG_DIR", "DVC_SYSTEM_CONFIG_DIR")
# A profile of Prefect may name the server of another project; only PREFECT_API_URL is respected.
PREFECT = ("PREFECT_PROFILE", "PREFECT_PROFILES_PATH")
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def isolated_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for a child process: no foreign repository, no proxy for loopback addresses."""
    kept_variables = {
        name: value for name, value in environment.items() if not (_is_foreign(name) or _is_socks(name, value))
    }
    return kept_variables | GIT | without_proxy(environment)


def isolate_process(environment: MutableMapping[str, str]) -> None:
    """Apply `isolated` to this process's environment, which libraries read and child processes inherit."""
    isolated_variables = isolated_environment(environment)
    for name in set(environment) - set(isolated_variables):
        del environment[name]
    environment.update(isolated_variables)


def without_proxy(environment: Mapping[str, str]) -> dict[str, str]:
    """NO_PROXY in both spellings with the loopback added: servers of a workspace connect to each other directly."""
    hosts = [name.strip() for key in ("no_proxy", "NO_PROXY") for name in environment.get(key, "").split(",")]
    value = "*" if "*" in hosts else ",".join(dict.fromkeys(name for name in (*hosts, *LOOPBACK) if name))
    return {"no_proxy": value, "NO_PROXY": value}


def _is_foreign(name: str) -> bool:
    """Whether a variable could redirect work to another repository, index, object store or server."""
    if name.startswith("GIT_"):
        return not name.startswith(TRANSPORT)
    return (name.startswith("DVC_") and name not in (*DVC_FOLDERS, "DVC_NO_ANALYTICS")) or name in PREFECT


def _is_socks(name: str, value: str) -> bool:
    """Whether a variable names a proxy other than HTTP: httpx refuses to start with one, even for the loopback."""
    scheme, separator, _ = value.strip().partition("://")
    return name.lower().endswith("_proxy") and bool(separator) and scheme.lower() not in ("http", "https")
