"""The page of sites: which sites the live release answers for, and the acceptance of a judged site."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from desk.accounts.signin import Form
from desk.pages.approve_versions import MAX_REASON, MIN_REASON
from desk.templates import page
from desk.traffic import release_facts, targets
from desk.visitor import Visitor
from lineage import accounts, current_state, decisions, paths
from lineage.current_state import SiteJudgement
from lineage.record import outbox
from lineage.record.events import EventKind

log = logging.getLogger(__name__)
NAMES = "site-names.json"  # in the state folder, written by the release flow: hash -> name in the workspace's tables
SHORT = 8  # digits of the hash of a site without a name


def list_page(request: Request, visitor: Visitor) -> Response:
    """GET /sites: the accepted sites of the live release, and the judged sites that wait for a person."""
    names, live = _names(), targets.live()
    accepted = release_facts.accepted_sites(live.release) if live else {}
    values = {
        "waiting": [(judgement, _name(judgement.site, names)) for judgement in _waiting()],
        "tasks": {
            task: None if entries is None else [(entry, _name(entry["site"], names)) for entry in entries]
            for task, entries in accepted.items()
        },
        "min_reason": MIN_REASON,
        "max_reason": MAX_REASON,
    }
    return page(request, "sites.html", values, visitor)


def accept(request: Request, visitor: Visitor, form: Form) -> Response:
    """POST /sites: the number of a waiting verdict, and the reason. The flow then builds a release with the site."""
    del request
    reason = " ".join(form.get("reason", "").split())
    if not accounts.may(visitor.name, "approve"):
        raise HTTPException(403, "Only an engineer accepts a site.")
    if not MIN_REASON <= len(reason) <= MAX_REASON:
        raise HTTPException(400, f"Give a reason of {MIN_REASON} to {MAX_REASON} characters; it stays in the record.")
    judgement = next((entry for entry in _waiting() if str(entry.verdict.seq) == form.get("verdict", "")), None)
    if judgement is None:
        raise HTTPException(409, "This site does not wait for a decision (any more).")
    facts = judgement.decision_facts(reason)
    decision = decisions.record(EventKind.SITE_ACCEPTED, judgement.verdict.subject, facts, visitor.name)
    message = {"task": judgement.task, "version": judgement.version}
    outbox.put("approval", f"{judgement.verdict.subject}/{decision.seq}", message)
    return RedirectResponse("/sites", status_code=303)


def _waiting() -> list[SiteJudgement]:
    """The newest judgement of every site by its task's champion, if a person may confirm it and nobody has."""
    newest: dict[tuple[str, str], SiteJudgement] = {}
    for task in current_state.tasks_with_versions():
        champion = current_state.roles(task)["champion"]
        for judgement in current_state.site_judgements(task):
            if judgement.version == champion:
                newest.setdefault((task, judgement.site), judgement)
    return [entry for entry in newest.values() if entry.is_promotable and entry.decision is None]


def _names() -> Mapping[str, Any]:
    path = paths.state_path(NAMES)
    try:
        names = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError:
        log.warning("%s can't be read; sites are shown by their hashes", path)
        return {}
    return names if isinstance(names, dict) else {}


def _name(site: str, names: Mapping[str, Any]) -> str:
    return str(names.get(site, f"site {site[:SHORT]}")) if site else "scans that name no site"
