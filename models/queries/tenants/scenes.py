"""Scenes: the characters that answer together in a channel or thread. The key selects the guild.

A thread without a scene of its own has that of its channel. Where Discord does not restrict the channel by age, the
characters that are restricted so do not play; without any other the scene rests. Only personas of the guild's library
play in one.
"""

from __future__ import annotations

from datetime import datetime
from typing import get_args

from sqlalchemy import and_, bindparam, delete, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from models.application import current_application, ours
from models.queries.common import codec, ensure_guild, insert, rows_of
from models.queries.tenants.persona_changes import lock_library
from models.queries.tenants.personas import get_persona
from models.tables import Persona, PersonaVersion, Scene, SceneCharacter
from models.types import DialogKey, PersonaScope, PersonaText, SceneInfo, SceneOrder

_SCENE = (
    select(
        Scene.place_id,
        Scene.speak,
        Persona.id,
        Persona.name,
        Persona.age_restricted,
        PersonaVersion.prompt,
        PersonaVersion.card,
        PersonaVersion.version,
    )
    .join(
        SceneCharacter,
        and_(
            ours(SceneCharacter), SceneCharacter.guild_id == Scene.guild_id, SceneCharacter.place_id == Scene.place_id
        ),
    )
    .join(Persona, Persona.id == SceneCharacter.persona_id)
    .join(
        PersonaVersion,
        and_(PersonaVersion.persona_id == Persona.id, PersonaVersion.version == Persona.active_version),
    )
    .where(
        ours(Scene), Scene.guild_id == bindparam("guild_id"), ours(Persona), Persona.guild_id == bindparam("guild_id")
    )
    .where(Scene.place_id.in_([bindparam("thread_id"), bindparam("channel_id")]))
    .order_by(SceneCharacter.position, Persona.id)
)


async def scene_of(session: AsyncSession, *, key: DialogKey, scope: PersonaScope) -> SceneInfo | None:
    """Return the scene in which a message of this place is answered, with the texts of its characters, or None."""
    if not (scope.thread_id or scope.channel_id):
        return None
    places = {"thread_id": scope.thread_id, "channel_id": scope.channel_id}
    rows = (await rows_of(session, _SCENE, {"guild_id": key.guild_id, **places})).all()
    narrowest = scope.thread_id if any(row.place_id == scope.thread_id for row in rows) else scope.channel_id
    rows = [row for row in rows if row.place_id == narrowest and (scope.age_restricted or not row.age_restricted)]
    if not rows:
        return None
    text = codec(session)
    characters = tuple(
        PersonaText(
            "thread" if narrowest == scope.thread_id else "channel",
            row.name,
            text.open(row.prompt),
            row.version,
            row.id,
            None if row.card is None else text.open(row.card),
            row.age_restricted,
        )
        for row in rows
    )
    return SceneInfo(narrowest, _order(rows[0].speak), characters)


async def scenes_of_persona(session: AsyncSession, *, key: DialogKey, persona_id: int) -> dict[int, int]:
    """Return the places of the guild in whose scenes a persona plays, with the number of others that play there."""
    here = select(SceneCharacter.place_id).where(
        ours(SceneCharacter), SceneCharacter.guild_id == key.guild_id, SceneCharacter.persona_id == persona_id
    )
    counts = (
        select(SceneCharacter.place_id, func.count().label("playing"))
        .where(ours(SceneCharacter), SceneCharacter.guild_id == key.guild_id, SceneCharacter.place_id.in_(here))
        .group_by(SceneCharacter.place_id)
        .order_by(SceneCharacter.place_id)
    )
    return {row.place_id: row.playing - 1 for row in await session.execute(counts)}


async def add_character(
    session: AsyncSession, *, key: DialogKey, place_id: int, persona_id: int, limit: int, now: datetime
) -> bool | None:
    """Let a persona of the guild play in a place. None if it is gone, False if `limit` others play there."""
    if await get_persona(session, key=key, own=False, persona_id=persona_id) is None:
        return None
    await ensure_guild(session, key.guild_id, now)
    await lock_library(session, key=key, own=False, now=now)  # two at once do not both become the last one
    await session.execute(
        insert(session, Scene).values(guild_id=key.guild_id, place_id=place_id).on_conflict_do_nothing()
    )
    here = (ours(SceneCharacter), SceneCharacter.guild_id == key.guild_id, SceneCharacter.place_id == place_id)
    others, last = (
        await session.execute(
            select(func.count(), func.max(SceneCharacter.position)).where(
                *here, SceneCharacter.persona_id != persona_id
            )
        )
    ).one()
    if others >= limit:
        return False
    await session.execute(
        insert(session, SceneCharacter)
        .values(guild_id=key.guild_id, place_id=place_id, persona_id=persona_id, position=(last or 0) + 1)
        .on_conflict_do_nothing()
    )
    return True


async def remove_character(session: AsyncSession, *, key: DialogKey, place_id: int, persona_id: int) -> bool:
    """Take a persona out of the scene of a place; without any other the scene ends. False if it does not play there."""
    here = (ours(SceneCharacter), SceneCharacter.guild_id == key.guild_id, SceneCharacter.place_id == place_id)
    removed = await session.scalar(
        delete(SceneCharacter)
        .where(*here, SceneCharacter.persona_id == persona_id)
        .returning(SceneCharacter.persona_id)
    )
    if removed is None:
        return False
    if await session.scalar(select(SceneCharacter.persona_id).where(*here).limit(1)) is None:
        await session.execute(
            delete(Scene).where(ours(Scene), Scene.guild_id == key.guild_id, Scene.place_id == place_id)
        )
    return True


async def set_scene_order(session: AsyncSession, *, key: DialogKey, place_id: int, speak: SceneOrder) -> bool:
    """Choose who speaks in the scene of a place if a message names no character. False if no scene is there."""
    scene = await session.get(Scene, (key.guild_id, place_id, current_application()))
    playing = select(SceneCharacter.persona_id).where(
        ours(SceneCharacter), SceneCharacter.guild_id == key.guild_id, SceneCharacter.place_id == place_id
    )
    if scene is None or await session.scalar(playing.limit(1)) is None:
        return False
    scene.speak = speak
    await session.flush()
    return True


def _order(stored: str) -> SceneOrder:
    return next(order for order in get_args(SceneOrder) if order == stored)
