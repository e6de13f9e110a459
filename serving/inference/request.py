"""The types of a request. This module imports nothing heavy, because the server's head process imports it too."""

from __future__ import annotations

from dataclasses import dataclass

DESK_HEADER = "oncoloop-desk"  # holds the key that only the desk has
SITE_HEADER = "oncoloop-site"  # from the desk: the hash of the sender's site, for files that name no institution
MAX_NAME_LENGTH = 60  # characters of a file name; a longer name may not fit a file system


@dataclass(frozen=True)
class Upload:
    """One uploaded file: its name and its bytes."""

    name: str
    content: bytes


@dataclass(frozen=True)
class Requester:
    """Who sends a request: account, idempotency key, the id of the live answer for a shadow, the hash of the site."""

    account: str
    idempotency_key: str = ""
    live_answer_id: str = ""
    site: str = ""


def clean_name(name: str) -> str:
    """A sender's file name, safe to print and store: no folder, no control character, at most 60 characters."""
    base_name = name.replace("\\", "/").rpartition("/")[2]
    return "".join(letter for letter in base_name if letter.isprintable())[-MAX_NAME_LENGTH:] or "upload"
