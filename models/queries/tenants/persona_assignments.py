"""Where personas answer: which one applies to a message. Changes of that are in persona_setting.py.

Precedence: the member's own (where the guild allows it, and in no shared dialog), then that of the thread, the channel,
the category and the guild. One that is restricted by age counts only in a channel that Discord restricts so; elsewhere
the next one does. In direct messages (guild 0) there is only the member's own. `PersonaScope` says where the
message was written: whose dialog it belongs to does not matter. The key selects the guild and the member.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import cache
from typing import get_args

from sqlalchemy import ColumnElement, Row, Select, and_, bindparam, case, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from models.application import ours
from models.queries.common import codec, rows_of
from models.queries.tenants.personas import in_library, shown_name
from models.tables import Persona, PersonaAssignment, PersonaVersion
from models.types import (
    DIRECT_MESSAGES,
    NO_PLACE,
    DialogKey,
    PersonaAssignmentInfo,
    PersonaLevelInfo,
    PersonaScope,
    PersonaText,
    StoredLevel,
)


async def effective_persona(
    session: AsyncSession, *, key: DialogKey, scope: PersonaScope = NO_PLACE
) -> PersonaText | None:
    """Return the persona that answers a message of this key there, or None: then the operator's default does."""
    in_guild = key.guild_id != DIRECT_MESSAGES
    # In a shared dialog no member decides it for the others.
    own = not in_guild or (scope.own_allowed and not key.shared)
    wanted = _assigned_there(own, in_guild, scope.age_restricted)
    row = (await rows_of(session, wanted, _values(key, scope))).first()
    return None if row is None else _text(session, row)


async def persona_levels(
    session: AsyncSession, *, key: DialogKey, scope: PersonaScope = NO_PLACE
) -> tuple[PersonaLevelInfo, ...]:
    """Return every level at which a persona is set for this place or member, the narrowest first.

    Those that may not answer there are among them: the member's own, and those that are restricted by age.
    """
    levels = _assigned_there(True, key.guild_id != DIRECT_MESSAGES, True)
    return tuple(
        PersonaLevelInfo(_level(row.level), row.place_id, row.id, row.name, row.version, row.age_restricted)
        for row in await rows_of(session, levels, _values(key, scope))
    )


async def assigned_persona(
    session: AsyncSession, *, key: DialogKey, level: StoredLevel, place_id: int = 0
) -> PersonaText | None:
    """Return the persona set at exactly this level, or None."""
    row = (await rows_of(session, _assigned(slot_of(key, level, place_id)), _values(key, NO_PLACE))).first()
    return None if row is None else _text(session, row)


async def assignments_of(
    session: AsyncSession, *, key: DialogKey, own: bool, persona_ids: Collection[int]
) -> dict[int, tuple[PersonaAssignmentInfo, ...]]:
    """Return where entries of the library are set, by their ids."""
    rows = await session.execute(
        select(PersonaAssignment.persona_id, PersonaAssignment.level, PersonaAssignment.place_id)
        .join(Persona, Persona.id == PersonaAssignment.persona_id)
        .where(ours(PersonaAssignment), in_library(key, own), Persona.id.in_(persona_ids))
        .order_by(PersonaAssignment.place_id)
    )
    found: dict[int, tuple[PersonaAssignmentInfo, ...]] = {persona_id: () for persona_id in persona_ids}
    for row in rows:
        found[row.persona_id] += (PersonaAssignmentInfo(_level(row.level), row.place_id),)
    return found


def _member(key: DialogKey) -> ColumnElement[bool]:
    return and_(
        ours(PersonaAssignment), PersonaAssignment.guild_id == key.guild_id, PersonaAssignment.user_id == key.user_id
    )


def slot_of(key: DialogKey, level: StoredLevel, place_id: int) -> ColumnElement[bool]:
    """Return the condition that selects the key's assignment at exactly this level."""
    if level == "member":
        return _member(key)
    return and_(
        ours(PersonaAssignment),
        PersonaAssignment.guild_id == key.guild_id,
        PersonaAssignment.user_id.is_(None),
        PersonaAssignment.place_id == place_id,
    )


@cache
def _assigned_there(own: bool, places: bool, age_restricted: bool) -> Select[*tuple[object, ...]]:
    """Select the assignments that `_values` names: of the member, of the guild and the places in it, or both.

    `age_restricted`: also those of personas that are restricted by age.
    """
    of_member = and_(
        ours(PersonaAssignment),
        PersonaAssignment.guild_id == bindparam("guild_id"),
        PersonaAssignment.user_id == bindparam("user_id"),
    )
    of_places = and_(
        ours(PersonaAssignment),
        PersonaAssignment.guild_id == bindparam("guild_id"),
        PersonaAssignment.user_id.is_(None),
        PersonaAssignment.place_id.in_([0, bindparam("thread_id"), bindparam("channel_id"), bindparam("category_id")]),
    )
    there = or_(*(each for each, wanted in ((of_member, own), (of_places, places)) if wanted))
    return _assigned(there if age_restricted else and_(there, Persona.age_restricted.is_(False)))


def _values(key: DialogKey, scope: PersonaScope) -> dict[str, object]:
    return {
        "guild_id": key.guild_id,
        "user_id": key.user_id,
        "thread_id": scope.thread_id,
        "channel_id": scope.channel_id,
        "category_id": scope.category_id,
    }


def _assigned(wanted: ColumnElement[bool]) -> Select[*tuple[object, ...]]:
    """Select assignments with the texts in force, the narrowest level of the scope in `_values` first."""
    place = PersonaAssignment.place_id
    rank = case(
        (PersonaAssignment.user_id.is_not(None), 0),
        (and_(place == bindparam("thread_id"), place != 0), 1),
        (and_(place == bindparam("channel_id"), place != 0), 2),
        (and_(place == bindparam("category_id"), place != 0), 3),
        else_=4,
    )
    return (
        select(
            PersonaAssignment.level,
            PersonaAssignment.place_id,
            Persona.id,
            Persona.name,
            Persona.age_restricted,
            PersonaVersion.prompt,
            PersonaVersion.card,
            PersonaVersion.version,
        )
        .join(Persona, Persona.id == PersonaAssignment.persona_id)
        .join(
            PersonaVersion,
            and_(PersonaVersion.persona_id == Persona.id, PersonaVersion.version == Persona.active_version),
        )
        .where(ours(Persona), wanted)
        .order_by(rank)
    )


def _text(session: AsyncSession, row: Row[*tuple[object, ...]]) -> PersonaText:
    opened = codec(session).open
    card = None if row.card is None else opened(row.card)
    return PersonaText(
        _level(row.level), shown_name(row.name), opened(row.prompt), row.version, row.id, card, row.age_restricted
    )


def _level(stored: str) -> StoredLevel:
    return next(level for level in get_args(StoredLevel) if level == stored)
