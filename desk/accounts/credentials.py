"""The credentials of a forwarded request: a program's own token, or the desk's token for a signed-in person.

The desk caches the check of a program for half a minute, and that of a person for two seconds. The cache only decides
whose uploads the desk accepts. The release checks account and scope for every answer, at most two seconds late
(serving/http/request_guard.py).
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request

from desk.accounts import signin
from lineage import accounts
from lineage.fingerprint import text_sha256

PROGRAM_CACHE_SECONDS = 30.0  # the release checks a program's token itself
PERSON_CACHE_SECONDS = 2.0  # short, because a person may sign out
TOKEN_DAYS, TOKEN_SECONDS = 1, 12 * 3600
CHALLENGE = {"WWW-Authenticate": 'Bearer realm="oncoloop", scope="predict"'}
INVALID_TOKEN = "Send a valid bearer token with the scope `predict` (`oncoloop login NAME --token`)."


@dataclass(frozen=True)
class Sender:
    """Who sends a request: the Authorization header for the release, and the hash of the sender's site ("": none)."""

    authorization: str = ""
    site: str = ""


_tokens: dict[str, tuple[str, float]] = {}
_checked: dict[str, tuple[Sender, float]] = {}


async def check_sender(request: Request) -> Sender:
    """The sender of a request. HTTPException if the sender may not request answers."""
    digest = _credentials_digest(request)
    sender, expires_at = _checked.get(digest, (Sender(), 0.0))
    if time.monotonic() > expires_at:
        is_program = "authorization" in request.headers
        sender = await run_in_threadpool(_check_program if is_program else _check_person, request)
        _remember(digest, sender, PROGRAM_CACHE_SECONDS if is_program else PERSON_CACHE_SECONDS)
    return sender


def forget(request: Request) -> None:
    """Drop the cached check of a request that the release refused, so that the next request is checked again."""
    sender, _ = _checked.pop(_credentials_digest(request), (Sender(), 0.0))
    value = sender.authorization
    for name in [name for name, (cached_token, _) in _tokens.items() if value == f"Bearer {cached_token}"]:
        del _tokens[name]


def _credentials_digest(request: Request) -> str:
    """A SHA-256 of the sender's credentials, as a key of the cache."""
    values = [request.headers.get(name, "") for name in ("authorization", "cookie", signin.CSRF_HEADER)]
    return text_sha256("\n".join(values))


def _remember(digest: str, sender: Sender, seconds: float) -> None:
    current_time = time.monotonic()
    for expired in [key for key, (_, expires_at) in _checked.items() if expires_at < current_time]:
        del _checked[expired]
    _checked[digest] = (sender, current_time + seconds)


def _check_program(request: Request) -> Sender:
    value = request.headers["authorization"]
    scheme, _, token = value.partition(" ")
    if scheme.lower() != "bearer" or accounts.bearer(token.strip(), "predict") is None:
        raise HTTPException(401, INVALID_TOKEN, CHALLENGE)
    return Sender(value, accounts.token_site(token.strip()))


def _check_person(request: Request) -> Sender:
    """The person of this session, with the Authorization header that the desk sends in the person's name."""
    signin.require_own_origin(request)
    visitor = signin.read_visitor(request)
    if visitor is None:
        raise HTTPException(401, signin.SIGNED_OUT)
    if not accounts.may(visitor.name, "predict"):
        raise HTTPException(403, f"Only clinicians and engineers send scans; you are signed in as {visitor.role}.")
    if not signin.has_csrf_token(visitor, request.headers.get(signin.CSRF_HEADER, "")):
        raise HTTPException(403, signin.EXPIRED)
    return Sender(f"Bearer {token(visitor.name)}")


def token(account: str) -> str:
    """The account's token with the scope `predict`, stored only in memory and renewed twice a day."""
    current, expires_at = _tokens.get(account, ("", 0.0))
    if time.monotonic() > expires_at:
        current = accounts.issue(account, "predict", TOKEN_DAYS)
        _tokens[account] = (current, time.monotonic() + TOKEN_SECONDS)
    return current
