"""The settings of guilds: changed within the operator's limits, cached, and applied to chats."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from bot.errors import AboveLimit, BotError, Busy, QuotaUsedUp
from bot.guilds.settings import settings_cache
from bot.guilds.settings.settings_cache import GuildSettingsCache
from bot.guilds.settings.settings_checks import MAX_LISTED
from bot.settings import Settings
from models import queries
from models.database import Database
from models.types import DIRECT_MESSAGES, DialogKey, GuildSettings, Limits, ReplyLimits, RolePolicy
from tests.bot.chat.chat_kit import ANN, MakeChat, contents, say
from tests.bot.stored_turns import turns
from tests.fakes.engine import FakeEngine

GUILD, BOSS = ANN.guild_id, 7


def cache(database: Database, **settings: object) -> GuildSettingsCache:
    return GuildSettingsCache(database, Settings(_env_file=None, **settings))


async def store(database: Database, settings: GuildSettings) -> None:
    """As an earlier version, or another operator's limits, let a guild choose it."""
    key = DialogKey(GUILD, BOSS)
    async with database.write() as session:
        await queries.set_guild_settings(session, key=key, settings=settings, actor_id=BOSS, now=datetime.now(UTC))


class TestChanging:
    async def test_concurrent_changes_of_many_admins_are_all_kept(self, database: Database):
        def allow(channel: int) -> settings_cache.Change:
            return lambda old: replace(old, channels=old.channels | {channel})

        admins = [cache(database) for _ in range(4)]
        await asyncio.gather(
            *(admin.change(GUILD, allow(100 * n + i), actor_id=n) for n, admin in enumerate(admins, 1) for i in (1, 2))
        )
        expected = {100 * n + i for n in (1, 2, 3, 4) for i in (1, 2)}
        assert (await cache(database).get(GUILD)).channels == expected
        async with database.read() as session:
            assert len(await queries.audit_log(session, key=DialogKey(GUILD, 0), limit=20)) == 8

    @pytest.mark.parametrize("name", ["max_chat_logs", "max_reply_tokens", "retention_days"])
    async def test_beyond_the_operators_limit_nothing_is_written(self, database: Database, name: str):
        chosen = cache(database, **{name: 20})
        await chosen.change(GUILD, lambda old: replace(old, **{name: 20}), actor_id=BOSS)
        with pytest.raises(AboveLimit, match="20 at most, not 21"):
            await chosen.change(GUILD, lambda old: replace(old, daily_turns=1, **{name: 21}), actor_id=BOSS)
        assert await chosen.read(GUILD) == replace(GuildSettings(), **{name: 20})
        # A limit that was lowered since stands in the way of this value only.
        lower = cache(database, **{name: 10})
        assert (await lower.change(GUILD, lambda old: replace(old, daily_turns=1), actor_id=BOSS)).daily_turns == 1

    async def test_a_list_has_a_maximum_length(self, database: Database):
        chosen = cache(database)
        full = frozenset(range(1, MAX_LISTED + 1))
        await chosen.change(GUILD, lambda old: replace(old, channels=full), actor_id=BOSS)
        with pytest.raises(BotError, match=str(MAX_LISTED)):
            await chosen.change(GUILD, lambda old: replace(old, channels=full | {999}), actor_id=BOSS)
        assert (await chosen.read(GUILD)).channels == full

    async def test_a_change_that_changes_nothing_is_not_recorded(self, database: Database):
        await cache(database).change(GUILD, lambda old: old, actor_id=BOSS)
        async with database.read() as session:
            assert await queries.audit_log(session, key=DialogKey(GUILD, 0), limit=20) == ()


