"""Who is at the desk: a one-time link becomes a signed cookie; every form carries a token of that session."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from itsdangerous import BadData, URLSafeTimedSerializer
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from desk.render import page
from lineage import keys, people

COOKIE = "oncoloop_session"
HOURS = 12
FIELD, HEADER = "csrf", "x-csrf-token"
EXPIRED = "This page is older than your sign-in. Go back, reload it and try again."

Form = dict[str, str]
Endpoint = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True)
class Visitor:
    """A signed-in person, and the session that they came with."""

    name: str
    role: str
    session: str

    @property
    def csrf(self) -> str:
        """The token that proves that a form came from one of this session's own pages."""
        return hmac.new(keys.key("signin"), f"csrf\n{self.session}".encode(), "sha256").hexdigest()


def serializer(purpose: str) -> URLSafeTimedSerializer:
    """Signs short texts for one purpose with the sign-in key."""
    return URLSafeTimedSerializer(keys.key("signin"), salt=f"oncoloop {purpose}")


def visitor(request: Request) -> Visitor | None:
    """Who asks; None without a valid cookie, or when the person has been disabled since."""
    try:
        name, session = serializer("session").loads(request.cookies.get(COOKIE, ""), max_age=HOURS * 3600)
    except (BadData, ValueError):
        return None
    role = active_role(name)
    return Visitor(name, role, session) if role else None


def active_role(name: str) -> str | None:
    """The role that a person has now; None if there is no such person any more."""
    open_accounts = {person.name: person.role for person in people.people() if person.disabled_at is None}
    return open_accounts.get(name)


def genuine(who: Visitor, token: str) -> bool:
    """Whether a form's or a request's token belongs to the visitor's session."""
    return hmac.compare_digest(who.csrf.encode(), token.encode())


def enter(request: Request) -> Response:
    """GET /enter?token=...: redeem a one-time link."""
    person = people.redeem(request.query_params.get("token", ""))
    if person is None:
        return page(request, "signin.html", {"spent": True}, status=403)
    value = serializer("session").dumps([person.name, secrets.token_urlsafe(16)])
    response = RedirectResponse("/", status_code=303)
    secure = request.url.scheme == "https"
    response.set_cookie(COOKIE, value, max_age=HOURS * 3600, httponly=True, samesite="strict", secure=secure, path="/")
    return response


def signin(request: Request) -> Response:
    """GET /signin: how to come in."""
    return page(request, "signin.html", {"spent": False})


def leave(request: Request, who: Visitor, form: Form) -> Response:
    """POST /leave: forget the session in this browser."""
    del who, form
    response = page(request, "signin.html", {"spent": False})
    response.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
    return response


def shown(handler: Callable[[Request, Visitor], Response], *roles: str) -> Endpoint:
    """A page for signed-in people of these roles (of any, if none is named)."""

    async def endpoint(request: Request) -> Response:
        who = await run_in_threadpool(visitor, request)
        if who is None:
            return RedirectResponse("/signin", status_code=303)
        _admit(who, roles)
        return await run_in_threadpool(handler, request, who)

    return endpoint


def done(handler: Callable[[Request, Visitor, Form], Response], *roles: str) -> Endpoint:
    """A form that people of these roles send; refused without the token of their session."""

    async def endpoint(request: Request) -> Response:
        who = await run_in_threadpool(visitor, request)
        if who is None:
            raise HTTPException(401, "You are not signed in any more. Ask for a new link.")
        _admit(who, roles)
        async with request.form(max_files=0, max_fields=20, max_part_size=16_384) as sent:
            form = {name: value for name, value in sent.items() if isinstance(value, str)}
        if not genuine(who, form.pop(FIELD, "")):
            raise HTTPException(403, EXPIRED)
        return await run_in_threadpool(handler, request, who, form)

    return endpoint


def _admit(who: Visitor, roles: tuple[str, ...]) -> None:
    if roles and who.role not in roles:
        raise HTTPException(403, f"This page is for the {' and the '.join(roles)}; you are signed in as {who.role}.")
