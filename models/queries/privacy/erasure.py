"""Deletes what is stored about one person, in all guilds or in one: their turns in batches, then the rest.

What they wrote for a guild stays, without its author. Called by bot/guilds/privacy.py, which counts first. Leaves an
opt-out alone: see `opt_outs`. A block stays as well, without its reason: else a blocked member could end it so.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, and_, delete, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from models.application import ours
from models.queries.memory.summaries import forget_memory_of_turns
from models.queries.privacy.own_rows import (
    OWN_DATA,
    deliveries_without_turn,
    in_guild,
    own_turns,
    quoted,
    reports_with_words,
    rows_naming,
    words_in_reports,
)
from models.queries.scope import cross_tenant
from models.tables import (
    AuditEntry,
    BoundThread,
    DailyUsage,
    Delivery,
    Dialog,
    Fact,
    MemberBlock,
    MemberSettingsRow,
    Persona,
    PersonaAssignment,
    PersonaVersion,
    Report,
    ReportSpeaker,
    Turn,
    TurnFile,
    User,
)


@cross_tenant(OWN_DATA)
async def delete_person_turns(session: AsyncSession, *, user_id: int, guild_id: int | None, limit: int) -> int:
    """Delete a batch of the person's turns and return its size. Pending ones too: a late reply is then not stored."""
    batch = own_turns(user_id, guild_id).limit(limit)
    gone = delete(Turn).where(Turn.id.in_(batch)).returning(Turn.dialog_id, Turn.id)
    rows = await session.execute(gone.execution_options(synchronize_session=False))
    deleted = [(row.dialog_id, row.id) for row in rows]
    await forget_memory_of_turns(session, deleted)  # summaries of shared dialogs tell what they wrote
    return len(deleted)


@cross_tenant(OWN_DATA)
async def delete_person_rest(session: AsyncSession, *, user_id: int, guild_id: int | None) -> None:
    """Delete the rest, after the turns. Guild personas they wrote stay, without their author; an opt-out stays."""
    guild_personas = select(Persona.id).where(ours(Persona), in_guild(Persona.guild_id, guild_id))
    authored = and_(PersonaVersion.author_id == user_id, PersonaVersion.persona_id.in_(guild_personas))

    def named_in(column: InstrumentedAttribute[Any]) -> ColumnElement[bool]:
        return rows_naming(column, user_id, guild_id)

    for statement in (
        delete(Dialog).where(named_in(Dialog.user_id)),
        delete(Delivery).where(deliveries_without_turn(user_id, guild_id)),
        delete(TurnFile).where(quoted(user_id, guild_id)),
        delete(Persona).where(named_in(Persona.owner_id)),
        delete(PersonaAssignment).where(named_in(PersonaAssignment.user_id)),
        update(PersonaAssignment).where(named_in(PersonaAssignment.set_by)).values(set_by=None),
        update(PersonaVersion).where(authored).values(author_id=None),
        delete(Fact).where(named_in(Fact.user_id)),
        delete(Report).where(named_in(Report.author_id)),
        update(Report).where(reports_with_words(user_id, guild_id)).values(prompt=None),
        delete(ReportSpeaker).where(words_in_reports(user_id, guild_id)),
        update(Report).where(named_in(Report.reporter_id)).values(reporter_id=None, reason=None),
        update(Report).where(named_in(Report.closed_by)).values(closed_by=None),
        update(MemberBlock).where(named_in(MemberBlock.user_id)).values(reason=None),
        update(MemberBlock).where(named_in(MemberBlock.blocked_by)).values(blocked_by=None),
        delete(MemberSettingsRow).where(named_in(MemberSettingsRow.user_id)),
        delete(DailyUsage).where(named_in(DailyUsage.user_id)),
        update(BoundThread).where(named_in(BoundThread.creator_id)).values(creator_id=None),
        update(AuditEntry).where(named_in(AuditEntry.actor_id)).values(actor_id=None),
        update(AuditEntry).where(named_in(AuditEntry.target_id)).values(target_id=None),
    ):
        await session.execute(statement.execution_options(synchronize_session=False))
    if guild_id is None:
        await session.execute(
            delete(User).where(ours(User), User.id == user_id).execution_options(synchronize_session=False)
        )
