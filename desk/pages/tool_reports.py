"""Show the reports of Great Expectations and Evidently, read-only and in a sandbox.

A report runs in a sandbox without our origin, so that its scripts cannot access the desk. The browser therefore sends
no cookie for its pictures and links. Instead, the address contains a signed permit that is valid while the person is
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

TOOLS = {"evidently": "Drift", "gx": "Validation"}
READERS = ("engineer", "auditor")
SUFFIXES = {".html", ".css", ".js", ".png", ".svg", ".jpg", ".gif", ".ico", ".woff", ".woff2", ".ttf"}
LATEST = 40
POLICY = (
    "sandbox allow-scripts; default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; "
    "connect-src 'none'; form-action 'none'; frame-ancestors 'self'; base-uri 'none'"
)
SANDBOX = {"Content-Security-Policy": POLICY, "Cross-Origin-Resource-Policy": "cross-origin"}
FOLDERS_TO_SKIP = re.compile(r"pages|gx|uncommitted|data_docs|local_site|validations|__none__|\d{8}T[\d.]+Z")


@dataclass(frozen=True)
class ToolReport:
    """One report: the tool that wrote it, its name and time, and its address for this visitor."""

    tool: str
    name: str
    written_at: str
    address: str


def latest_reports(visitor: Visitor, tool: str) -> list[ToolReport]:
    """The newest pages of a tool: Evidently's reports, or the index and validation pages of Data Docs."""
    root = paths.home() / tool
    pages = [path for path in root.glob("**/*.html") if "expectations" not in path.relative_to(root).parts]
    newest = sorted(pages, key=lambda path: path.stat().st_mtime, reverse=True)[:LATEST]
    return [
        ToolReport(tool, _report_name(path.relative_to(root)), _written_at(path), link(visitor, str(path)))
        for path in newest
    ]


def link(visitor: Visitor, path: str) -> str:
    """The address at which a visitor may see a report below `ONCOLOOP_HOME`; empty if there is no such report.

    `path` may be the report's path in an earlier place of the workspace.
    """
    parts = Path(path).parts
    for start in (number for number, part in enumerate(parts) if part in TOOLS):
        root, relative_path = paths.home() / parts[start], Path(*parts[start + 1 :])
        if ".." not in relative_path.parts and (root / relative_path).is_file():
            return f"/shelf/{permit(visitor)}/{parts[start]}/{quote(relative_path.as_posix())}"
    return ""


def show_file(request: Request) -> Response:
    """GET /shelf/{permit}/{tool}/{path}: one file of a report."""
    parameters = request.path_params
    person = _permit_holder(parameters["permit"])
    if person is None:
        raise HTTPException(403, "This link is too old. Open the page again from the desk.")
    if person.role not in READERS or parameters["tool"] not in TOOLS:
        raise HTTPException(404, "There is no such page.")
    root = (paths.home() / parameters["tool"]).resolve()
    path = (root / parameters["path"]).resolve()
    if not path.is_relative_to(root) or path.suffix not in SUFFIXES or not path.is_file():
        raise HTTPException(404, "There is no such page.")
    return FileResponse(path, headers=SANDBOX)


def permit(visitor: Visitor) -> str:
    """A signed permit to read reports while the visitor's session is open."""
    return f"{visitor.session}.{_signature(visitor.session)}"


def _permit_holder(permit: str) -> accounts.Person | None:
    session, _, signature = permit.partition(".")
    if not hmac.compare_digest(_signature(session).encode(), signature.encode()):
        return None
    return sessions.person_of_session(session)


def _signature(session: str) -> str:
    return hmac.digest(keys.key("signin"), f"shelf\n{session}".encode(), "sha256").hex()


def _report_name(path: Path) -> str:
    parts = [part for part in path.with_suffix("").parts if not FOLDERS_TO_SKIP.fullmatch(part)]
    if parts == ["index"]:
        return "All pages"
    return " / ".join(part if len(part) <= 40 else f"{part[:37]}…" for part in parts)


def _written_at(path: Path) -> str:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
