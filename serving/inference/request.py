"""What is asked, and who asks: light, since the head process of a server imports no more than this of an answer."""

from __future__ import annotations

from dataclasses import dataclass

DESK = "oncoloop-desk"  # the header by which the desk shows a release that it is the desk
LONGEST = 60  # characters of a file name that are kept: with a longer one it would not fit a file system


@dataclass(frozen=True)
class Upload:
    """One file as it came: the name it had and its bytes."""

    name: str
    content: bytes


@dataclass(frozen=True)
class Asker:
    """Who asks: account, idempotency key of the request, and the answer that a shadow's answer stands behind."""

    name: str
    key: str = ""
    shadows: str = ""


def clean_name(name: str) -> str:
    """A sender's file name made safe to print and store: no folder, no control character, at most 60 characters."""
    last = name.replace("\\", "/").rpartition("/")[2]
    return "".join(letter for letter in last if letter.isprintable())[-LONGEST:] or "upload"
