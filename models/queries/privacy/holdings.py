"""How much is stored about one person: rows by table, and in which guilds.

A test walks the metadata and fails for a table that is missing here. Called by bot/guilds/privacy.py.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Select, and_, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from models.queries.common import count_rows
from models.queries.privacy.own_rows import (
    OWN_DATA,
    assigned,
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
    DeliveryMessage,
    Dialog,
    DialogSummary,
    Fact,
    MemberBlock,
    MemberSettingsRow,
    MemoryWork,
    Persona,
    PersonaAssignment,
    PersonaPicture,
    PersonaVersion,
    ReplyVariant,
    Report,
    ReportSpeaker,
    Turn,
    TurnFile,
    TurnPrompt,
    User,
)


@cross_tenant(OWN_DATA)
async def person_counts(session: AsyncSession, *, user_id: int, guild_id: int | None = None) -> dict[str, int]:
    """Count the person's rows by table; without a guild, the person's own row in `users` too."""
    counts = {name: await count_rows(session, rows) for name, rows in _row_counts(user_id, guild_id).items()}
    if guild_id is None:
        counts["users"] = await count_rows(session, select(func.count(User.id)).where(User.id == user_id))
    return counts


@cross_tenant(OWN_DATA)
async def person_guilds(session: AsyncSession, *, user_id: int) -> tuple[int, ...]:
    """Return the guilds in which the person has data, 0 for direct messages."""
    found: set[int] = set()
    for guilds in (
        select(Dialog.guild_id).where(Dialog.user_id == user_id),
        select(Dialog.guild_id).join(Turn, Turn.dialog_id == Dialog.id).where(Turn.author_id == user_id),
        select(Fact.guild_id).where(facts_about(user_id, None)),
        select(MemberSettingsRow.guild_id).where(MemberSettingsRow.user_id == user_id),
        select(DailyUsage.guild_id).where(DailyUsage.user_id == user_id),
        select(Report.guild_id).where(or_(Report.author_id == user_id, Report.reporter_id == user_id)),
    ):
        found.update(await session.scalars(guilds.distinct()))
    return tuple(sorted(found))


def _row_counts(user_id: int, guild_id: int | None) -> dict[str, Select[int]]:
    """Return one counting statement per table."""
    dialogs = own_dialogs(user_id, guild_id)
    turns = own_turns(user_id, guild_id)
    audit = or_(AuditEntry.actor_id == user_id, AuditEntry.target_id == user_id)
    personas = select(Persona.id).where(in_guild(Persona.guild_id, guild_id))
    own_personas = personas.where(Persona.owner_id == user_id)
    deliveries = or_(Delivery.turn_id.in_(turns), deliveries_without_turn(user_id, guild_id))
    conditions: dict[str, tuple[Any, ColumnElement[bool]]] = {
        "dialogs": (Dialog, Dialog.id.in_(dialogs)),
        "turns": (Turn, Turn.id.in_(turns)),
        "turn_files": (TurnFile, or_(TurnFile.turn_id.in_(turns), quoted(user_id, guild_id))),
        "deliveries": (Delivery, deliveries),
        "delivery_messages": (
            DeliveryMessage,
            DeliveryMessage.delivery_id.in_(select(Delivery.id).where(deliveries)),
        ),
        "reply_variants": (ReplyVariant, ReplyVariant.turn_id.in_(turns)),
        "turn_prompts": (TurnPrompt, TurnPrompt.turn_id.in_(turns)),
        "facts": (Fact, facts_about(user_id, guild_id)),
        "dialog_summaries": (DialogSummary, DialogSummary.dialog_id.in_(dialogs)),
        "memory_work": (MemoryWork, MemoryWork.dialog_id.in_(dialogs)),
        "personas": (Persona, Persona.id.in_(own_personas)),
        "persona_pictures": (PersonaPicture, PersonaPicture.persona_id.in_(own_personas)),
        "persona_assignments": (PersonaAssignment, assigned(user_id, guild_id)),
        "persona_versions": (
            PersonaVersion,
            and_(PersonaVersion.author_id == user_id, PersonaVersion.persona_id.in_(personas)),
        ),
        "member_settings": (
            MemberSettingsRow,
            and_(MemberSettingsRow.user_id == user_id, in_guild(MemberSettingsRow.guild_id, guild_id)),
        ),
        "daily_usage": (
            DailyUsage,
            and_(DailyUsage.user_id == user_id, in_guild(DailyUsage.guild_id, guild_id)),
        ),
        "bound_threads": (
            BoundThread,
            and_(BoundThread.creator_id == user_id, in_guild(BoundThread.guild_id, guild_id)),
        ),
        "reports": (
            Report,
            or_(
                reports_of_words(user_id, guild_id),
                reports_made(user_id, guild_id),
                reports_with_words(user_id, guild_id),
                and_(Report.closed_by == user_id, in_guild(Report.guild_id, guild_id)),
            ),
        ),
        "report_speakers": (
            ReportSpeaker,
            and_(
                ReportSpeaker.user_id == user_id,
                ReportSpeaker.report_id.in_(select(Report.id).where(in_guild(Report.guild_id, guild_id))),
            ),
        ),
        "member_blocks": (
            MemberBlock,
            and_(
                or_(
                    MemberBlock.blocked_by == user_id,
                    and_(MemberBlock.user_id == user_id, MemberBlock.reason.is_not(None)),
                ),
                in_guild(MemberBlock.guild_id, guild_id),
            ),
        ),
        "audit_log": (AuditEntry, and_(audit, in_guild(AuditEntry.guild_id, guild_id))),
    }
    return {name: select(func.count()).select_from(table).where(rows) for name, (table, rows) in conditions.items()}
