"""Personas: read the one that applies; set, clear and roll back the persona of a level.

Precedence: the member's own persona in this guild (but not in a shared dialog), then the channel's, then the guild's.
In direct messages (guild 0) there is only the member's own.
Called by bot/guilds/personas.py; the key selects the guild, channel and member.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ColumnElement, and_, case, delete, func, literal, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from models.queries.common import codec, ensure_guild, ensure_user, insert_if_absent
from models.tables import Persona, PersonaVersion
from models.types import DialogKey, PersonaLevel, PersonaText, PersonaVersionInfo, StoredLevel

KEPT_VERSIONS = 20  # per persona; older ones are deleted


async def effective_persona(session: AsyncSession, *, key: DialogKey) -> PersonaText | None:
    """Return the persona that applies to this key, or None: then the bot's default applies."""
    rank = case((Persona.level == "member", 0), (Persona.level == "channel", 1), else_=2)
    return await _active(session, or_(*(_slot(key, level) for level in _levels(key))), rank)


async def get_persona(session: AsyncSession, *, key: DialogKey, level: StoredLevel) -> PersonaText | None:
    """Return the persona set at exactly this level, or None."""
    return await _active(session, _slot(key, level), literal(0))


async def set_persona(
    session: AsyncSession,
    *,
    key: DialogKey,
    level: StoredLevel,
    name: str,
    prompt: str,
    author_id: int | None,
    now: datetime,
) -> PersonaText:
    """Store a new version at this level, make it active and return it."""
    persona_id = await _ensure_slot(session, key, level, now)
    latest = await session.scalar(
        select(func.max(PersonaVersion.version)).where(PersonaVersion.persona_id == persona_id)
    )
    version = (latest or 0) + 1
    if author_id is not None:
        await ensure_user(session, author_id, now)
    session.add(
        PersonaVersion(
            persona_id=persona_id,
            version=version,
            name=name,
            prompt=codec(session).seal(prompt),
            author_id=author_id,
            created_at=now,
        )
    )
    await session.flush()
    await session.execute(update(Persona).where(Persona.id == persona_id).values(active_version=version))
    await session.execute(
        delete(PersonaVersion).where(
            PersonaVersion.persona_id == persona_id, PersonaVersion.version <= version - KEPT_VERSIONS
        )
    )
    return PersonaText(level, name, prompt, version)


async def clear_persona(session: AsyncSession, *, key: DialogKey, level: StoredLevel) -> bool:
    """Deactivate the persona of this level; its versions stay for a rollback. False if none was active."""
    cleared = await session.scalar(
        update(Persona)
        .where(_slot(key, level), Persona.active_version.is_not(None))
        .values(active_version=None)
        .returning(Persona.id)
    )
    return cleared is not None


def _levels(key: DialogKey) -> tuple[StoredLevel, ...]:
    """Return the levels that can apply to this key. In a shared dialog no member decides it for the others."""
    own: tuple[StoredLevel, ...] = () if key.shared else ("member",)
    return (*own, "channel", "guild") if key.channel_id else (*own, "guild")


def _slot(key: DialogKey, level: StoredLevel) -> ColumnElement[bool]:
    """Return the condition on Persona that selects the key's row of this level."""
    guild = and_(Persona.guild_id == key.guild_id, Persona.level == level)
    if level == "member":
        return and_(guild, Persona.user_id == key.user_id)
    if level == "channel":
        return and_(guild, Persona.channel_id == key.channel_id)
    return guild


async def _active(session: AsyncSession, slots: ColumnElement[bool], order: ColumnElement[int]) -> PersonaText | None:
    """Return the active version of the first of `slots` that has one."""
    row = (
        await session.execute(
            select(Persona.level, PersonaVersion.name, PersonaVersion.prompt, PersonaVersion.version)
            .join(
                PersonaVersion,
                and_(PersonaVersion.persona_id == Persona.id, PersonaVersion.version == Persona.active_version),
            )
            .where(slots)
            .order_by(order)
            .limit(1)
        )
    ).first()
    if row is None:
        return None
    return PersonaText(_level(row.level), row.name, codec(session).open(row.prompt), row.version)


def _level(text: str) -> PersonaLevel:
    levels: dict[str, PersonaLevel] = {"guild": "guild", "channel": "channel", "member": "member"}
    return levels[text]


async def _ensure_slot(session: AsyncSession, key: DialogKey, level: StoredLevel, now: datetime) -> int:
    """Return the persona's row id, inserting the row if needed; the row is locked."""
    await ensure_guild(session, key.guild_id, now)
    if level == "member":
        await ensure_user(session, key.user_id, now)
    await insert_if_absent(
        session,
        Persona,
        guild_id=key.guild_id,
        level=level,
        channel_id=key.channel_id if level == "channel" else 0,
        user_id=key.user_id if level == "member" else None,
    )
    # Locked until the commit, so that two concurrent admins get different version numbers.
    return (await session.scalars(select(Persona.id).where(_slot(key, level)).with_for_update())).one()


async def persona_versions(
    session: AsyncSession, *, key: DialogKey, level: StoredLevel
) -> tuple[PersonaVersionInfo, ...]:
    """Return the stored versions of the persona at this level, newest first."""
    rows = await session.execute(
        select(PersonaVersion, Persona.active_version)
        .join(Persona, Persona.id == PersonaVersion.persona_id)
        .where(_slot(key, level))
        .order_by(PersonaVersion.version.desc())
    )
    text = codec(session)
    return tuple(
        PersonaVersionInfo(
            version.version,
            version.name,
            text.open(version.prompt),
            version.author_id,
            version.created_at,
            version.version == active,
        )
        for version, active in rows
    )


async def rollback_persona(
    session: AsyncSession, *, key: DialogKey, level: StoredLevel, version: int
) -> PersonaText | None:
    """Make a stored version active again, also after a clear. None if that version is not stored."""
    kept = select(PersonaVersion.persona_id).where(
        PersonaVersion.persona_id == Persona.id, PersonaVersion.version == version
    )
    changed = await session.scalar(
        update(Persona).where(_slot(key, level), kept.exists()).values(active_version=version).returning(Persona.id)
    )
    return None if changed is None else await get_persona(session, key=key, level=level)
