"""What of the caller's environment reaches git, DVC, Prefect and the network: never which repository or which proxy."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from pathlib import Path

# Settings of git that win over a user's and over a repository's own.
SETTINGS = {
    "commit.gpgsign": "false",
    "core.attributesFile": "/dev/null",
    "core.autocrlf": "false",
    "core.excludesFile": "/dev/null",  # a user's ignore list must not keep a cohort table out of a commit
    "core.fsmonitor": "false",
    "core.hooksPath": "/dev/null",
    "gc.pruneExpire": "never",  # a commit that the ledger names stays, whatever became of its branch
}
GIT = {
    # old versions of git take `safe.directory` from a file alone: a workspace may belong to another user
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
# How git reaches another machine (docs/pool.md) stays the user's; which repository, index or objects it uses does not.
TRANSPORT = ("GIT_SSH", "GIT_ASKPASS", "GIT_SSL_", "GIT_HTTP_", "GIT_PROXY_")
DVC_FOLDERS = ("DVC_SITE_CACHE_DIR", "DVC_GLOBAL_CONFIG_DIR", "DVC_SYSTEM_CONFIG_DIR")
# A profile of Prefect may name the server of another project; PREFECT_API_URL alone is the user's word for ours.
PREFECT = ("PREFECT_PROFILE", "PREFECT_PROFILES_PATH")
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def isolated(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment for a child process that names nobody else's repository and proxies no loopback address."""
    own = {name: value for name, value in environment.items() if not (_is_foreign(name) or _is_socks(name, value))}
    return own | GIT | without_proxy(environment)


def isolate(environment: MutableMapping[str, str]) -> None:
    """The same for this process and all that it starts later: libraries read the process's own environment."""
    fresh = isolated(environment)
    for name in set(environment) - set(fresh):
        del environment[name]
    environment.update(fresh)


def without_proxy(environment: Mapping[str, str]) -> dict[str, str]:
    """NO_PROXY in both spellings with the loopback added: servers of a workspace talk to one another directly."""
    listed = [name.strip() for key in ("no_proxy", "NO_PROXY") for name in environment.get(key, "").split(",")]
    value = "*" if "*" in listed else ",".join(dict.fromkeys(name for name in (*listed, *LOOPBACK) if name))
    return {"no_proxy": value, "NO_PROXY": value}


def _is_foreign(name: str) -> bool:
    """Whether a variable of the caller could send work to another repository, index, object store or server."""
    if name.startswith("GIT_"):
        return not name.startswith(TRANSPORT)
    return (name.startswith("DVC_") and name not in (*DVC_FOLDERS, "DVC_NO_ANALYTICS")) or name in PREFECT


def _is_socks(name: str, value: str) -> bool:
    """Whether a variable names a proxy that is none of HTTP: httpx refuses to start with one, even for the loopback."""
    scheme, found, _ = value.strip().partition("://")
    return name.lower().endswith("_proxy") and bool(found) and scheme.lower() not in ("http", "https")
