"""What is stored about one person, as rows for their export, with its texts opened. Changes nothing.

Their dialogs come from `models.queries.inspection`; here is all the rest. Called by bot/guilds/privacy.py.
"""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from models.application import ours
from models.queries.common import codec
from models.queries.privacy.own_rows import (
    OWN_DATA,
    assigned,
    in_guild,
    own_dialogs,
    own_turns,
    quoted,
    rows_naming,
)
from models.queries.scope import cross_tenant
from models.tables import (
    AuditEntry,
    BoundThread,
    DailyUsage,
    Dialog,
    DialogSummary,
    Fact,
    MemberBlock,
    MemberSettingsRow,
    Persona,
    PersonaAssignment,
    PersonaPicture,
    PersonaVersion,
    ReplyVariant,
    Report,
    Turn,
    TurnFile,
)


@cross_tenant(OWN_DATA)
async def person_personas(
    session: AsyncSession, *, user_id: int, guild_id: int | None = None
) -> tuple[dict[str, object], ...]:
    """Return the versions of the person's own personas and those they wrote for a guild.

    Of a guild's personas, which are its own, only the text that this person wrote.
    """
    rows = await session.execute(
        select(PersonaVersion, Persona)
        .join(Persona, Persona.id == PersonaVersion.persona_id)
        .where(or_(Persona.owner_id == user_id, PersonaVersion.author_id == user_id))
        .where(ours(Persona), in_guild(Persona.guild_id, guild_id))
        .order_by(Persona.id, PersonaVersion.version)
    )
    text = codec(session)
    return tuple(
        {
            "guild_id": persona.guild_id,
            "persona_id": persona.id,
            "own": persona.owner_id is not None,
            "name": persona.name,
            "tags": json.loads(persona.tags),
            "version": version.version,
            "in_force": persona.active_version == version.version,
            "prompt": text.open(version.prompt),
            "card": None if version.card is None else text.open(version.card),
            "written_by_you": version.author_id == user_id,
            "created_at": version.created_at,
        }
        for version, persona in rows
    )


@cross_tenant(OWN_DATA)
async def person_pictures(
    session: AsyncSession, *, user_id: int, guild_id: int | None = None
) -> tuple[dict[str, object], ...]:
    """Return the pictures of the person's own personas, in base64."""
    rows = await session.scalars(
        select(PersonaPicture)
        .join(Persona, Persona.id == PersonaPicture.persona_id)
        .where(rows_naming(Persona.owner_id, user_id, guild_id))
        .order_by(PersonaPicture.persona_id)
    )
    text = codec(session)
    return tuple(
        {
            "persona_id": row.persona_id,
            "media_type": row.media_type,
            "content": text.open(row.content),
            "created_at": row.created_at,
        }
        for row in rows
    )


@cross_tenant(OWN_DATA)
async def person_settings(
    session: AsyncSession, *, user_id: int, guild_id: int | None = None
) -> dict[str, tuple[dict[str, object], ...]]:
    """Return the person's settings, usage, audit entries, bound threads and choices of personas, as rows by table."""
    audit = or_(AuditEntry.actor_id == user_id, AuditEntry.target_id == user_id)
    statements: dict[str, Any] = {
        "member_settings": select(MemberSettingsRow.__table__).where(
            rows_naming(MemberSettingsRow.user_id, user_id, guild_id)
        ),
        "daily_usage": select(DailyUsage.__table__).where(rows_naming(DailyUsage.user_id, user_id, guild_id)),
        "audit_log": select(
            AuditEntry.guild_id, AuditEntry.actor_id, AuditEntry.target_id, AuditEntry.action, AuditEntry.created_at
        ).where(ours(AuditEntry), audit, in_guild(AuditEntry.guild_id, guild_id)),
        "bound_threads": select(
            BoundThread.guild_id, BoundThread.parent_id, BoundThread.thread_id, BoundThread.created_at
        ).where(rows_naming(BoundThread.creator_id, user_id, guild_id)),
        "persona_assignments": select(
            PersonaAssignment.guild_id,
            PersonaAssignment.level,
            PersonaAssignment.place_id,
            PersonaAssignment.persona_id,
            PersonaAssignment.set_at,
        ).where(assigned(user_id, guild_id)),
    }
    return {
        name: tuple(dict(row) for row in (await session.execute(statement)).mappings())
        for name, statement in statements.items()
    }


