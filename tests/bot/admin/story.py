"""A database as it may look after a month, for pictures of the operator's page."""

from __future__ import annotations

import random
from datetime import timedelta

from sqlalchemy import insert

from bot.chat.prompts.rebuild import rebuild
from bot.chat.prompts.sent_prompt import digest
from bot.settings import Settings
from models import queries
from models.database import Database
from models.queries.dialogs.prompt_parts import prompt_parts
from models.queries.privacy import opt_outs
from models.statement_guard import crossing
from models.tables import DailyUsage, Guild, User
from models.types import DialogKey, MemberSettings, PersonaText, PromptInputs, PromptRecord, TurnResult
from tests.bot.admin.admin_kit import BOT, NOW, raw

GUILD, ANN, BEN, CEM = (
    1_093_245_871_604_310_016,
    310_284_551_932_804_097,
    420_915_663_118_807_040,
    530_118_204_776_013_824,
)
METRICS = """\
guildllama_engine_running 5
guildllama_engine_waiting 2
guildllama_engine_kv_used_tokens 18432
guildllama_engine_kv_cached_tokens 30720
guildllama_engine_kv_total_tokens 65536
guildllama_engine_kv_host_used_tokens 40960
guildllama_engine_kv_host_total_tokens 262144
guildllama_engine_prefix_hit_tokens_total 912000
guildllama_engine_prefill_tokens_total 301000
guildllama_engine_generated_tokens_total {tokens}
guildllama_engine_restarts_total 1
"""
TALK = (
    ("Where did you hide the map?", "Under the third floorboard, where the cat sleeps. **Do not wake the cat.**"),
    ("And the key to the chest?", "On a string round the parrot's neck. He wants:\n\n1. a cracker\n2. a compliment"),
    ("What is in the chest?", "Letters, mostly. And one silver spoon that I will not explain."),
)


async def tell(database: Database, settings: Settings) -> dict[str, int]:
    """Store the story; return ids by name."""
    ours, key, ids = database.for_application(BOT), DialogKey(GUILD, ANN), dict[str, int]()
    async with ours.write() as session:
        await queries.guild_joined(session, guild_id=GUILD, now=NOW - timedelta(days=40))
        first = await queries.set_persona(
            session, key=key, level="guild", name="Captain Mira", author_id=BEN, now=NOW - timedelta(days=9),
            prompt="You are Mira, captain of a small ship.\nAnswer in two sentences.\nNever name the island.",
        )  # fmt: skip
        assert isinstance(first, PersonaText)
        ids["persona"] = first.persona_id or 0
        await queries.edit_persona(
            session, key=key, own=False, persona_id=ids["persona"], author_id=BEN, now=NOW - timedelta(days=2),
            prompt="You are Mira, captain of a ship with a cat.\nAnswer in one or two sentences.\nBe kind to guests.",
        )  # fmt: skip
    rng = random.Random(7)
    for index, (text, reply) in enumerate(TALK):
        at = NOW - timedelta(minutes=30 - 4 * index)
        async with ours.write() as session:
            turn = await queries.begin_turn(session, key=key, text=text, limit=9, now=at)
            record = PromptRecord(
                persona_id=ids["persona"], persona_version=2, num_pairs=min(index, 1),
                first_turn_id=turn.history[-1].turn_id if turn.history else None,
                inputs=PromptInputs(persona_name="Captain Mira", max_pairs=min(index, 1),
                                    history_turn_id=turn.history[-1].turn_id if turn.history else None,
                                    selected_turn_id=turn.history[-1].turn_id if turn.history else None),
            )  # fmt: skip
            result = TurnResult(reply, 180 + 60 * index, 31 + index, "stop", 180, 1300, prompt=record)
            assert await queries.finish_turn(session, key=key, turn_id=turn.turn_id, result=result, now=at)
        ids["turn"], ids["dialog"] = turn.turn_id, turn.dialog_id
        async with ours.read() as session:
            parts = await prompt_parts(session, turn_id=turn.turn_id)
        assert parts
        sent = digest((await rebuild(parts, settings)).messages)
        await raw(
            database, "UPDATE turn_prompts SET digest = :sent WHERE turn_id = :turn", sent=sent, turn=turn.turn_id
        )
    async with ours.write() as session:
        broken = await queries.begin_turn(session, key=key, text="Sing me a shanty!", limit=9, now=NOW)
        await queries.fail_turn(session, key=key, turn_id=broken.turn_id, status="failed", error_id="3f9c21aa", now=NOW)
        for member, text in ((BEN, "Is Mira a person?"), (CEM, "A secret question")):
            turn = await queries.begin_turn(session, key=DialogKey(GUILD, member), text=text, limit=9, now=NOW)
            result = TurnResult("No.", 90, 9, "stop", 130, 420)
            assert await queries.finish_turn(
                session, key=DialogKey(GUILD, member), turn_id=turn.turn_id, result=result, now=NOW
            )
            ids[f"dialog of {member}"] = turn.dialog_id
        await queries.set_member_settings(
            session, key=DialogKey(GUILD, CEM), settings=MemberSettings(private=True), now=NOW
        )
        await queries.block_member(
            session, key=DialogKey(GUILD, BEN), blocked=True, actor_id=ANN, now=NOW, reason="spam"
        )
        await opt_outs.opt_out(session, user_id=BEN, now=NOW)
    await _month(database, rng)
    return ids


async def _month(database: Database, rng: random.Random) -> None:
    """Other guilds and members with their use by day."""
    crossing.set(True)
    try:
        async with database.write() as session:
            guilds = [10**18 + number * 7_654_321 for number in range(60)]
            members = [2 * 10**17 + number * 1_234_567 for number in range(120)]
            own = {"application_id": BOT, "first_seen_at": NOW - timedelta(days=35)}
            await session.execute(insert(Guild), [{**own, "id": each} for each in guilds])
            await session.execute(insert(User), [{**own, "id": each} for each in members])
            rows = []
            for back in range(30):
                for member in rng.sample(members, 30 + rng.randrange(50) + (20 if back % 7 in (0, 1) else 0)):
                    turns = rng.randrange(1, 12)
                    rows.append({
                        "application_id": BOT, "guild_id": guilds[member % 60], "user_id": member,
                        "day": (NOW - timedelta(days=back)).date(),
                        "turns": turns, "prompt_tokens": turns * 320, "completion_tokens": turns * 70,
                    })  # fmt: skip
            await session.execute(insert(DailyUsage), rows)
    finally:
        crossing.set(False)
