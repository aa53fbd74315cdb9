"""The operator's page in this process: a server, a browser, and a database with a little of everything."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
from sqlalchemy import text

from bot.admin.access.guard import Names
from bot.admin.access.passwords import hash_password
from bot.admin.app import build
from bot.admin.context import Admin
from bot.admin.views.live import LiveFigures
from bot.settings import Settings, load_settings
from models import queries
from models.database import Database
from models.queries.privacy import opt_outs
from models.statement_guard import crossing
from models.types import DialogKey, MemberSettings, PersonaText, PromptRecord, TurnResult

BOT = 11
BASE = "http://127.0.0.1:8790"
PASSWORD = "correct horse battery"
NOW = datetime.now(UTC).replace(microsecond=0)
NASTY = "<script>alert(1)</script>' OR 1=1 -- {{ 7*191 }} {% raw %} \u202egnol\x1b[2J \"onmouseover=x"
ANN, BEN, CEM, DAN = 7, 8, 9, 10
"""Ann chats; Ben has opted out after having chatted; Cem keeps his answers private; Dan is in another guild."""


@dataclass
class Browser:
    """Keeps cookies, sends forms as browsers do, and knows what was printed in the terminal."""

    admin: Admin
    client: httpx.AsyncClient
    terminal: list[str] = field(default_factory=list)

    async def get(self, path: str, **more: object) -> httpx.Response:
        return await self.client.get(path, **more)  # type: ignore[arg-type]

    async def page(self, path: str) -> str:
        """The text of a page that can be read."""
        answer = await self.get(path)
        assert answer.status_code == 200, (answer.status_code, answer.headers.get("location"), answer.text)
        return answer.text

    async def send(self, form_on: str, action: str, **fields: str) -> httpx.Response:
        """Send a form of a page."""
        page = (await self.get(form_on)).text
        token = re.search(r'name="form_token" value="([^"]*)"', page)
        assert token, page
        return await self.post(action, form_token=token[1], **fields)

    async def post(self, action: str, *, headers: dict[str, str] | None = None, **fields: str) -> httpx.Response:
        return await self.client.post(action, data=fields, headers={"Origin": BASE} if headers is None else headers)

    async def sign_in(self) -> None:
        self.admin.announce = self.terminal.append
        token = self.admin.link.make()
        answer = await self.send(f"/login/{token}", f"/login/{token}")
        assert (answer.status_code, answer.headers["location"]) == (303, "/")


def admin_settings(**more: object) -> Settings:
    return load_settings(env_file=None, **more)


@asynccontextmanager
async def browser(database: Database, settings: Settings | None = None, **more: object) -> AsyncIterator[Browser]:
    """A browser at a server of its own."""
    settings = settings or admin_settings(**more)
    names = Names.of(settings.admin_host, settings.admin_port, settings.admin_url)
    terminal: list[str] = []
    admin = Admin(
        settings,
        database,
        names,
        terminal.append,
        LiveFigures([settings.admin_metrics_url] if settings.admin_metrics_url else ()),
    )
    transport = httpx.ASGITransport(app=build(admin), raise_app_exceptions=False)
    base = settings.admin_url or BASE
    async with httpx.AsyncClient(transport=transport, base_url=base) as client:
        yield Browser(admin, client, terminal)


def hashed() -> str:
    return hash_password(PASSWORD)


async def fill(database: Database) -> dict[str, int]:
    """Store a little of everything for BOT; return ids by name."""
    ours, ids = database.for_application(BOT), dict[str, int]()

    async def turn(name: str, key: DialogKey, said: str, reply: str, prompt: PromptRecord | None = None) -> None:
        result = TurnResult(reply, 400, 51, "stop", 250, 1250, prompt=prompt)
        async with ours.write() as session:
            begun = await queries.begin_turn(session, key=key, text=said, limit=9, now=NOW)
            assert await queries.finish_turn(session, key=key, turn_id=begun.turn_id, result=result, now=NOW)
        ids[name], ids[f"{name} dialog"] = begun.turn_id, begun.dialog_id

    async with ours.write() as session:
        persona = await queries.set_persona(
            session, key=DialogKey(100, ANN), level="guild", name="Pirate", prompt="You are a pirate.\nBe brief.",
            author_id=ANN, now=NOW,
        )  # fmt: skip
        assert isinstance(persona, PersonaText)
        ids["persona"] = persona.persona_id or 0
        await queries.edit_persona(
            session, key=DialogKey(100, ANN), own=False, persona_id=ids["persona"],
            prompt="You are a kind pirate.\nBe brief.", author_id=ANN, now=NOW,
        )  # fmt: skip
    answered = PromptRecord(persona_id=ids["persona"], persona_version=2, num_pairs=0)
    await turn("ann", DialogKey(100, ANN), f"secret of Ann {NASTY}", "a long **reply**", answered)
    await turn("ben", DialogKey(100, BEN), "secret of Ben", "to Ben")
    await turn("cem", DialogKey(100, CEM), "secret of Cem", "to Cem")
    await turn("dan", DialogKey(200, DAN), "secret of Dan", "to Dan")
    await turn("direct", DialogKey(0, ANN), "secret in direct messages", "to Ann alone")
    async with ours.write() as session:
        key = DialogKey(100, ANN)
        broken = await queries.begin_turn(session, key=key, text="fails", limit=9, now=NOW)
        await queries.fail_turn(session, key=key, turn_id=broken.turn_id, status="failed", error_id="e-77", now=NOW)
        await queries.set_member_settings(
            session, key=DialogKey(100, CEM), settings=MemberSettings(private=True), now=NOW
        )
        await opt_outs.opt_out(session, user_id=BEN, now=NOW)
        await queries.guild_removed(session, guild_id=200, now=NOW - timedelta(days=1))
    return ids


async def raw(database: Database, statement: str, **values: object) -> list[tuple[Any, ...]]:
    """Run a statement past the guard, on all applications; return its rows, if it has any."""
    before = crossing.get()
    crossing.set(True)
    try:
        async with database.write() as session:
            result = await session.execute(text(statement), values)
            return [tuple(row) for row in result] if result.returns_rows else []
    finally:
        crossing.set(before)
