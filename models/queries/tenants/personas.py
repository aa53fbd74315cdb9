"""The library of personas: a guild's own, and each member's private one in it. Made, changed, found, listed, deleted.

The key selects the guild, and with `own` the member whose private library it is. An id or a name of another guild's or
another member's persona matches nothing. Where a persona answers is in persona_assignments.py.
"""

from __future__ import annotations

import json
import unicodedata
from datetime import datetime

from sqlalchemy import ColumnElement, ScalarSelect, and_, delete, exists, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from models.errors import PersonaLibraryFull, PersonaNameTaken
from models.queries.common import attempt_number, codec, count_rows, ensure_guild, ensure_user
from models.tables import Guild, Persona, PersonaVersion, TurnPrompt
from models.types import DialogKey, PersonaInfo, PersonaVersionInfo

KEPT_VERSIONS = 20  # per persona; older ones are deleted, unless a turn was answered with them
UNNAMED = "Persona"  # the name of an entry that was stored without one


def name_key(name: str) -> str:
    """A name without the differences that do not matter, or cannot be seen: no library has two names of one key."""
    visible = "".join(each for each in unicodedata.normalize("NFKC", name) if unicodedata.category(each) != "Cf")
    return " ".join(unicodedata.normalize("NFKC", visible.casefold()).split())


def shown_name(name: str) -> str:
    """The name of an entry or version as it is shown; "" for one that was stored without a name."""
    return "" if name == UNNAMED else name


async def personas_of(
    session: AsyncSession,
    *,
    key: DialogKey,
    own: bool,
    tag: str = "",
    after: int | None = None,
    before: int | None = None,
    limit: int,
) -> tuple[PersonaInfo, ...]:
    """Return the first entries of a library by name; those with a tag, if it is given.

    `after`, `before`: the id of an entry, for those next to it on that side.
    """
    found = select(Persona).where(in_library(key, own))
    if after is not None:
        found = found.where(Persona.name_key > _key_of(key, own, after))
    if before is not None:
        found = found.where(Persona.name_key < _key_of(key, own, before))
    found = found.order_by(Persona.name_key if before is None else Persona.name_key.desc())
    if tag:  # a library is bounded
        rows = [each for each in map(_info, await session.scalars(found)) if name_key(tag) in map(name_key, each.tags)]
    else:
        rows = [_info(row) for row in await session.scalars(found.limit(limit))]
    return tuple(rows[:limit] if before is None else reversed(rows[:limit]))


async def find_persona(session: AsyncSession, *, key: DialogKey, own: bool, name: str) -> PersonaInfo | None:
    """Return the entry of this name, or None."""
    row = await session.scalar(select(Persona).where(in_library(key, own), Persona.name_key == name_key(name)))
    return None if row is None else _info(row)


async def get_persona(session: AsyncSession, *, key: DialogKey, own: bool, persona_id: int) -> PersonaInfo | None:
    """Return the entry of this id, or None."""
    row = await session.scalar(select(Persona).where(in_library(key, own), Persona.id == persona_id))
    return None if row is None else _info(row)


async def latest_persona(session: AsyncSession, *, key: DialogKey, own: bool) -> PersonaInfo | None:
    """Return the entry that last changed, or was last set or cleared somewhere; None if the library is empty."""
    newest = select(Persona).where(in_library(key, own)).order_by(Persona.updated_at.desc(), Persona.id.desc())
    row = await session.scalar(newest.limit(1))
    return None if row is None else _info(row)


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
    return _info(row)


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
    return _info(row)


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
    return _info(row)


async def tag_persona(
    session: AsyncSession, *, key: DialogKey, own: bool, persona_id: int, tags: tuple[str, ...], now: datetime
) -> PersonaInfo | None:
    """Give an entry these tags instead of those it has. None if there is no such entry."""
    row = await _locked(session, key, own, persona_id)
    if row is None:
        return None
    row.tags, row.updated_at = json.dumps(tags, ensure_ascii=False), now
    await session.flush()
    return _info(row)


async def rate_persona(
    session: AsyncSession, *, key: DialogKey, own: bool, persona_id: int, age_restricted: bool, now: datetime
) -> PersonaInfo | None:
    """Let an entry answer only in channels that Discord restricts by age, or everywhere. None if there is none."""
    row = await _locked(session, key, own, persona_id)
    if row is None:
        return None
    row.age_restricted, row.updated_at = age_restricted, now
    await session.flush()
    return _info(row)


async def delete_persona(session: AsyncSession, *, key: DialogKey, own: bool, persona_id: int) -> bool:
    """Delete an entry with its versions and wherever it is set. False if there is no such entry."""
    gone = delete(Persona).where(in_library(key, own), Persona.id == persona_id).returning(Persona.id)
    return await session.scalar(gone) is not None


async def persona_versions(
    session: AsyncSession, *, key: DialogKey, own: bool, persona_id: int
) -> tuple[PersonaVersionInfo, ...]:
    """Return the stored versions of an entry, newest first."""
    rows = await session.execute(
        select(PersonaVersion, Persona.active_version)
        .join(Persona, Persona.id == PersonaVersion.persona_id)
        .where(in_library(key, own), Persona.id == persona_id)
        .order_by(PersonaVersion.version.desc())
    )
    text = codec(session)
    return tuple(
        PersonaVersionInfo(
            version.version,
            shown_name(version.name),
            text.open(version.prompt),
            version.author_id,
            version.created_at,
            version.version == active,
            None if version.card is None else text.open(version.card),
        )
        for version, active in rows
    )


async def rollback_persona(
    session: AsyncSession, *, key: DialogKey, own: bool, persona_id: int, version: int, now: datetime
) -> PersonaInfo | None:
    """Put a stored version of an entry in force again. None if that version is not stored."""
    row = await _locked(session, key, own, persona_id)
    if row is None or await session.get(PersonaVersion, (persona_id, version)) is None:
        return None
    row.active_version, row.updated_at = version, now
    await session.flush()
    return _info(row)


def _key_of(key: DialogKey, own: bool, persona_id: int) -> ScalarSelect[str]:
    """The key of an entry of this library: compared with a foreign one, the entries on a page would tell its name."""
    return select(Persona.name_key).where(in_library(key, own), Persona.id == persona_id).scalar_subquery()


def in_library(key: DialogKey, own: bool) -> ColumnElement[bool]:
    """Return the condition that a Persona belongs to the key's guild, or with `own` to its member there."""
    return and_(
        Persona.guild_id == key.guild_id, Persona.owner_id == key.user_id if own else Persona.owner_id.is_(None)
    )


async def lock_library(session: AsyncSession, *, key: DialogKey, own: bool, now: datetime) -> None:
    """Let no other transaction add or rename an entry of this guild's libraries until this one ends."""
    await ensure_guild(session, key.guild_id, now)
    if own:
        await ensure_user(session, key.user_id, now)
    # FOR NO KEY UPDATE: plain FOR UPDATE would also block the foreign keys of every new dialog of the guild.
    await session.scalar(select(Guild.id).where(Guild.id == key.guild_id).with_for_update(key_share=True))


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


def _info(row: Persona) -> PersonaInfo:
    tags = tuple(str(tag) for tag in json.loads(row.tags))
    own = row.owner_id is not None
    return PersonaInfo(row.id, row.name, tags, row.active_version, own, row.created_at, row.age_restricted)
