"""Nothing that is remembered crosses a tenant: each has words of its own, and reads no others."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from itertools import product

from models import queries
from models.database import Database
from models.queries.dialogs.prompts import prompt_of_turn
from models.queries.memory import facts, summaries, work
from models.queries.tenants.member_settings import set_member_memory
from models.types import DialogKey, GuildSettings, PromptRecord
from tests.bot.stored_turns import add_turn, turn_result

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
KEYS = [DialogKey(guild, user) for guild, user in product((0, 100, 101), (7, 8))]


def marker(key: DialogKey) -> str:
    return f"marker-{key.guild_id}-{key.user_id}"


async def test_each_tenant_reads_their_own_notes_alone(database: Database) -> None:
    turns: dict[DialogKey, int] = {}
    async with database.write() as session:
        for key in KEYS:
            if key.guild_id:
                chosen = GuildSettings(memory=True)
                await queries.set_guild_settings(session, key=key, settings=chosen, actor_id=None, now=NOW)
            await set_member_memory(session, key=key, memory=True, now=NOW)
            await add_turn(session, key, NOW, marker(key))
            await facts.add_fact(session, key=key, text=f"fact {marker(key)}", now=NOW)
            turn = await queries.begin_turn(session, key=key, text="x", limit=9, now=NOW)
            pairs = await work.pairs_to_remember(session, key=key, dialog_id=turn.dialog_id, after=0, limit=9)
            assert await summaries.store_summary(
                session, key=key, dialog_id=turn.dialog_id, text=f"sum {marker(key)}", before=None, pairs=pairs, now=NOW
            )
            [fact] = await facts.facts_of(session, key=key)
            stored = await summaries.summary_of(session, key=key)
            assert stored is not None
            record = PromptRecord(summary_id=stored.summary_id, fact_ids=(fact.fact_id,), default_prompt="x")
            result = replace(turn_result(), prompt=record)
            await queries.finish_turn(session, key=key, turn_id=turn.turn_id, result=result, now=NOW)
            turns[key] = turn.turn_id
    for key in KEYS:
        async with database.write() as session:
            begun = await queries.begin_turn(session, key=key, text="x", limit=9, memory=True, now=NOW)
            used = await prompt_of_turn(session, key=key, turn_id=turns[key])
            read = f"{begun.summary} {begun.facts} {used}"
            read += str([f.text for f in begun.facts]) + (begun.summary.text if begun.summary else "")
            assert used is not None
            read += str([f.text for f in used.facts]) + (used.summary.text if used.summary else "")
            assert read.count(marker(key)) == 4
            assert not [other for other in KEYS if other != key and marker(other) in read]
            for other, turn_id in turns.items():
                if other != key:
                    assert await prompt_of_turn(session, key=key, turn_id=turn_id) is None
            await session.rollback()
