"""Where personas answer: which one applies to a message, and the changes of that.

Precedence: the member's own (where the guild allows it, and in no shared dialog), then that of the thread, the channel,
the category and the guild. In direct messages (guild 0) there is only the member's own. `PersonaScope` says where the
message was written: whose dialog it belongs to does not matter. The key selects the guild and the member.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import get_args

from sqlalchemy import ColumnElement, Row, Select, and_, case, delete, or_, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from models.queries.common import codec, ensure_guild, ensure_user, insert
from models.queries.tenants.personas import (
    UNNAMED,
    create_persona,
    edit_persona,
    find_persona,
    get_persona,
    in_library,
    lock_library,
    shown_name,
)
from models.tables import Persona, PersonaAssignment, PersonaVersion
from models.types import (
    DIRECT_MESSAGES,
    NO_PLACE,
    DialogKey,
    PersonaAssignmentInfo,
    PersonaInfo,
    PersonaLevelInfo,
    PersonaScope,
    PersonaText,
    StoredLevel,
)


async def effective_persona(
    session: AsyncSession, *, key: DialogKey, scope: PersonaScope = NO_PLACE
) -> PersonaText | None:
    """Return the persona that answers a message of this key there, or None: then the operator's default does."""
    row = (await session.execute(_assigned(_levels(key, scope), scope).limit(1))).first()
    return None if row is None else _text(session, row)


async def persona_levels(
    session: AsyncSession, *, key: DialogKey, scope: PersonaScope = NO_PLACE
) -> tuple[PersonaLevelInfo, ...]:
    """Return every level at which a persona is set for this place or member, the narrowest first.

    The member's own is among them also where it may not answer.
    """
    levels = or_(_levels(key, scope), _member(key))
    return tuple(
        PersonaLevelInfo(_level(row.level), row.place_id, row.id, row.name, row.version)
        for row in await session.execute(_assigned(levels, scope))
    )


async def assigned_persona(
    session: AsyncSession, *, key: DialogKey, level: StoredLevel, place_id: int = 0
) -> PersonaText | None:
    """Return the persona set at exactly this level, or None."""
    row = (await session.execute(_assigned(_slot(key, level, place_id), NO_PLACE).limit(1))).first()
    return None if row is None else _text(session, row)


async def assignments_of(
    session: AsyncSession, *, key: DialogKey, own: bool, persona_ids: Collection[int]
) -> dict[int, tuple[PersonaAssignmentInfo, ...]]:
    """Return where entries of the library are set, by their ids."""
    rows = await session.execute(
        select(PersonaAssignment.persona_id, PersonaAssignment.level, PersonaAssignment.place_id)
        .join(Persona, Persona.id == PersonaAssignment.persona_id)
        .where(in_library(key, own), Persona.id.in_(persona_ids))
        .order_by(PersonaAssignment.place_id)
    )
    found: dict[int, tuple[PersonaAssignmentInfo, ...]] = {persona_id: () for persona_id in persona_ids}
    for row in rows:
        found[row.persona_id] += (PersonaAssignmentInfo(_level(row.level), row.place_id),)
    return found


async def assign_persona(
    session: AsyncSession,
    *,
    key: DialogKey,
    level: StoredLevel,
    place_id: int = 0,
    persona_id: int,
    set_by: int | None,
    now: datetime,
) -> bool:
    """Let an entry answer at this level, instead of the one before. False if the library has no such entry.

    The entry is of the member's own library for the level member, else of the guild's.
    """
    own = level == "member"
    if await get_persona(session, key=key, own=own, persona_id=persona_id) is None:
        return False
    await ensure_guild(session, key.guild_id, now)
    for person in {key.user_id if own else None, set_by} - {None}:
        await ensure_user(session, int(person or 0), now)
    values = {"level": level, "persona_id": persona_id, "set_by": set_by, "set_at": now}
    identity: dict[str, object] = {"guild_id": key.guild_id}
    identity |= {"user_id": key.user_id} if own else {"place_id": place_id}
    await session.execute(
        insert(session, PersonaAssignment)
        .values(**identity, **values)
        .on_conflict_do_update(
            index_elements=list(identity),
            index_where=text("user_id IS NOT NULL" if own else "user_id IS NULL"),
            set_=values,
        )
    )
    await session.execute(update(Persona).where(Persona.id == persona_id).values(updated_at=now))
    return True


async def clear_persona(
    session: AsyncSession, *, key: DialogKey, level: StoredLevel, place_id: int = 0, now: datetime
) -> bool:
    """Let no persona be set at this level; the one that was stays in its library. False if none was set."""
    slot = delete(PersonaAssignment).where(_slot(key, level, place_id)).returning(PersonaAssignment.persona_id)
    persona_id = await session.scalar(slot)
    if persona_id is not None:
        await session.execute(update(Persona).where(Persona.id == persona_id).values(updated_at=now))
    return persona_id is not None


