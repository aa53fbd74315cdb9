"""Revision 0010: rows get their application, and lose it again; both ways with data, on both databases."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from sqlalchemy import inspect, text

from models import queries
from models.application import TERMINAL
from models.database import Database
from models.engines import sync_engine
from models.migrate import downgrade, upgrade
from models.queries.application import enter_application
from models.queries.inspection import orphans
from models.queries.memory.facts import add_fact
from models.queries.tenants.scenes import add_character
from models.types import DialogKey, GuildSettings, MemberSettings, Place, TurnResult
from models.urls import sync_url

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
KEY = DialogKey(100, 7)


async def fill(url: str, application_id: int, guild_id: int = 100, interaction_id: int = 900) -> None:
    """A conversation of a member, with all that a guild may have."""
    database = Database(url, application_id=application_id)
    key = DialogKey(guild_id, 7)
    place = Place(guild_id, 5, 7, 900, application_id=11, reply_token="token", message_ids=(55,))
    settings = GuildSettings(channels=frozenset({5}), memory=True)
    async with database.write() as session:
        turn = await queries.begin_turn(
            session, key=key, text="hi", limit=9, interaction_id=interaction_id, place=place, now=NOW
        )  # fmt: skip
        await queries.finish_turn(
            session, key=key, turn_id=turn.turn_id, result=TurnResult("ho", 1, 1, "stop", 1, 1), now=NOW
        )
        saved = await queries.set_persona(
            session, key=key, level="guild", name="Hook", prompt="Arr", author_id=7, now=NOW
        )
        await add_character(session, key=key, place_id=5, persona_id=saved.persona_id, limit=3, now=NOW)
        await queries.set_guild_settings(session, key=key, settings=settings, actor_id=7, now=NOW)
        await queries.set_member_settings(session, key=key, settings=MemberSettings(locale="de"), now=NOW)
        await queries.block_member(session, key=key, blocked=True, actor_id=None, now=NOW)
        await add_fact(session, key=key, text="a fact", now=NOW)
    await database.close()


def everything(url: str) -> dict[str, list[dict[str, object]]]:
    """All rows of all tables, by column names."""
    engine = sync_engine(sync_url(url), writer=False)
    found = {}
    with engine.connect() as connection:
        for name in inspect(connection).get_table_names():
            rows = connection.execute(text(f"SELECT * FROM {name}")).mappings()
            found[name] = sorted((dict(row) for row in rows), key=repr)
    engine.dispose()
    return found


def without(rows: dict[str, list[dict[str, object]]], *columns: str) -> dict[str, list[dict[str, object]]]:
    tables = {name: found for name, found in rows.items() if name not in ("alembic_version", "discord_application")}
    return {
        name: [{key: value for key, value in row.items() if key not in columns} for row in found]
        for name, found in tables.items()
    }


def own(url: str, application_id: int) -> None:
    """Let the old schema's database belong to an application."""
    engine = sync_engine(sync_url(url))
    with engine.begin() as connection:
        connection.execute(
            text("INSERT INTO discord_application (id, application_id, since) VALUES (1, :id, :since)"),
            {"id": application_id, "since": "2026-11-19 12:00:00"},
        )
    engine.dispose()


@pytest.mark.parametrize("owner", [11, None])
async def test_rows_belong_to_the_application_that_is_known(empty_url: str, owner: int | None) -> None:
    upgrade(empty_url)
    await fill(empty_url, TERMINAL)
    before = without(everything(empty_url), "application_id", "interaction_application_id")
    downgrade(empty_url, "0009")
    old = everything(empty_url)
    filled = {name for name, rows in before.items() if rows}
    assert {name for name, rows in old.items() if rows} >= filled - {"member_blocks"}  # a column of the settings then
    assert [row["blocked_at"] is not None for row in old["member_settings"]] == [True]
    assert [row["application_id"] for row in old["deliveries"]] == [11]  # that of the interaction
    if owner is not None:
        own(empty_url, owner)
    upgrade(empty_url)
    rows = everything(empty_url)
    assert without(rows, "application_id", "interaction_application_id") == before
    belonging = {row["application_id"] for found in rows.values() for row in found if "application_id" in row}
    assert belonging == {owner or TERMINAL}
    database = Database(empty_url, application_id=owner or 33)
    if owner is None:  # the first bot that starts takes them
        taken = await database.run(lambda session: enter_application(session, application_id=33, now=NOW))
        assert taken == TERMINAL
    async with database.read() as session:
        assert [pair.reply for pair in await queries.history(session, key=KEY, limit=9)] == ["ho"]
        assert await orphans(session) == {}
    await database.close()


async def test_a_downgrade_keeps_the_application_that_was_started_first(empty_url: str) -> None:
    upgrade(empty_url)
    for number, application_id in enumerate((11, 22)):
        database = Database(empty_url, application_id=application_id)
        at = NOW.replace(minute=number)
        async with database.write() as session:
            await enter_application(session, application_id=application_id, now=at)
        await database.close()
        await fill(empty_url, application_id)
    await fill(empty_url, 22, guild_id=101, interaction_id=901)
    await fill(empty_url, TERMINAL)
    downgrade(empty_url, "0009")
    rows = everything(empty_url)
    assert [row["id"] for row in rows["guilds"]] == [100]
    assert len(rows["turns"]) == len(rows["dialogs"]) == len(rows["personas"]) == len(rows["persona_versions"]) == 1
    assert [row["application_id"] for row in rows["discord_application"]] == [11]
    upgrade(empty_url)
    database = Database(empty_url, application_id=11)
    async with database.read() as session:
        assert [pair.reply for pair in await queries.history(session, key=KEY, limit=9)] == ["ho"]
        assert await orphans(session) == {}
    await database.close()
