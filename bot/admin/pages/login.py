"""Signing in and out: by password, or by the one-time link that stands in the terminal."""

from __future__ import annotations

import asyncio
import hmac
import math
import secrets

import structlog
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from bot.admin.access.forms import read_form
from bot.admin.access.passwords import check_password
from bot.admin.context import Admin, Visit, admin_of
from bot.admin.views.templates import render

log = structlog.get_logger(__name__)

_FORM_COOKIE = "guildllama_admin_form"
_checking = asyncio.Semaphore(1)
"""One check at a time: each takes 64 MiB."""


async def login_page(request: Request) -> Response:
    """The form: a password, or a button that has a link printed in the terminal."""
    return _form(admin_of(request), request)


async def login(request: Request) -> Response:
    """Check the password."""
    admin, fields = admin_of(request), await _form_fields(request)
    stored = admin.settings.admin_password_hash
    if stored is None:
        raise HTTPException(404)
    if (refusal := _too_often(admin, request)) is not None:
        return refusal
    async with _checking:
        right = await asyncio.to_thread(check_password, fields.get("password", ""), stored.get_secret_value())
    if not right:
        log.warning("a wrong password was given on the admin page", address=_address(request))
        return _form(admin, request, problem="That is not the password.", status=403)
    return _begin(admin, request, "password")


async def print_link(request: Request) -> Response:
    """Print a new link in the terminal: only who sees the terminal can use it."""
    admin = admin_of(request)
    await _form_fields(request)
    if admin.settings.admin_password_hash is not None:
        raise HTTPException(404)
    if (refusal := _too_often(admin, request)) is not None:
        return refusal
    announce_link(admin)
    return _form(admin, request, notice="A new link stands in the terminal of guildllama admin.")


async def link_page(request: Request) -> Response:
    """The one-time link. Opening it changes nothing, since mail and chat programs open links too; its button does."""
    admin = admin_of(request)
    if not admin.link.holds(request.path_params["token"]):
        return _form(admin, request, problem="This link was used, or has ended. Ask for another one.", status=403)
    return _form(admin, request, template="signing_in/link.html", token=request.path_params["token"])


async def use_link(request: Request) -> Response:
    """Sign in with the link."""
    admin = admin_of(request)
    await _form_fields(request)
    if not admin.link.use(request.path_params["token"]):
        return _form(admin, request, problem="This link was used, or has ended. Ask for another one.", status=403)
    return _begin(admin, request, "link")


async def logout(visit: Visit) -> Response:
    """End the session."""
    visit.admin.sessions.end(visit.request.cookies.get(visit.admin.cookie, ""))
    response = visit.to("/login")
    response.delete_cookie(visit.admin.cookie, secure=visit.admin.names.secure, httponly=True, samesite="strict")
    return response


def announce_link(admin: Admin) -> None:
    """Print a new one-time link."""
    base = admin.settings.admin_url or f"http://{_netloc(admin.settings.admin_host)}:{admin.settings.admin_port}"
    admin.announce(f"Open {base}/login/{admin.link.make()} within 10 minutes. It works once.")


def _netloc(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _begin(admin: Admin, request: Request, by: str) -> Response:
    log.info("the operator signed in on the admin page", address=_address(request), by=by)
    response = RedirectResponse("/", 303)
    response.set_cookie(
        admin.cookie, admin.sessions.begin(), path="/", secure=admin.names.secure, httponly=True, samesite="strict"
    )
    response.delete_cookie(_FORM_COOKIE, secure=admin.names.secure, httponly=True, samesite="strict")
    return response


def _too_often(admin: Admin, request: Request) -> Response | None:
    """The refusal of a try that comes too soon; else the try is counted."""
    address = _address(request)
    seconds = admin.pace.seconds(address)
    if seconds <= 0:
        admin.pace.count(address)
        return None
    wait = math.ceil(seconds)
    response = _form(admin, request, problem=f"Too many tries. Try again in {wait} s.", status=429)
    response.headers["Retry-After"] = str(wait)
    return response


def _address(request: Request) -> str:
    return request.client.host if request.client else "unknown"


def _form(
    admin: Admin,
    request: Request,
    *,
    template: str = "signing_in/login.html",
    problem: str = "",
    notice: str = "",
    status: int = 200,
    token: str = "",
) -> Response:
    """A form of somebody who is not signed in. It is tied to a cookie, so that no other page can send it."""
    cookie = request.cookies.get(_FORM_COOKIE) or secrets.token_urlsafe(16)
    text = render(
        template,
        title="Sign in",
        problem=problem,
        notice=notice,
        token=token,
        has_password=admin.settings.admin_password_hash is not None,
        form_token=_signed(admin, cookie),
        signed_in=False,
        application=None,
        path=request.url.path,
    )
    response = HTMLResponse(text, status)
    response.set_cookie(_FORM_COOKIE, cookie, path="/", secure=admin.names.secure, httponly=True, samesite="strict")
    return response


async def _form_fields(request: Request) -> dict[str, str]:
    fields = await read_form(request)
    expected = _signed(admin_of(request), request.cookies.get(_FORM_COOKIE, ""))
    if not hmac.compare_digest(fields.get("form_token", "").encode(), expected.encode()):
        raise HTTPException(403, "The form has ended, or the browser keeps no cookies. Open the page again.")
    return fields


def _signed(admin: Admin, cookie: str) -> str:
    return hmac.new(admin.form_secret, cookie.encode("utf-8", "surrogatepass"), "sha256").hexdigest()
