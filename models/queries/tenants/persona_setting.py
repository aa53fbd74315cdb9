"""A persona is set for a guild, a place or a member, or taken away. Which one applies is in persona_assignments.py.

The key selects the guild and the member. A persona of another library is never set.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import delete, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from models.application import ours
from models.queries.common import ensure_guild, ensure_user, insert
from models.queries.tenants.persona_assignments import assigned_persona, slot_of
from models.queries.tenants.persona_changes import create_persona, edit_persona, lock_library
from models.queries.tenants.personas import UNNAMED, find_persona, get_persona, shown_name
from models.tables import Persona, PersonaAssignment
from models.types import DialogKey, PersonaInfo, PersonaText, StoredLevel


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
            index_elements=[*identity, "application_id"],
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
    slot = delete(PersonaAssignment).where(slot_of(key, level, place_id)).returning(PersonaAssignment.persona_id)
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
    found = (
        select(PersonaAssignment.id).where(ours(PersonaAssignment), PersonaAssignment.persona_id == persona_id).limit(1)
    )
    return await session.scalar(found) is not None