class TestCaching:
    async def test_cached_once_read_and_updated_by_a_change_here(self, database: Database):
        chosen = cache(database)
        assert chosen.known(GUILD) is None
        assert chosen.known(DIRECT_MESSAGES) == GuildSettings()
        assert await chosen.get(GUILD) == chosen.known(GUILD) == GuildSettings()
        await chosen.change(GUILD, lambda old: replace(old, daily_turns=3), actor_id=BOSS)
        assert chosen.known(GUILD) == GuildSettings(daily_turns=3)
        assert chosen.known(GUILD + 1) is None

    async def test_what_another_process_changed_is_seen_after_a_while(
        self, database: Database, monkeypatch: pytest.MonkeyPatch
    ):
        here, there = cache(database), cache(database)
        await here.get(GUILD)
        await there.change(GUILD, lambda old: replace(old, daily_turns=3), actor_id=BOSS)
        assert (await here.get(GUILD)).daily_turns is None
        monkeypatch.setattr(settings_cache, "FRESH", 0.0)
        assert here.known(GUILD) is None
        assert (await here.get(GUILD)).daily_turns == 3

    async def test_concurrent_callers_share_one_read_and_keep_their_order(
        self, database: Database, monkeypatch: pytest.MonkeyPatch
    ):
        chosen = cache(database)
        reads: list[int] = []
        original = queries.guild_settings

        async def counted(session: AsyncSession, *, key: DialogKey) -> GuildSettings:
            reads.append(key.guild_id)
            return await original(session, key=key)

        monkeypatch.setattr(queries, "guild_settings", counted)
        order: list[int] = []

        async def ask(number: int) -> None:
            await chosen.get(GUILD)
            order.append(number)

        asking = [asyncio.create_task(ask(number)) for number in range(20)]
        await asyncio.sleep(0)
        asking[3].cancel()  # a cancelled caller does not affect the others
        await asyncio.gather(*asking, return_exceptions=True)
        assert order == [number for number in range(20) if number != 3]
        assert reads == [GUILD]

    async def test_a_slow_read_does_not_bring_back_what_was_changed_meanwhile(
        self, database: Database, monkeypatch: pytest.MonkeyPatch
    ):
        chosen = cache(database)
        has_read, go_on = asyncio.Event(), asyncio.Event()
        original = queries.guild_settings

        async def slow(session: AsyncSession, *, key: DialogKey) -> GuildSettings:
            found = await original(session, key=key)
            has_read.set()
            await go_on.wait()
            return found

        monkeypatch.setattr(queries, "guild_settings", slow)
        reading = asyncio.create_task(chosen.get(GUILD))
        await has_read.wait()
        await chosen.change(GUILD, lambda old: replace(old, daily_turns=3), actor_id=BOSS)
        go_on.set()
        assert (await reading).daily_turns is None
        assert chosen.known(GUILD) == GuildSettings(daily_turns=3)


class TestApplied:
    async def test_the_operator_may_lower_a_limit_under_what_a_guild_chose(
        self, make_chat: MakeChat, engine: FakeEngine, database: Database
    ):
        await store(database, GuildSettings(max_chat_logs=20, max_reply_tokens=900))
        chat = make_chat(max_chat_logs=1, max_reply_tokens=50)
        for text in ("one", "two", "three"):
            await say(chat, text)
        assert contents(engine.requests[-1]) == ["You are a test.", "two", "You said: two", "three"]
        assert engine.requests[-1].body["max_tokens"] == 50

    async def test_a_used_up_day_is_refused_without_a_turn_in_every_channel(
        self, make_chat: MakeChat, engine: FakeEngine, database: Database
    ):
        await store(database, GuildSettings(daily_turns=1, roles=(RolePolicy(5, daily_turns=2),)))
        chat = make_chat()
        await say(chat, "one", replace(ANN, channel_id=1))
        for channel in (0, 1, 2):
            with pytest.raises(QuotaUsedUp, match="1 message a day") as refused:
                await say(chat, "two", replace(ANN, channel_id=channel), interaction_id=100 + channel)
            assert refused.value.returns_at > datetime.now(UTC)
        await say(
            chat, "two", ANN, limits=ReplyLimits(Limits(daily_messages=2)), interaction_id=100
        )  # a refused one was not taken up
        with pytest.raises(QuotaUsedUp, match="2 messages a day"):
            await say(chat, "three", ANN, limits=ReplyLimits(Limits(daily_messages=2)))
        assert [turn.user for turn in await turns(database)] == ["one", "two"]
        assert len(engine.requests) == 2

    async def test_many_channels_give_a_member_no_more_slots(self, make_chat: MakeChat, engine: FakeEngine):
        chat = make_chat(max_waiting=8)
        for _ in range(2):
            engine.hang()
        flood = [asyncio.create_task(say(chat, "me", replace(ANN, channel_id=channel))) for channel in range(1, 9)]
        await asyncio.wait_for(engine.arrived(2), 10)
        async with asyncio.timeout(10):  # the others are refused while both slots are taken
            while sum(asked.done() for asked in flood) < 6:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        engine.release()
        outcome = await asyncio.gather(*flood, return_exceptions=True)
        assert sum(isinstance(reply, Busy) for reply in outcome) == 6

    async def test_a_reset_is_taken_back_and_pairs_are_forgotten_in_their_own_dialog(self, make_chat: MakeChat):
        chat = make_chat()
        there = replace(ANN, channel_id=5)
        for key in (ANN, there):
            await say(chat, "one", key)
            await say(chat, "two", key)
            await chat.dialogs.reset(key)
        assert not await chat.dialogs.undo_reset(DialogKey(GUILD, 99))
        assert await chat.dialogs.undo_reset(there)
        assert [pair.user for pair in await chat.turns.history(there, 10)] == ["one", "two"]
        assert await chat.turns.history(ANN, 10) == ()
        assert await chat.dialogs.forget(there, 1) == 1
        assert await chat.dialogs.forget(ANN, 1) == 0
        assert [pair.user for pair in await chat.turns.history(there, 10)] == ["one"]