@cross_tenant(OWN_DATA)
async def person_variants(
    session: AsyncSession, *, user_id: int, guild_id: int | None = None
) -> dict[int, tuple[str, ...]]:
    """Return the person's inactive replies by turn id; the active one is in the turn itself."""
    rows = await session.execute(
        select(ReplyVariant.turn_id, ReplyVariant.reply)
        .join(Turn, Turn.id == ReplyVariant.turn_id)
        .where(Turn.id.in_(own_turns(user_id, guild_id)), ~ReplyVariant.active)
        .order_by(ReplyVariant.turn_id, ReplyVariant.position)
    )
    replies: dict[int, tuple[str, ...]] = {}
    for turn_id, reply in rows:
        replies[turn_id] = (*replies.get(turn_id, ()), codec(session).open(reply))
    return replies


@cross_tenant(OWN_DATA)
async def person_memory(
    session: AsyncSession, *, user_id: int, guild_id: int | None = None
) -> dict[str, tuple[dict[str, object], ...]]:
    """Return the facts about the person and the summaries of their own dialogs."""
    text = codec(session)
    facts = await session.scalars(select(Fact).where(rows_naming(Fact.user_id, user_id, guild_id)).order_by(Fact.id))
    summaries = await session.scalars(
        select(DialogSummary)
        .where(DialogSummary.dialog_id.in_(own_dialogs(user_id, guild_id)))
        .order_by(DialogSummary.id)
    )
    return {
        "facts": tuple(
            {
                "guild_id": fact.guild_id,
                "fact_id": fact.id,
                "text": text.open(fact.text),
                "said_at": fact.source_at,
                "turn_id": fact.source_turn_id,
                "last_used_at": fact.last_used_at,
                "edited_by_you": fact.edited,
                "private": fact.private,
            }
            for fact in facts
        ),
        "summaries": tuple(
            {
                "summary_id": summary.id,
                "dialog_id": summary.dialog_id,
                "first_turn_id": summary.from_turn_id,
                "last_turn_id": summary.to_turn_id,
                "text": text.open(summary.text),
                "created_at": summary.created_at,
            }
            for summary in summaries
        ),
    }


@cross_tenant(OWN_DATA)
async def person_quotes(
    session: AsyncSession, *, user_id: int, guild_id: int | None = None
) -> tuple[dict[str, object], ...]:
    """Return what the person wrote and others asked about; not by whom, since that is theirs."""
    rows = await session.execute(
        select(TurnFile, Turn.created_at, Dialog.guild_id)
        .join(Turn, Turn.id == TurnFile.turn_id)
        .join(Dialog, Dialog.id == Turn.dialog_id)
        .where(ours(Dialog), quoted(user_id, guild_id))
        .order_by(TurnFile.turn_id, TurnFile.position)
    )
    text = codec(session)
    return tuple(
        {
            "guild_id": row.guild_id,
            "kind": row.TurnFile.kind,
            "name": text.open(row.TurnFile.name),
            "content": text.open(row.TurnFile.content),
            "quoted_at": row.created_at,
        }
        for row in rows
    )


@cross_tenant(OWN_DATA)
async def person_moderation(
    session: AsyncSession, *, user_id: int, guild_id: int | None = None
) -> dict[str, tuple[dict[str, object], ...]]:
    """Return the person's blocks, the reports they made, and the copies of their words in reports.

    Not by whom: that is the admins' and the reporter's.
    """
    text = codec(session)
    blocks = await session.scalars(
        select(MemberBlock).where(rows_naming(MemberBlock.user_id, user_id, guild_id)).order_by(MemberBlock.guild_id)
    )
    reports = select(Report).order_by(Report.id)
    made = await session.scalars(reports.where(rows_naming(Report.reporter_id, user_id, guild_id)))
    about = await session.scalars(reports.where(rows_naming(Report.author_id, user_id, guild_id)))
    return {
        "blocks": tuple(
            {
                "guild_id": each.guild_id,
                "blocked_at": each.blocked_at,
                "until": each.until,
                "reason": None if each.reason is None else text.open(each.reason),
            }
            for each in blocks
        ),
        "reports_made": tuple(
            {
                "guild_id": each.guild_id,
                "created_at": each.created_at,
                "reason": None if each.reason is None else text.open(each.reason),
            }
            for each in made
        ),
        "reported_answers": tuple(
            {
                "guild_id": each.guild_id,
                "created_at": each.created_at,
                **json.loads(text.open(each.pair)),
            }
            for each in about
        ),
    }
