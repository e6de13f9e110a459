"""Pages that other tools wrote (Great Expectations, Evidently), shown read-only and kept in a sandbox.

Such a page runs in a sandbox without our origin, so that its scripts reach nothing here; a browser then sends no
cookie for its pictures and links. The address therefore carries a signed permit, good for as long as the person stays
signed in.
"""

from __future__ import annotations

import hmac
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from desk.visitor import Visitor
from lineage import accounts, keys, paths, sessions

ROOMS = {"evidently": "Drift", "gx": "Validation"}
READERS = ("engineer", "auditor")
SUFFIXES = {".html", ".css", ".js", ".png", ".svg", ".jpg", ".gif", ".ico", ".woff", ".woff2", ".ttf"}
LATEST = 40
POLICY = (
    "sandbox allow-scripts; default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; "
    "connect-src 'none'; form-action 'none'; frame-ancestors 'self'; base-uri 'none'"
)
SANDBOX = {"Content-Security-Policy": POLICY, "Cross-Origin-Resource-Policy": "cross-origin"}
DULL = re.compile(
    r"pages|gx|uncommitted|data_docs|local_site|validations|__none__|\d{8}T[\d.]+Z"
)  # tells nobody anything


@dataclass(frozen=True)
class Leaf:
    """One page on the shelf: which room wrote it, its name and age, and the address for this visitor."""

    room: str
    name: str
    written: str
    address: str


def leaves(who: Visitor, room: str) -> list[Leaf]:
    """The newest pages of a room: Evidently's reports, or the index and validation pages of Data Docs."""
    root = paths.home() / room
    pages = [path for path in root.glob("**/*.html") if "expectations" not in path.relative_to(root).parts]
    newest = sorted(pages, key=lambda path: path.stat().st_mtime, reverse=True)[:LATEST]
    return [Leaf(room, _name(path.relative_to(root)), _age(path), link(who, str(path))) for path in newest]


def link(who: Visitor, path: str) -> str:
    """The address at which a visitor may see a page, as a path below `ONCOLOOP_HOME`; empty if it is on no shelf."""
    parts = Path(path).parts
    for start in (number for number, part in enumerate(parts) if part in ROOMS):  # absolute ones: of where it lay once
        root, inside = paths.home() / parts[start], Path(*parts[start + 1 :])
        if ".." not in inside.parts and (root / inside).is_file():
            return f"/shelf/{permit(who)}/{parts[start]}/{quote(inside.as_posix())}"
    return ""


def show(request: Request) -> Response:
    """GET /shelf/{permit}/{room}/{path}: one file of a page."""
    given = request.path_params
    who = _permitted(given["permit"])
    if who is None:
        raise HTTPException(403, "This link is too old. Open the page again from the desk.")
    if who.role not in READERS or given["room"] not in ROOMS:
        raise HTTPException(404, "There is no such page.")
    root = (paths.home() / given["room"]).resolve()
    path = (root / given["path"]).resolve()
    if not path.is_relative_to(root) or path.suffix not in SUFFIXES or not path.is_file():
        raise HTTPException(404, "There is no such page.")
    return FileResponse(path, headers=SANDBOX)


def permit(who: Visitor) -> str:
    """What opens the shelf in the name of a session, for as long as that is open."""
    return f"{who.session}.{_signature(who.session)}"


def _permitted(shown: str) -> accounts.Person | None:
    session, _, signature = shown.partition(".")
    if not hmac.compare_digest(_signature(session).encode(), signature.encode()):
        return None
    return sessions.person_of_session(session)


def _signature(session: str) -> str:
    return hmac.digest(keys.key("signin"), f"shelf\n{session}".encode(), "sha256").hex()


def _name(path: Path) -> str:
    parts = [part for part in path.with_suffix("").parts if not DULL.fullmatch(part)]
    if parts == ["index"]:
        return "All pages"
    return " / ".join(part if len(part) <= 40 else f"{part[:37]}…" for part in parts)


def _age(path: Path) -> str:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