async def set_persona(
    session: AsyncSession,
    *,
    key: DialogKey,
    level: StoredLevel,
    place_id: int = 0,
    name: str,
    prompt: str,
    author_id: int | None,
    limit: int = 100,
    now: datetime,
) -> PersonaText:
    """Store a text as an entry of the library, or a new version of it, and let it answer at this level.

    Without a name it is the entry that is set there now, else one that has no name and answers nowhere else.
    `limit`: the most entries of the library. Raises PersonaLibraryFull.
    """
    own = level == "member"
    await lock_library(session, key=key, own=own, now=now)  # two at once do not both make the entry
    before = None if name else await assigned_persona(session, key=key, level=level, place_id=place_id)
    entry: PersonaInfo | None
    if before is not None:
        entry = await get_persona(session, key=key, own=own, persona_id=before.persona_id)
    else:
        entry = await find_persona(session, key=key, own=own, name=name or UNNAMED)
    number = 1
    while not name and before is None and entry is not None and await _is_assigned(session, entry.persona_id):
        number += 1  # what answers elsewhere does not change by a text without a name
        entry = await find_persona(session, key=key, own=own, name=f"{UNNAMED} {number}")
    if entry is not None:
        entry = await edit_persona(
            session,
            key=key,
            own=own,
            persona_id=entry.persona_id,
            prompt=prompt,
            label=name,
            author_id=author_id,
            now=now,
        )
    if entry is None:
        entry = await create_persona(
            session,
            key=key,
            own=own,
            name=name or (UNNAMED if number == 1 else f"{UNNAMED} {number}"),
            prompt=prompt,
            author_id=author_id,
            limit=limit,
            now=now,
        )
    await assign_persona(
        session, key=key, level=level, place_id=place_id, persona_id=entry.persona_id, set_by=author_id, now=now
    )
    return PersonaText(level, shown_name(entry.name), prompt, entry.active_version, entry.persona_id)


async def _is_assigned(session: AsyncSession, persona_id: int) -> bool:
    """Whether an entry is set anywhere. The caller must have found it by its key."""
    found = select(PersonaAssignment.id).where(PersonaAssignment.persona_id == persona_id).limit(1)
    return await session.scalar(found) is not None


def _levels(key: DialogKey, scope: PersonaScope) -> ColumnElement[bool]:
    """Return the condition on the assignments that apply. In a shared dialog no member decides it for the others."""
    places = [0, *{scope.category_id, scope.channel_id, scope.thread_id} - {0}]
    of_place = and_(
        PersonaAssignment.guild_id == key.guild_id,
        PersonaAssignment.user_id.is_(None),
        PersonaAssignment.place_id.in_(places),
    )
    if key.guild_id == DIRECT_MESSAGES:
        return _member(key)
    return of_place if key.shared or not scope.own_allowed else or_(_member(key), of_place)


def _member(key: DialogKey) -> ColumnElement[bool]:
    return and_(PersonaAssignment.guild_id == key.guild_id, PersonaAssignment.user_id == key.user_id)


def _slot(key: DialogKey, level: StoredLevel, place_id: int) -> ColumnElement[bool]:
    """Return the condition that selects the key's assignment at exactly this level."""
    if level == "member":
        return _member(key)
    return and_(
        PersonaAssignment.guild_id == key.guild_id,
        PersonaAssignment.user_id.is_(None),
        PersonaAssignment.place_id == place_id,
    )


def _assigned(wanted: ColumnElement[bool], scope: PersonaScope) -> Select[*tuple[object, ...]]:
    """Select assignments with the texts in force, the narrowest level first."""
    place = PersonaAssignment.place_id
    rank = case(
        (PersonaAssignment.user_id.is_not(None), 0),
        (and_(place == scope.thread_id, place != 0), 1),
        (and_(place == scope.channel_id, place != 0), 2),
        (and_(place == scope.category_id, place != 0), 3),
        else_=4,
    )
    return (
        select(
            PersonaAssignment.level,
            PersonaAssignment.place_id,
            Persona.id,
            Persona.name,
            PersonaVersion.prompt,
            PersonaVersion.card,
            PersonaVersion.version,
        )
        .join(Persona, Persona.id == PersonaAssignment.persona_id)
        .join(
            PersonaVersion,
            and_(PersonaVersion.persona_id == Persona.id, PersonaVersion.version == Persona.active_version),
        )
        .where(wanted)
        .order_by(rank)
    )


def _text(session: AsyncSession, row: Row[*tuple[object, ...]]) -> PersonaText:
    opened = codec(session).open
    card = None if row.card is None else opened(row.card)
    return PersonaText(_level(row.level), shown_name(row.name), opened(row.prompt), row.version, row.id, card)


def _level(stored: str) -> StoredLevel:
    return next(level for level in get_args(StoredLevel) if level == stored)
