"""Who is at the desk: a one-time link opens a session, whose cookie names a row; every form carries a token of it."""

from __future__ import annotations

import hmac
import logging
from collections.abc import Awaitable, Callable

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from desk.templates import page
from desk.visitor import Visitor
from lineage import accounts, sessions

log = logging.getLogger(__name__)

COOKIE = "oncoloop_session"
FIELD, HEADER = "csrf", "x-csrf-token"
FOREIGN = "This was sent from a page of another site, so it is not done."
EXPIRED = "This page is older than your sign-in. Go back, reload it and try again."

Form = dict[str, str]
Endpoint = Callable[[Request], Awaitable[Response]]


def visitor(request: Request) -> Visitor | None:
    """Who asks; None without the cookie of an open session."""
    holder = sessions.holder(request.cookies.get(COOKIE, ""), sessions.DESK)
    return Visitor(holder[0].name, holder[0].role, holder[1]) if holder else None


def genuine(who: Visitor, token: str) -> bool:
    """Whether a form's or a request's token belongs to the visitor's session."""
    return hmac.compare_digest(who.csrf.encode(), token.encode())


def enter(request: Request) -> Response:
    """GET /enter?token=...: a one-time link, which is used up by the button on this page alone.

    Mail programs open links to look at what lies behind them, and a browser sends no strict cookie on a way that began
    on another site.
    """
    token = request.query_params.get("token", "")
    if not accounts.is_invitation(token):
        return page(request, "signin.html", {"spent": True}, status=403)
    return page(request, "enter.html", {"token": token})


def redeemed(request: Request, form: Form) -> Response:
    """POST /enter: use the link up, and open a session in this browser."""
    person = accounts.redeem(form.get("token", ""))
    if person is None:
        log.warning("a link was shown that works no longer, or never did")
        return page(request, "signin.html", {"spent": True}, status=403)
    if former := visitor(request):
        sessions.end(former.session)
    response = RedirectResponse("/", status_code=303)
    open_session(request, response, COOKIE, sessions.begin(person.name, sessions.DESK))
    return response


def open_session(request: Request, response: Response, cookie: str, shown: str) -> None:
    """Let the browser show from now on who it is; scripts and other sites can't."""
    secure = request.url.scheme == "https"
    age = sessions.HOURS * 3600
    response.set_cookie(cookie, shown, max_age=age, httponly=True, samesite="strict", secure=secure, path="/")


def signin(request: Request) -> Response:
    """GET /signin: how to come in."""
    return page(request, "signin.html", {"spent": False})


def leave(request: Request, who: Visitor, form: Form) -> Response:
    """POST /leave: end the session, and those of the tools that began with it."""
    del form
    sessions.end(who.session)
    for place in (sessions.TOOLS, sessions.TICKET):
        sessions.end_at(who.name, place)
    response = page(request, "signin.html", {"spent": False})
    response.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
    return response


def own_origin(request: Request) -> None:
    """Refuse what a page of another origin sends: HTTPException where Origin (RFC 6454) is not the desk's own."""
    origin = request.headers.get("origin")
    if origin is not None and origin != f"{request.url.scheme}://{request.headers.get('host', '')}":
        raise HTTPException(403, FOREIGN)
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise HTTPException(403, FOREIGN)


async def sent(request: Request) -> Form:
    """The fields of a form that came from a page of the desk."""
    own_origin(request)
    async with request.form(max_files=0, max_fields=20, max_part_size=16_384) as fields:
        return {name: value for name, value in fields.items() if isinstance(value, str)}


def entered(handler: Callable[[Request, Form], Response]) -> Endpoint:
    """A form that somebody sends who is not signed in yet."""

    async def endpoint(request: Request) -> Response:
        return await run_in_threadpool(handler, request, await sent(request))

    return endpoint


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
        form = await sent(request)
        if not genuine(who, form.pop(FIELD, "")):
            raise HTTPException(403, EXPIRED)
        return await run_in_threadpool(handler, request, who, form)

    return endpoint


def _admit(who: Visitor, roles: tuple[str, ...]) -> None:
    if roles and who.role not in roles:
        raise HTTPException(403, f"This page is for the {' and the '.join(roles)}; you are signed in as {who.role}.")
