"""Sign-in by one-time link, sessions by cookie, and CSRF tokens in every form."""

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
CSRF_FIELD, CSRF_HEADER = "csrf", "x-csrf-token"
FOREIGN_ORIGIN = "This request came from a page of another site, so it was refused."
EXPIRED = "This page is older than your sign-in. Go back, reload it and try again."
SIGNED_OUT = "You are not signed in any more. Ask for a new link."

Form = dict[str, str]
Endpoint = Callable[[Request], Awaitable[Response]]


def read_visitor(request: Request) -> Visitor | None:
    """The signed-in person of a request; None without the cookie of an open session."""
    holder = sessions.holder(request.cookies.get(COOKIE, ""), sessions.DESK)
    return Visitor(holder[0].name, holder[0].role, holder[1]) if holder else None


def has_csrf_token(visitor: Visitor, token: str) -> bool:
    """Whether the token of a form or request belongs to the visitor's session."""
    return hmac.compare_digest(visitor.csrf.encode(), token.encode())


def invitation_page(request: Request) -> Response:
    """GET /enter?token=...: the page of a one-time link. Only the button on this page uses the link up.

    Mail programs open links to preview them. A browser also sends no strict cookie after a link from another site.
    """
    token = request.query_params.get("token", "")
    if not accounts.is_invitation(token):
        return page(request, "signin.html", {"is_used": True}, status=403)
    return page(request, "confirm_signin.html", {"token": token})


def redeem_invitation(request: Request, form: Form) -> Response:
    """POST /enter: use the link up, and open a session in this browser."""
    person = accounts.redeem(form.get("token", ""))
    if person is None:
        log.warning("somebody opened a one-time link that is used, expired or unknown")
        return page(request, "signin.html", {"is_used": True}, status=403)
    if former_visitor := read_visitor(request):
        sessions.end(former_visitor.session)
    response = RedirectResponse("/", status_code=303)
    open_session(request, response, COOKIE, sessions.begin(person.name, sessions.DESK))
    return response


def open_session(request: Request, response: Response, cookie: str, value: str) -> None:
    """Set the session cookie, out of reach of scripts and other sites."""
    secure = request.url.scheme == "https"
    age = sessions.HOURS * 3600
    response.set_cookie(cookie, value, max_age=age, httponly=True, samesite="strict", secure=secure, path="/")


def signin_page(request: Request) -> Response:
    """GET /signin: how to sign in."""
    return page(request, "signin.html", {"is_used": False})


def sign_out(request: Request, visitor: Visitor, form: Form) -> Response:
    """POST /leave: end the session, and the sessions at the tools that began with it."""
    del form
    sessions.end(visitor.session)
    for kind in (sessions.TOOLS, sessions.TICKET):
        sessions.end_at(visitor.name, kind)
    response = page(request, "signin.html", {"is_used": False})
    response.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
    return response


def require_own_origin(request: Request) -> None:
    """Raise HTTPException for a request from a page of another origin (Origin, RFC 6454; Sec-Fetch-Site)."""
    origin = request.headers.get("origin")
    if origin is not None and origin != f"{request.url.scheme}://{request.headers.get('host', '')}":
        raise HTTPException(403, FOREIGN_ORIGIN)
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise HTTPException(403, FOREIGN_ORIGIN)


async def read_form(request: Request) -> Form:
    """The fields of a form from a page of the desk. HTTPException for another origin."""
    require_own_origin(request)
    async with request.form(max_files=0, max_fields=20, max_part_size=16_384) as fields:
        return {name: value for name, value in fields.items() if isinstance(value, str)}


def public_form(handler: Callable[[Request, Form], Response]) -> Endpoint:
    """The endpoint of a form that needs no sign-in."""

    async def endpoint(request: Request) -> Response:
        return await run_in_threadpool(handler, request, await read_form(request))

    return endpoint


def page_for_roles(handler: Callable[[Request, Visitor], Response], *roles: str) -> Endpoint:
    """The endpoint of a page for signed-in people of these roles (of any role, if none is named)."""

    async def endpoint(request: Request) -> Response:
        visitor = await run_in_threadpool(read_visitor, request)
        if visitor is None:
            return RedirectResponse("/signin", status_code=303)
        _require_role(visitor, roles)
        return await run_in_threadpool(handler, request, visitor)

    return endpoint


def form_for_roles(handler: Callable[[Request, Visitor, Form], Response], *roles: str) -> Endpoint:
    """The endpoint of a form for people of these roles; it requires the CSRF token of their session."""

    async def endpoint(request: Request) -> Response:
        visitor = await run_in_threadpool(read_visitor, request)
        if visitor is None:
            raise HTTPException(401, SIGNED_OUT)
        _require_role(visitor, roles)
        form = await read_form(request)
        if not has_csrf_token(visitor, form.pop(CSRF_FIELD, "")):
            raise HTTPException(403, EXPIRED)
        return await run_in_threadpool(handler, request, visitor, form)

    return endpoint


def _require_role(visitor: Visitor, roles: tuple[str, ...]) -> None:
    if roles and visitor.role not in roles:
        role_names = " and the ".join(roles)
        raise HTTPException(403, f"This page is for the {role_names}; you are signed in as {visitor.role}.")
