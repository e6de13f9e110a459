"""In whose name a request goes on: a program's own token, or one that the desk holds for a signed-in person.

The desk remembers for half a minute that it let a program in, and for two seconds a person. That decides alone whose
bytes it takes: whether the account is open and may ask is looked up by the release for every answer, at most two
seconds behind (serving/problem).
"""

from __future__ import annotations

import time

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request

from desk.accounts import signin
from lineage import accounts
from lineage.fingerprint import text_sha256

TRUSTED = 30.0  # seconds, for a program: the release looks at its token itself
SIGNED_IN = 2.0  # seconds, for a person, who may sign out
TOKEN_DAYS, TOKEN_SECONDS = 1, 12 * 3600
CHALLENGE = {"WWW-Authenticate": 'Bearer realm="oncoloop", scope="predict"'}
UNKNOWN = "Send a valid bearer token with the scope `predict` (`oncoloop login NAME --token`)."
_tokens: dict[str, tuple[str, float]] = {}
_admitted: dict[str, tuple[str, float]] = {}


async def authorization(request: Request) -> str:
    """The Authorization header that the release is sent. HTTPException for who may not ask."""
    known = _name(request)
    value, until = _admitted.get(known, ("", 0.0))
    if time.monotonic() > until:
        is_program = "authorization" in request.headers
        value = await run_in_threadpool(_program if is_program else _person, request)
        _remember(known, value, TRUSTED if is_program else SIGNED_IN)
    return value


def forget(request: Request) -> None:
    """The release has refused: the next look is a whole one."""
    value, _ = _admitted.pop(_name(request), ("", 0.0))
    for name in [name for name, (held, _) in _tokens.items() if value == f"Bearer {held}"]:
        del _tokens[name]


def _name(request: Request) -> str:
    """A name for what the sender shows; nothing of it can be read from the name."""
    shown = [request.headers.get(name, "") for name in ("authorization", "cookie", signin.HEADER)]
    return text_sha256("\n".join(shown))


def _remember(known: str, value: str, seconds: float) -> None:
    now = time.monotonic()
    for name in [name for name, (_, until) in _admitted.items() if until < now]:
        del _admitted[name]
    _admitted[known] = (value, now + seconds)


def _program(request: Request) -> str:
    value = request.headers["authorization"]
    scheme, _, token = value.partition(" ")
    if scheme.lower() != "bearer" or accounts.bearer(token.strip(), "predict") is None:
        raise HTTPException(401, UNKNOWN, CHALLENGE)
    return value


def _person(request: Request) -> str:
    """The authorization that the desk sends for the person of this session."""
    signin.own_origin(request)
    who = signin.visitor(request)
    if who is None:
        raise HTTPException(401, "You are not signed in any more. Ask for a new link.")
    if not accounts.may(who.name, "predict"):
        raise HTTPException(403, f"Scans are sent by clinicians; you are signed in as {who.role}.")
    if not signin.genuine(who, request.headers.get(signin.HEADER, "")):
        raise HTTPException(403, signin.EXPIRED)
    return f"Bearer {token(who.name)}"


def token(name: str) -> str:
    """A token with the scope `predict`, kept in memory alone and renewed twice a day."""
    held, until = _tokens.get(name, ("", 0.0))
    if time.monotonic() > until:
        held = accounts.issue(name, "predict", TOKEN_DAYS)
        _tokens[name] = (held, time.monotonic() + TOKEN_SECONDS)
    return held
