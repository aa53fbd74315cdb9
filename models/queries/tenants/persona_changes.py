"""An entry of a library of personas is made, changed, given another version, deleted.

The key selects the guild, and with `own` the member whose private library it is. Two changes of an entry at once follow
each other.
"""

from __future__ import annotations

import json
from datetime import datetime

from sqlalchemy import delete, exists, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from models.application import ours
from models.errors import PersonaLibraryFull, PersonaNameTaken
from models.queries.common import attempt_number, codec, count_rows, ensure_guild, ensure_user
from models.queries.tenants.personas import find_persona, in_library, info_of, name_key
from models.tables import Guild, Persona, PersonaVersion, TurnPrompt
from models.types import DialogKey, PersonaInfo

KEPT_VERSIONS = 20  # per persona; older ones are deleted, unless a turn was answered with them


async def create_persona(
    session: AsyncSession,
    *,
    key: DialogKey,
    own: bool,
    name: str,
    prompt: str,
    card: str | None = None,
    tags: tuple[str, ...] = (),
    age_restricted: bool = False,
    author_id: int | None,
    limit: int,
    now: datetime,
) -> PersonaInfo:
    """Add an entry with its first version. Raises PersonaNameTaken, or PersonaLibraryFull at `limit` entries."""
    await lock_library(session, key=key, own=own, now=now)
    if (other := await find_persona(session, key=key, own=own, name=name)) is not None:
        if attempt_number(session) > 1 and other.created_at == now:
            return other  # our first COMMIT succeeded although its answer was lost
        raise PersonaNameTaken(name)
    if await count_rows(session, select(func.count(Persona.id)).where(in_library(key, own))) >= limit:
        raise PersonaLibraryFull(limit)
    row = Persona(
        guild_id=key.guild_id,
        owner_id=key.user_id if own else None,
        name=name,
        name_key=name_key(name),
        tags=json.dumps(tags, ensure_ascii=False),
        active_version=1,
        created_at=now,
        updated_at=now,
        age_restricted=age_restricted,
    )
    session.add(row)
    await session.flush()
    await _add_version(session, row.id, 1, name, prompt, card, author_id, now)
    return info_of(row)


async def edit_persona(
    session: AsyncSession,
    *,
    key: DialogKey,
    own: bool,
    persona_id: int,
    prompt: str,
    label: str | None = None,
    card: str | None = None,
    author_id: int | None,
    now: datetime,
) -> PersonaInfo | None:
    """Store a new version of an entry and put it in force. None if there is no such entry.

    `label`: the name that was given with it, which the list of versions shows; None for that of the entry. `card`:
    its card; None for that of the version before.
    """
    row = await _locked(session, key, own, persona_id)
    if row is None:
        return None
    latest = await session.scalar(
        select(func.max(PersonaVersion.version)).where(PersonaVersion.persona_id == persona_id)
    )
    version = (latest or 0) + 1
    if card is None:
        before = await session.get(PersonaVersion, (persona_id, row.active_version))
        card = None if before is None or before.card is None else codec(session).open(before.card)
    await _add_version(session, persona_id, version, row.name if label is None else label, prompt, card, author_id, now)
    row.active_version, row.updated_at = version, now
    await session.flush()
    in_a_turn = exists().where(
        TurnPrompt.persona_id == persona_id, TurnPrompt.persona_version == PersonaVersion.version
    )
    await session.execute(
        delete(PersonaVersion)
        .where(PersonaVersion.persona_id == persona_id, PersonaVersion.version <= version - KEPT_VERSIONS, ~in_a_turn)
        .execution_options(synchronize_session=False)
    )
    return info_of(row)


async def rename_persona(
    session: AsyncSession, *, key: DialogKey, own: bool, persona_id: int, name: str, now: datetime
) -> PersonaInfo | None:
    """Give an entry another name. None if there is no such entry. Raises PersonaNameTaken."""
    await lock_library(session, key=key, own=own, now=now)
    row = await _locked(session, key, own, persona_id)
    if row is None:
        return None
    other = await find_persona(session, key=key, own=own, name=name)
    if other is not None and other.persona_id != persona_id:
        raise PersonaNameTaken(name)
    row.name, row.name_key, row.updated_at = name, name_key(name), now
    await session.flush()
    return info_of(row)


async def tag_persona(
    session: AsyncSession, *, key: DialogKey, own: bool, persona_id: int, tags: tuple[str, ...], now: datetime
) -> PersonaInfo | None:
    """Give an entry these tags instead of those it has. None if there is no such entry."""
    row = await _locked(session, key, own, persona_id)
    if row is None:
        return None
    row.tags, row.updated_at = json.dumps(tags, ensure_ascii=False), now
    await session.flush()
    return info_of(row)


async def rate_persona(
    session: AsyncSession, *, key: DialogKey, own: bool, persona_id: int, age_restricted: bool, now: datetime
) -> PersonaInfo | None:
    """Let an entry answer only in channels that Discord restricts by age, or everywhere. None if there is none."""
    row = await _locked(session, key, own, persona_id)
    if row is None:
        return None
    row.age_restricted, row.updated_at = age_restricted, now
    await session.flush()
    return info_of(row)


async def delete_persona(session: AsyncSession, *, key: DialogKey, own: bool, persona_id: int) -> bool:
    """Delete an entry with its versions and wherever it is set. False if there is no such entry."""
    gone = delete(Persona).where(in_library(key, own), Persona.id == persona_id).returning(Persona.id)
    return await session.scalar(gone) is not None


async def rollback_persona(
    session: AsyncSession, *, key: DialogKey, own: bool, persona_id: int, version: int, now: datetime
) -> PersonaInfo | None:
    """Put a stored version of an entry in force again. None if that version is not stored."""
    row = await _locked(session, key, own, persona_id)
    if row is None or await session.get(PersonaVersion, (persona_id, version)) is None:
        return None
    row.active_version, row.updated_at = version, now
    await session.flush()
    return info_of(row)


async def lock_library(session: AsyncSession, *, key: DialogKey, own: bool, now: datetime) -> None:
    """Let no other transaction add or rename an entry of this guild's libraries until this one ends."""
    await ensure_guild(session, key.guild_id, now)
    if own:
        await ensure_user(session, key.user_id, now)
    # FOR NO KEY UPDATE: plain FOR UPDATE would also block the foreign keys of every new dialog of the guild.
    await session.scalar(select(Guild.id).where(ours(Guild), Guild.id == key.guild_id).with_for_update(key_share=True))


async def _locked(session: AsyncSession, key: DialogKey, own: bool, persona_id: int) -> Persona | None:
    """Return the entry, its row locked until the commit: two changes at once get different version numbers."""
    row: Persona | None = await session.scalar(
        select(Persona)
        .where(in_library(key, own), Persona.id == persona_id)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    return row


async def _add_version(
    session: AsyncSession,
    persona_id: int,
    version: int,
    name: str,
    prompt: str,
    card: str | None,
    author_id: int | None,
    now: datetime,
) -> None:
    if author_id is not None:
        await ensure_user(session, author_id, now)
    seal = codec(session).seal
    session.add(
        PersonaVersion(
            persona_id=persona_id,
            version=version,
            name=name,
            prompt=seal(prompt),
            card=None if card is None else seal(card),
            author_id=author_id,
            created_at=now,
        )
    )
    await session.flush()
