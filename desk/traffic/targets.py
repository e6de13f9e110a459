"""Where requests go: the live release and the shadow, with addresses on this machine only."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from lineage import current_state
from lineage.errors import Fault


@dataclass(frozen=True)
class Target:
    """A release and the address of the server that runs it."""

    release: str
    url: str


@dataclass(frozen=True)
class Shadow:
    """A release in shadow: the task and version under test, and the address of its server."""

    task: str
    version: str
    release: str
    url: str


def local_url(url: str) -> str:
    """The address of a release on this machine. Fault for any other, because scans and secrets are sent there."""
    parts = urlsplit(url)
    if parts.scheme != "http" or parts.hostname not in ("127.0.0.1", "localhost", "::1") or parts.path.strip("/"):
        raise Fault(f"a release runs on this machine, not at {url!r}; something else changed the record")
    return url.rstrip("/")


def shadow() -> Shadow | None:
    """The release in shadow; None if there is none, or if its server is not ready yet."""
    active = current_state.active_shadow()
    if active is None or not active.url:
        return None
    return Shadow(active.task, active.version, active.release, local_url(active.url))


def live() -> Target | None:
    """The live release, or None before the first one."""
    activation = current_state.live_release()
    return Target(activation.release, local_url(activation.url)) if activation else None
