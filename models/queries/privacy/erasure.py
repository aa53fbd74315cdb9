"""Deletes what is stored about one person, in all guilds or in one: their turns in batches, then the rest.

What they wrote for a guild stays, without its author. Called by bot/guilds/privacy.py, which counts first. Leaves an
opt-out alone: see `opt_outs`.
"""

from __future__ import annotations

from sqlalchemy import and_, delete, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from models.application import ours
from models.queries.memory.summaries import forget_memory_of_turns
from models.queries.privacy.own_rows import (
    OWN_DATA,
    deliveries_without_turn,
    facts_about,
    in_guild,
    own_dialogs,
    own_turns,
    quoted,
)
from models.queries.scope import cross_tenant
from models.tables import (
    AuditEntry,
    BoundThread,
    DailyUsage,
    Delivery,
    Dialog,
    Fact,
    MemberSettingsRow,
    Persona,
    PersonaAssignment,
    PersonaVersion,
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
    authored = PersonaVersion.persona_id.in_(
        select(Persona.id).where(ours(Persona), in_guild(Persona.guild_id, guild_id))
    )
    chosen = and_(ours(PersonaAssignment), in_guild(PersonaAssignment.guild_id, guild_id))
    audit = and_(ours(AuditEntry), in_guild(AuditEntry.guild_id, guild_id))
    for statement in (
        delete(Dialog).where(ours(Dialog), Dialog.id.in_(own_dialogs(user_id, guild_id))),
        delete(Delivery).where(deliveries_without_turn(user_id, guild_id)),
        delete(TurnFile).where(quoted(user_id, guild_id)),
        delete(Persona).where(ours(Persona), Persona.owner_id == user_id, in_guild(Persona.guild_id, guild_id)),
        delete(PersonaAssignment).where(PersonaAssignment.user_id == user_id, chosen),
        update(PersonaAssignment).where(PersonaAssignment.set_by == user_id, chosen).values(set_by=None),
        update(PersonaVersion).where(PersonaVersion.author_id == user_id, authored).values(author_id=None),
        delete(Fact).where(facts_about(user_id, guild_id)),
        delete(MemberSettingsRow).where(
            ours(MemberSettingsRow),
            MemberSettingsRow.user_id == user_id,
            in_guild(MemberSettingsRow.guild_id, guild_id),
        ),
        delete(DailyUsage).where(
            ours(DailyUsage), DailyUsage.user_id == user_id, in_guild(DailyUsage.guild_id, guild_id)
        ),
        update(BoundThread)
        .where(ours(BoundThread), BoundThread.creator_id == user_id, in_guild(BoundThread.guild_id, guild_id))
        .values(creator_id=None),
        update(AuditEntry).where(AuditEntry.actor_id == user_id, audit).values(actor_id=None),
        update(AuditEntry).where(AuditEntry.target_id == user_id, audit).values(target_id=None),
    ):
        await session.execute(statement.execution_options(synchronize_session=False))
    if guild_id is None:
        await session.execute(
            delete(User).where(ours(User), User.id == user_id).execution_options(synchronize_session=False)
        )
