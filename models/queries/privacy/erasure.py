"""Deletes what is stored about one person, in all guilds or in one: their turns in batches, then the rest.

What they wrote for a guild stays, without its author. Called by bot/guilds/privacy.py, which counts first. Leaves an
opt-out alone: see `opt_outs`. A block stays as well, without its reason: else a blocked member could end it so.
"""

from __future__ import annotations

from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from models.queries.memory.summaries import forget_memory_of_turns
from models.queries.privacy.own_rows import (
    OWN_DATA,
    deliveries_without_turn,
    facts_about,
    in_guild,
    own_dialogs,
    own_turns,
    quoted,
    reports_made,
    reports_of_words,
    reports_with_words,
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
    authored = PersonaVersion.persona_id.in_(select(Persona.id).where(in_guild(Persona.guild_id, guild_id)))
    chosen = in_guild(PersonaAssignment.guild_id, guild_id)
    audit = in_guild(AuditEntry.guild_id, guild_id)
    for statement in (
        delete(Dialog).where(Dialog.id.in_(own_dialogs(user_id, guild_id))),
        delete(Delivery).where(deliveries_without_turn(user_id, guild_id)),
        delete(TurnFile).where(quoted(user_id, guild_id)),
        delete(Persona).where(Persona.owner_id == user_id, in_guild(Persona.guild_id, guild_id)),
        delete(PersonaAssignment).where(PersonaAssignment.user_id == user_id, chosen),
        update(PersonaAssignment).where(PersonaAssignment.set_by == user_id, chosen).values(set_by=None),
        update(PersonaVersion).where(PersonaVersion.author_id == user_id, authored).values(author_id=None),
        delete(Fact).where(facts_about(user_id, guild_id)),
        delete(Report).where(reports_of_words(user_id, guild_id)),
        update(Report).where(reports_with_words(user_id, guild_id)).values(prompt=None),
        delete(ReportSpeaker).where(
            ReportSpeaker.user_id == user_id,
            ReportSpeaker.report_id.in_(select(Report.id).where(in_guild(Report.guild_id, guild_id))),
        ),
        update(Report).where(reports_made(user_id, guild_id)).values(reporter_id=None, reason=None),
        update(Report).where(Report.closed_by == user_id, in_guild(Report.guild_id, guild_id)).values(closed_by=None),
        update(MemberBlock)
        .where(MemberBlock.user_id == user_id, in_guild(MemberBlock.guild_id, guild_id))
        .values(reason=None),
        update(MemberBlock)
        .where(MemberBlock.blocked_by == user_id, in_guild(MemberBlock.guild_id, guild_id))
        .values(blocked_by=None),
        delete(MemberSettingsRow).where(
            MemberSettingsRow.user_id == user_id, in_guild(MemberSettingsRow.guild_id, guild_id)
        ),
        delete(DailyUsage).where(DailyUsage.user_id == user_id, in_guild(DailyUsage.guild_id, guild_id)),
        update(BoundThread)
        .where(BoundThread.creator_id == user_id, in_guild(BoundThread.guild_id, guild_id))
        .values(creator_id=None),
        update(AuditEntry).where(AuditEntry.actor_id == user_id, audit).values(actor_id=None),
        update(AuditEntry).where(AuditEntry.target_id == user_id, audit).values(target_id=None),
    ):
        await session.execute(statement.execution_options(synchronize_session=False))
    if guild_id is None:
        await session.execute(delete(User).where(User.id == user_id).execution_options(synchronize_session=False))
