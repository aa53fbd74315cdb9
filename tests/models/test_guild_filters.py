"""A guild's limits and filters in the database: kept, sealed where encryption is on, recorded without the words."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from cryptography.fernet import Fernet
from sqlalchemy import text

from models import queries
from models.database import Database
from models.maintenance.rekey import rekey
from models.queries import audit_log
from models.types import DialogKey, GuildSettings, RolePolicy

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)
KEY = DialogKey(1, 7)
CHOSEN = GuildSettings(
    minute_messages=1,
    running_replies=2,
    guild_minute_messages=3,
    guild_running_replies=4,
    guild_daily_turns=5,
    guild_daily_tokens=6,
    roles=(RolePolicy(9, minute_messages=7, running_replies=8, daily_tokens=9),),
    filter_words=("darn*", "very silly"),
    moderation=True,
    moderation_thresholds=(("hate", 0.5), ("violence", 1.0)),
)


async def store(database: Database, settings: GuildSettings) -> GuildSettings:
    async with database.write() as session:
        await queries.set_guild_settings(session, key=KEY, settings=settings, actor_id=7, now=NOW)
    async with database.read() as session:
        return await queries.guild_settings(session, key=KEY)


async def stored_words(database: Database) -> list[str]:
    async with database.read() as session:
        rows = await session.execute(text("SELECT word FROM guild_filter_words ORDER BY position"))
        return [str(word) for word in rows.scalars()]


async def test_words_are_sealed_and_rekeyed_and_stand_in_no_audit_row(database_url: str) -> None:
    key = Fernet.generate_key().decode()
    sealed = Database(database_url, encryption_keys=(key,))
    try:
        assert await store(sealed, CHOSEN) == CHOSEN
        stored = " ".join(await stored_words(sealed))
        assert not any(word in stored for word in ("darn", "silly"))
        async with sealed.read() as session:
            [record] = await audit_log(session, key=KEY, limit=5)
        details = json.loads(record.details)
        assert details["filter_words"] == {"old": 0, "new": 2}
        assert "darn" not in record.details
        assert "darn" not in repr(CHOSEN)
        assert (await rekey(sealed, plain=True))["guild_filter_words"] == 2
        assert await stored_words(sealed) == ["darn*", "very silly"]
    finally:
        await sealed.close()


async def test_each_guild_has_its_own_and_all_can_be_taken_back(database: Database) -> None:
    await store(database, CHOSEN)
    async with database.read() as session:
        assert await queries.guild_settings(session, key=DialogKey(2, 7)) == GuildSettings()
    assert await store(database, GuildSettings()) == GuildSettings()
    assert await stored_words(database) == []
