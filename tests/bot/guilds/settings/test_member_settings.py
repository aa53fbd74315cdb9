"""What members chose for themselves: kept, changed one after the other, and guessed on the safe side."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from bot.errors import Hint
from bot.guilds.privacy import PrivacyService
from bot.guilds.settings import member_settings
from bot.guilds.settings.member_settings import MemberSettingsCache
from models import queries
from models.database import Database
from models.queries.tenants.member_settings import set_member_memory
from models.types import DialogKey, MemberSettings
from tests.bot.guilds.test_retention import NOW

ANN, BEN = DialogKey(100, 1), DialogKey(100, 2)


async def test_changes_at_the_same_time_both_hold_and_memory_stays(database: Database) -> None:
    cache = MemberSettingsCache(database)
    async with database.write() as session:
        await set_member_memory(session, key=ANN, memory=True, now=NOW)
    await asyncio.gather(
        cache.change(ANN, lambda old: replace(old, max_chat_logs=3)),
        cache.change(ANN, lambda old: replace(old, retention_days=4)),
        cache.change(BEN, lambda old: replace(old, locale="ko")),
    )
    assert await cache.read(ANN) == MemberSettings(3, 4, memory=True)
    assert await cache.read(BEN) == MemberSettings(locale="ko")
    assert cache.known(BEN) == MemberSettings(locale="ko")
    assert cache.known(DialogKey(101, 2)) is None


async def test_what_a_change_raises_leaves_everything_as_it_was(database: Database) -> None:
    cache = MemberSettingsCache(database)
    await cache.change(ANN, lambda old: replace(old, private=True))

    def refuse(old: MemberSettings) -> MemberSettings:
        raise Hint("no")

    with pytest.raises(Hint):
        await cache.change(ANN, refuse)
    assert await cache.read(ANN) == MemberSettings(private=True)


async def test_nothing_is_stored_of_one_who_opted_out(database: Database) -> None:
    cache = MemberSettingsCache(database)
    await PrivacyService(database).opt_out(ANN.user_id)
    with pytest.raises(Hint, match="opted out"):
        await cache.change(ANN, lambda old: replace(old, private=True))
    assert await cache.read(ANN) == MemberSettings()


async def test_while_the_database_is_away_what_was_known_counts_and_else_private(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = MemberSettingsCache(database)
    assert not await cache.wants_private(BEN)
    await cache.change(ANN, lambda old: replace(old, private=True))
    monkeypatch.setattr(member_settings, "FRESH", 0.0)
    monkeypatch.setattr(member_settings, "PATIENCE", 0.05)

    @asynccontextmanager
    async def stalled() -> AsyncIterator[None]:
        await asyncio.Event().wait()
        yield

    monkeypatch.setattr(database, "read", stalled)
    assert await cache.wants_private(ANN)
    assert not await cache.wants_private(BEN)
    assert await cache.wants_private(DialogKey(100, 3))  # nothing is known: a public answer could not be taken back


async def test_those_who_wait_for_one_reading_go_on_in_their_order(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two messages of one member the second must not overtake the first."""
    cache, order, reads, go_on = MemberSettingsCache(database), [], [], asyncio.Event()

    async def slow(session: object, *, key: DialogKey) -> MemberSettings:
        reads.append(key)
        await go_on.wait()
        return MemberSettings(locale="ko")

    async def ask(number: int) -> None:
        assert await cache.locale(ANN) == "ko"
        order.append(number)

    monkeypatch.setattr(queries, "member_settings", slow)
    monkeypatch.setattr(member_settings, "SHORT_PATIENCE", 20.0)
    async with asyncio.TaskGroup() as tasks:
        for number in range(5):
            tasks.create_task(ask(number))
        await asyncio.sleep(0)
        go_on.set()
    assert order == [0, 1, 2, 3, 4]
    assert reads == [ANN]
