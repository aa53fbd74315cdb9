"""Guilds: the list, and one with its settings and figures."""

from __future__ import annotations

from dataclasses import fields
from datetime import UTC, datetime

from starlette.exceptions import HTTPException
from starlette.responses import Response

from bot.admin.context import PAGE, SEALED, Visit
from bot.admin.pages.overview import day_charts
from bot.admin.views.kept_figures import DAYS, every_day
from bot.storage import translate_database_errors
from models.errors import WrongEncryptionKey
from models.queries.administration.figures import guild_figures
from models.queries.operator.lists import guild_row, guild_rows
from models.queries.tenants.guild_settings import guild_settings
from models.types import DialogKey, GuildSettings, RolePolicy

_COUNTED = {"filter_words"}
"""Settings whose texts are the guild's: only how many there are."""


async def guilds_page(visit: Visit) -> Response:
    """All guilds of the application, by id."""
    after = visit.cursor("after")
    with translate_database_errors():
        async with visit.database.read() as session:
            rows = await guild_rows(session, after=-1 if after is None else after, limit=PAGE + 1)
    return visit.page("lists/guilds.html", "Guilds", rows=rows[:PAGE], more=len(rows) > PAGE, first=after is None)


async def guild_page(visit: Visit) -> Response:
    """One guild."""
    guild_id = visit.number("guild")
    key = DialogKey(guild_id, 0)
    with translate_database_errors():
        async with visit.database.read() as session:
            row = await guild_row(session, guild_id=guild_id)
            if row is None:
                raise HTTPException(404)
            try:
                settings = list(_rows(await guild_settings(session, key=key)))
            except WrongEncryptionKey:  # of its filtered words
                settings = []
            figures = await guild_figures(session, key=key, days=DAYS, now=datetime.now(UTC))
    charts = day_charts(every_day(figures.days, DAYS))
    title = f"Guild {guild_id}" if guild_id else "Direct messages"
    return visit.page("details/guild.html", title, row=row, settings=settings, sealed=SEALED, charts=charts)


def _rows(settings: GuildSettings) -> list[tuple[str, str, bool]]:
    """Each setting with its value, and whether it is the default's."""
    default = GuildSettings()
    rows = []
    for each in fields(settings):
        value = getattr(settings, each.name)
        if each.name in _COUNTED:
            text = f"{len(value)}"
        elif value is None:
            text = "the operator's default"
        elif isinstance(value, frozenset):
            text = ", ".join(map(str, sorted(value))) or "none"
        elif isinstance(value, tuple):
            text = "; ".join(map(_part, value)) or "none"
        else:
            text = str(value)
        rows.append((each.name, text, value == getattr(default, each.name)))
    return rows


def _part(value: object) -> str:
    """One entry of a list: the rules of a role without those that are the default, or a pair."""
    if isinstance(value, RolePolicy):
        rules = [
            f"{each.name} {getattr(value, each.name)}" for each in fields(value)[1:]
            if getattr(value, each.name) not in (None, False)
        ]  # fmt: skip
        return f"role {value.role_id}: {', '.join(rules) or 'none'}"
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
