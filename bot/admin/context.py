"""What all pages share: the settings, the database, who is signed in; and one signed-in request, a `Visit`."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from bot.admin.access.forms import read_form, read_query
from bot.admin.access.guard import Names
from bot.admin.access.login_pace import LoginPace
from bot.admin.access.sessions import OneTimeLink, Session, Sessions
from bot.admin.views.kept_figures import KeptFigures
from bot.admin.views.live import LiveFigures
from bot.admin.views.templates import render
from bot.settings import Settings
from models.database import Database
from models.types import LARGEST_ID

PAGE = 50
"""Rows of a page."""
SEALED = "The texts are encrypted, and no key opens them. Start guildllama admin with GUILDLLAMA_ENCRYPTION_KEYS."


@dataclass(slots=True)
class Admin:
    """The state of the server."""

    settings: Settings
    database: Database
    names: Names
    announce: Callable[[str], None]
    """Tells the operator something in the terminal."""
    live: LiveFigures
    sessions: Sessions = field(default_factory=Sessions)
    link: OneTimeLink = field(default_factory=OneTimeLink)
    figures: KeptFigures = field(default_factory=KeptFigures)
    pace: LoginPace = field(default_factory=LoginPace)
    form_secret: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)
    """Signs the form of the login page, where there is no session yet."""

    @property
    def cookie(self) -> str:
        """The name of the session's cookie. Browsers let no other host set one that begins with __Host-."""
        return "__Host-guildllama_admin" if self.names.secure else "guildllama_admin"


def admin_of(request: Request) -> Admin:
    """The server's state."""
    found = request.app.state.admin
    if not isinstance(found, Admin):
        raise TypeError("the application has no state")
    return found


@dataclass(frozen=True, slots=True)
class Visit:
    """A request of somebody who is signed in."""

    request: Request
    admin: Admin
    session: Session
    fields: Mapping[str, str]
    """What the form sent, or else the address."""

    def number(self, name: str) -> int:
        """An id in the path. One that no row can have is not found."""
        found = _number(str(self.request.path_params[name]))
        if found is None:
            raise HTTPException(404)
        return found

    def cursor(self, name: str) -> int | None:
        """An id in the address behind `?`, if it is given."""
        given = self.fields.get(name, "").strip()
        if not given:
            return None
        if (found := _number(given)) is None:
            raise HTTPException(400, f"“{name}” must be an id: digits alone.")
        return found

    @property
    def application_id(self) -> int:
        """The application whose rows the page is about."""
        return self.number("application")

    @property
    def database(self) -> Database:
        """The rows of that application."""
        return self.admin.database.for_application(self.application_id)

    def page(self, template: str, title: str, status: int = 200, **values: Any) -> Response:
        """A page inside the frame of all pages."""
        values |= {"application": self.request.path_params.get("application"), "path": self.request.url.path}
        text = render(template, title=title, form_token=self.session.form_token, signed_in=True, **values)
        return HTMLResponse(text, status)

    def to(self, path: str) -> Response:
        """Go to another page, after something was done."""
        return RedirectResponse(path, 303)


def _number(text: str) -> int | None:
    """The id that a text is; None if it is none."""
    if not (text.isascii() and text.isdecimal()) or len(text) > 19 or int(text) > LARGEST_ID:
        return None
    return int(text)


Page = Callable[[Visit], Awaitable[Response]]
Endpoint = Callable[[Request], Awaitable[Response]]


def signed_in(page: Page) -> Endpoint:
    """Only for a browser that is signed in: others are sent to the login page. Changes nothing."""

    async def endpoint(request: Request) -> Response:
        admin = admin_of(request)
        session = admin.sessions.find(request.cookies.get(admin.cookie, ""))
        if session is None:
            return RedirectResponse("/login", 303)
        return await page(Visit(request, admin, session, read_query(request)))

    return endpoint


def act(page: Page) -> Endpoint:
    """For a form of a browser that is signed in: it must send back its session's token."""

    async def endpoint(request: Request) -> Response:
        admin = admin_of(request)
        session = admin.sessions.find(request.cookies.get(admin.cookie, ""))
        if session is None:
            raise HTTPException(403, "You are not signed in any more. Nothing was changed.")
        fields = await read_form(request)
        given = fields.pop("form_token", "")
        if not secrets.compare_digest(given.encode(), session.form_token.encode()):
            raise HTTPException(403, "The form is not from this session. Nothing was changed.")
        return await page(Visit(request, admin, session, fields))

    return endpoint
