"""Scenes and speakers in the database: their tenant, their limits, what becomes of them with a persona or a guild."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import select

from models import queries
from models.database import Database
from models.queries.deletion.purge import purge_guild
from models.queries.tenants.scenes import (
    add_character,
    remove_character,
    scene_of,
    scenes_of_persona,
    set_scene_order,
)
from models.tables import GuildProfile, Scene, SceneCharacter
from models.types import DialogKey, PersonaScope, Speaker, TurnResult

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)
HERE, ELSEWHERE = DialogKey(1, 10), DialogKey(2, 10)
PLACE = PersonaScope(channel_id=5, thread_id=0)
IN_THREAD = PersonaScope(channel_id=5, thread_id=6)


async def character(database: Database, key: DialogKey, name: str, *, own: bool = False) -> int:
    async with database.write() as session:
        made = await queries.create_persona(
            session, key=key, own=own, name=name, prompt=f"You are {name}.", author_id=10, limit=100, now=NOW
        )
    return made.persona_id


async def add(database: Database, key: DialogKey, place_id: int, persona_id: int, limit: int = 5) -> bool | None:
    async with database.write() as session:
        return await add_character(session, key=key, place_id=place_id, persona_id=persona_id, limit=limit, now=NOW)


async def playing(database: Database, key: DialogKey, scope: PersonaScope) -> list[str]:
    async with database.read() as session:
        scene = await scene_of(session, key=key, scope=scope)
    return [] if scene is None else [each.name for each in scene.characters]


async def test_only_the_guilds_own_play_in_it(database: Database) -> None:
    jack, anne = await character(database, HERE, "Jack"), await character(database, HERE, "Anne")
    hidden, mine = await character(database, ELSEWHERE, "Hidden"), await character(database, HERE, "Mine", own=True)
    assert await add(database, HERE, 5, hidden) is None
    assert await add(database, HERE, 5, mine) is None
    assert await add(database, HERE, 5, jack)
    assert await add(database, HERE, 5, jack, limit=1)
    assert await add(database, HERE, 5, anne, limit=1) is False
    assert await add(database, HERE, 5, anne)
    assert await playing(database, HERE, PLACE) == ["Jack", "Anne"]
    # The same channel id in another guild is another place, and a thread has that of its channel until its own.
    assert await playing(database, ELSEWHERE, PLACE) == []
    assert await playing(database, HERE, IN_THREAD) == ["Jack", "Anne"]
    assert await add(database, HERE, 6, anne)
    assert await playing(database, HERE, IN_THREAD) == ["Anne"]
    assert await playing(database, HERE, PersonaScope()) == []
    async with database.read() as session:
        assert await scenes_of_persona(session, key=HERE, persona_id=anne) == {5: 1, 6: 0}
        assert await scenes_of_persona(session, key=ELSEWHERE, persona_id=anne) == {}
    async with database.write() as session:
        assert not await remove_character(session, key=ELSEWHERE, place_id=5, persona_id=jack)
        assert not await set_scene_order(session, key=ELSEWHERE, place_id=5, speak="model")
        assert await set_scene_order(session, key=HERE, place_id=5, speak="model")
        assert await remove_character(session, key=HERE, place_id=5, persona_id=jack)
    assert await playing(database, HERE, PLACE) == ["Anne"]
    async with database.write() as session:
        assert await queries.delete_persona(session, key=HERE, own=False, persona_id=anne)
    assert await playing(database, HERE, PLACE) == []
    async with database.write() as session:
        assert not await set_scene_order(session, key=HERE, place_id=5, speak="turn")


async def test_a_guild_takes_all_of_it_with_it(database: Database) -> None:
    for key in (HERE, ELSEWHERE):
        jack = await character(database, key, "Jack")
        assert await add(database, key, 5, jack)
        async with database.write() as session:
            session.add(GuildProfile(guild_id=key.guild_id, fingerprint="x", sent_at=NOW))
    for _ in range(20):
        async with database.write() as session:
            if not await purge_guild(session, guild_id=1, limit=100):
                break
    async with database.read() as session:
        for table in (Scene, SceneCharacter, GuildProfile):
            assert list(await session.scalars(select(table.guild_id))) == [2]


async def test_each_reply_keeps_its_speaker(database: Database) -> None:
    def result(reply: str, speaker: Speaker | None) -> TurnResult:
        return TurnResult(reply, 1, 1, "stop", 1, 1, speaker=speaker)

    jack, anne = Speaker(7, "Jack"), Speaker(8, "Anne")
    async with database.write() as session:
        turn = (await queries.begin_turn(session, key=HERE, text="Hello", limit=10, now=NOW)).turn_id
        await queries.finish_turn(session, key=HERE, turn_id=turn, result=result("Arr.", jack), now=NOW)
    later = datetime(2026, 11, 29, 13, tzinfo=UTC)
    async with database.write() as session:
        begun = await queries.begin_regeneration(session, key=HERE, limit=10, turn_id=turn, now=later)
        assert begun is not None
        assert begun.speaker == jack
        await queries.finish_regeneration(session, key=HERE, turn_id=turn, result=result("A queen.", anne), now=later)
    async with database.read() as session:
        assert [each.speaker for each in await queries.variants(session, key=HERE, turn_id=turn)] == [jack, anne]
        [pair] = await queries.history(session, key=HERE, limit=10)
    assert (pair.reply, pair.speaker) == ("A queen.", anne)
    async with database.write() as session:
        assert await queries.select_variant(session, key=HERE, turn_id=turn, position=1)
    async with database.read() as session:
        [pair] = await queries.history(session, key=HERE, limit=10)
    assert (pair.reply, pair.speaker) == ("Arr.", jack)
