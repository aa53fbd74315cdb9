"""The application: which address is which page, and what a visitor reads when something does not work."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from bot.admin.access.guard import Guard
from bot.admin.context import Admin, Page, act, admin_of, signed_in
from bot.admin.pages import audit, dialogs, guilds, login, members, overview, personas, search, settings
from bot.admin.views.templates import FOLDER, render
from bot.errors import DatabaseUnavailable
from bot.log import reason_of
from models.errors import DatabaseError

log = structlog.get_logger(__name__)

GUILD = "/a/{application}/guilds/{guild}"
MEMBER = f"{GUILD}/members/{{user}}"
PAGES: dict[str, Page] = {
    "/": overview.applications_page,
    "/settings": settings.settings_page,
    "/a/{application}": overview.overview_page,
    "/a/{application}/guilds": guilds.guilds_page,
    "/a/{application}/members": members.members_page,
    "/a/{application}/members/{user}": members.member_page,
    "/a/{application}/dialogs": dialogs.dialogs_page,
    "/a/{application}/search": search.search_page,
    "/a/{application}/audit": audit.audit_page,
    GUILD: guilds.guild_page,
    f"{GUILD}/members": members.guild_members_page,
    MEMBER: members.guild_member_page,
    f"{GUILD}/personas": personas.personas_page,
    f"{GUILD}/personas/{{persona}}": personas.persona_page,
    f"{GUILD}/dialogs": dialogs.guild_dialogs_page,
    f"{GUILD}/dialogs/{{dialog}}": dialogs.dialog_page,
    f"{GUILD}/turns/{{turn}}": dialogs.turn_page,
}
"""What can be looked at, only while signed in."""
ACTS: dict[str, Page] = {
    "/logout": login.logout,
    "/a/{application}/members/{user}/delete": members.delete_member,
    f"{MEMBER}/delete": members.delete_member,
    f"{MEMBER}/block": members.block,
    f"{MEMBER}/unblock": members.unblock,
    f"{GUILD}/dialogs/{{dialog}}/end": dialogs.end_dialog,
}
"""What can be done, only by a form of the session."""
_TITLES = {400: "Not understood", 403: "Not allowed", 404: "Not found", 405: "Not possible", 503: "Not now"}
_NOT_FOUND = "There is no such thing here, or not any more."


def build(admin: Admin) -> ASGIApp:
    """The application with this state, behind the guard."""

    @asynccontextmanager
    async def reading(app: Starlette) -> AsyncIterator[None]:
        task = asyncio.create_task(admin.live.run(), name="read the engine's figures")
        yield
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    app = Starlette(
        routes=[
            Route("/login", login.login_page, methods=["GET"]),
            Route("/login", login.login, methods=["POST"]),
            Route("/login/link", login.print_link, methods=["POST"]),
            Route("/login/{token}", login.link_page, methods=["GET"]),
            Route("/login/{token}", login.use_link, methods=["POST"]),
            Route("/static/admin.css", _style, methods=["GET"]),
            *(Route(path, signed_in(page), methods=["GET"]) for path, page in PAGES.items()),
            *(Route(path, act(page), methods=["POST"]) for path, page in ACTS.items()),
        ],
        exception_handlers={
            HTTPException: _refused,
            DatabaseUnavailable: _no_database,
            DatabaseError: _no_database,
            Exception: _failed,
        },
        lifespan=reading,
    )
    app.state.admin = admin
    return Guard(app, admin.names)


async def _style(request: Request) -> Response:
    return FileResponse(FOLDER / "static" / "admin.css", media_type="text/css")


async def _refused(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    text = _NOT_FOUND if error.status_code == 404 and error.detail == "Not Found" else error.detail
    return _problem(request, error.status_code, text)


async def _no_database(request: Request, error: Exception) -> Response:
    log.warning("a page of the admin page could not be read", reason=reason_of(error))
    return _problem(request, 503, "The database cannot be reached now. Nothing was changed. Try again in a moment.")


async def _failed(request: Request, error: Exception) -> Response:
    error_id = secrets.token_hex(4)
    log.error("a page of the admin page failed", error_id=error_id, exc_info=error)
    return _problem(request, 500, f"Something went wrong. The log says more, under {error_id}.")


def _problem(request: Request, status: int, text: str) -> Response:
    """A page with one sentence. It tells nothing else to who is not signed in."""
    admin = admin_of(request)
    session = admin.sessions.find(request.cookies.get(admin.cookie, ""))
    page = render(
        "problem.html",
        title=_TITLES.get(status, "That did not work"),
        problem=text,
        signed_in=session is not None,
        form_token="" if session is None else session.form_token,
        application=None if session is None else request.path_params.get("application"),
        path=request.url.path,
    )
    return HTMLResponse(page, status)
