"""How much is stored about one person: rows by table, and in which guilds.

A test walks the metadata and fails for a table that is missing here. Called by bot/guilds/privacy.py.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Select, and_, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from models.application import ours
from models.queries.common import count_rows
from models.queries.privacy.own_rows import (
    OWN_DATA,
    assigned,
    deliveries_without_turn,
    in_guild,
    own_dialogs,
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
        counts["users"] = await count_rows(session, select(func.count(User.id)).where(ours(User), User.id == user_id))
    return counts


@cross_tenant(OWN_DATA)
async def person_guilds(session: AsyncSession, *, user_id: int) -> tuple[int, ...]:
    """Return the guilds in which the person has data, 0 for direct messages."""
    columns: tuple[InstrumentedAttribute[Any], ...] = (
        Dialog.user_id, Fact.user_id, MemberSettingsRow.user_id, DailyUsage.user_id, Report.author_id,
        Report.reporter_id,
    )  # fmt: skip
    guilds = [select(column.class_.guild_id).where(rows_naming(column, user_id, None)) for column in columns]
    guilds.append(select(Dialog.guild_id).join(Turn).where(ours(Dialog), Turn.author_id == user_id))
    found: set[int] = set()
    for each in guilds:
        found.update(await session.scalars(each.distinct()))
    return tuple(sorted(found))


def _row_counts(user_id: int, guild_id: int | None) -> dict[str, Select[int]]:
    """Return one counting statement per table."""
    dialogs = own_dialogs(user_id, guild_id)
    turns = own_turns(user_id, guild_id)
    personas = select(Persona.id).where(ours(Persona), in_guild(Persona.guild_id, guild_id))
    own_personas = personas.where(Persona.owner_id == user_id)
    of_turns = and_(ours(Delivery), Delivery.turn_id.in_(turns))
    deliveries = or_(of_turns, deliveries_without_turn(user_id, guild_id))

    def named_in(*columns: InstrumentedAttribute[Any]) -> ColumnElement[bool]:
        return or_(*(rows_naming(column, user_id, guild_id) for column in columns))

    conditions: dict[str, tuple[Any, ColumnElement[bool]]] = {
        "dialogs": (Dialog, named_in(Dialog.user_id)),
        "turns": (Turn, Turn.id.in_(turns)),
        "turn_files": (TurnFile, or_(TurnFile.turn_id.in_(turns), quoted(user_id, guild_id))),
        "deliveries": (Delivery, deliveries),
        "delivery_messages": (
            DeliveryMessage,
            DeliveryMessage.delivery_id.in_(select(Delivery.id).where(deliveries)),
        ),
        "reply_variants": (ReplyVariant, ReplyVariant.turn_id.in_(turns)),
        "turn_prompts": (TurnPrompt, TurnPrompt.turn_id.in_(turns)),
        "facts": (Fact, named_in(Fact.user_id)),
        "dialog_summaries": (DialogSummary, DialogSummary.dialog_id.in_(dialogs)),
        "memory_work": (MemoryWork, MemoryWork.dialog_id.in_(dialogs)),
        "personas": (Persona, named_in(Persona.owner_id)),
        "persona_pictures": (PersonaPicture, PersonaPicture.persona_id.in_(own_personas)),
        "persona_assignments": (PersonaAssignment, assigned(user_id, guild_id)),
        "persona_versions": (
            PersonaVersion,
            and_(PersonaVersion.author_id == user_id, PersonaVersion.persona_id.in_(personas)),
        ),
        "member_settings": (MemberSettingsRow, named_in(MemberSettingsRow.user_id)),
        "daily_usage": (DailyUsage, named_in(DailyUsage.user_id)),
        "bound_threads": (BoundThread, named_in(BoundThread.creator_id)),
        "reports": (
            Report,
            or_(
                named_in(Report.author_id, Report.reporter_id, Report.closed_by),
                reports_with_words(user_id, guild_id),
            ),
        ),
        "report_speakers": (ReportSpeaker, words_in_reports(user_id, guild_id)),
        "member_blocks": (
            MemberBlock,
            or_(
                named_in(MemberBlock.blocked_by),
                and_(named_in(MemberBlock.user_id), MemberBlock.reason.is_not(None)),
            ),
        ),
        "audit_log": (AuditEntry, named_in(AuditEntry.actor_id, AuditEntry.target_id)),
    }
    return {name: select(func.count()).select_from(table).where(rows) for name, (table, rows) in conditions.items()}
