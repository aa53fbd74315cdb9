"""One person's data, in all guilds or in one: counted, exported, deleted. Called by bot/guilds/privacy.py.

A person's rows are those with a foreign key to `users`, and the turns and replies of their dialogs. A test walks the
metadata and fails for a table that is missing here. `guild_id=None` means all guilds.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, delete, func, or_, select, true, update
from sqlalchemy.ext.asyncio import AsyncSession

from models.queries.common import codec, count_rows, insert_if_absent
from models.queries.memory.summaries import forget_memory_of_turns
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
    MemberSettingsRow,
    MemoryWork,
    OptOut,
    Persona,
    PersonaAssignment,
    PersonaPicture,
    PersonaVersion,
    ReplyVariant,
    Turn,
    TurnFile,
    TurnPrompt,
    User,
)

OWN_DATA = "a person's own data, in all their guilds"


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
        select(Fact.guild_id).where(_facts(user_id, None)),
        select(MemberSettingsRow.guild_id).where(MemberSettingsRow.user_id == user_id),
        select(DailyUsage.guild_id).where(DailyUsage.user_id == user_id),
    ):
        found.update(await session.scalars(guilds.distinct()))
    return tuple(sorted(found))


@cross_tenant(OWN_DATA)
async def delete_person_turns(session: AsyncSession, *, user_id: int, guild_id: int | None, limit: int) -> int:
    """Delete a batch of the person's turns and return its size. Pending ones too: a late reply is then not stored."""
    batch = _turns(user_id, guild_id).limit(limit)
    gone = delete(Turn).where(Turn.id.in_(batch)).returning(Turn.dialog_id, Turn.id)
    rows = await session.execute(gone.execution_options(synchronize_session=False))
    deleted = [(row.dialog_id, row.id) for row in rows]
    await forget_memory_of_turns(session, deleted)  # summaries of shared dialogs tell what they wrote
    return len(deleted)


@cross_tenant(OWN_DATA)
async def delete_person_rest(session: AsyncSession, *, user_id: int, guild_id: int | None) -> None:
    """Delete the rest, after the turns. Guild personas they wrote stay, without their author; an opt-out stays."""
    authored = PersonaVersion.persona_id.in_(select(Persona.id).where(_in_guild(Persona.guild_id, guild_id)))
    chosen = _in_guild(PersonaAssignment.guild_id, guild_id)
    audit = _in_guild(AuditEntry.guild_id, guild_id)
    for statement in (
        delete(Dialog).where(Dialog.id.in_(_dialogs(user_id, guild_id))),
        delete(Delivery).where(_without_turn(user_id, guild_id)),
        delete(TurnFile).where(_quoted(user_id, guild_id)),
        delete(Persona).where(Persona.owner_id == user_id, _in_guild(Persona.guild_id, guild_id)),
        delete(PersonaAssignment).where(PersonaAssignment.user_id == user_id, chosen),
        update(PersonaAssignment).where(PersonaAssignment.set_by == user_id, chosen).values(set_by=None),
        update(PersonaVersion).where(PersonaVersion.author_id == user_id, authored).values(author_id=None),
        delete(Fact).where(_facts(user_id, guild_id)),
        delete(MemberSettingsRow).where(
            MemberSettingsRow.user_id == user_id, _in_guild(MemberSettingsRow.guild_id, guild_id)
        ),
        delete(DailyUsage).where(DailyUsage.user_id == user_id, _in_guild(DailyUsage.guild_id, guild_id)),
        update(BoundThread)
        .where(BoundThread.creator_id == user_id, _in_guild(BoundThread.guild_id, guild_id))
        .values(creator_id=None),
        update(AuditEntry).where(AuditEntry.actor_id == user_id, audit).values(actor_id=None),
        update(AuditEntry).where(AuditEntry.target_id == user_id, audit).values(target_id=None),
    ):
        await session.execute(statement.execution_options(synchronize_session=False))
    if guild_id is None:
        await session.execute(delete(User).where(User.id == user_id).execution_options(synchronize_session=False))


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
        .where(_in_guild(Persona.guild_id, guild_id))
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
        .where(Persona.owner_id == user_id, _in_guild(Persona.guild_id, guild_id))
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
            MemberSettingsRow.user_id == user_id, _in_guild(MemberSettingsRow.guild_id, guild_id)
        ),
        "daily_usage": select(DailyUsage.__table__).where(
            DailyUsage.user_id == user_id, _in_guild(DailyUsage.guild_id, guild_id)
        ),
        "audit_log": select(
            AuditEntry.guild_id, AuditEntry.actor_id, AuditEntry.target_id, AuditEntry.action, AuditEntry.created_at
        ).where(audit, _in_guild(AuditEntry.guild_id, guild_id)),
        "bound_threads": select(
            BoundThread.guild_id, BoundThread.parent_id, BoundThread.thread_id, BoundThread.created_at
        ).where(BoundThread.creator_id == user_id, _in_guild(BoundThread.guild_id, guild_id)),
        "persona_assignments": select(
            PersonaAssignment.guild_id,
            PersonaAssignment.level,
            PersonaAssignment.place_id,
            PersonaAssignment.persona_id,
            PersonaAssignment.set_at,
        ).where(_assigned(user_id, guild_id)),
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
        .where(Turn.id.in_(_turns(user_id, guild_id)), ~ReplyVariant.active)
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
    facts = await session.scalars(select(Fact).where(_facts(user_id, guild_id)).order_by(Fact.id))
    summaries = await session.scalars(
        select(DialogSummary).where(DialogSummary.dialog_id.in_(_dialogs(user_id, guild_id))).order_by(DialogSummary.id)
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
        .where(_quoted(user_id, guild_id))
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


@cross_tenant("an opt-out holds everywhere")
async def opt_out(session: AsyncSession, *, user_id: int, now: datetime) -> bool:
    """Record the opt-out and end the person's open dialogs. False if they had opted out before."""
    inserted = await insert_if_absent(session, OptOut, user_id=user_id, since=now)
    await session.execute(
        update(Dialog)
        .where(Dialog.user_id == user_id, Dialog.ended_at.is_(None))
        .values(ended_at=now, end_reason="opt-out")
    )
    return inserted


@cross_tenant("an opt-out holds everywhere")
async def opt_in(session: AsyncSession, *, user_id: int) -> bool:
    """Delete the opt-out. False if there was none."""
    return await session.scalar(delete(OptOut).where(OptOut.user_id == user_id).returning(OptOut.user_id)) is not None


@cross_tenant("an opt-out holds everywhere")
async def opted_out_since(session: AsyncSession, *, user_id: int) -> datetime | None:
    """Return when the person opted out, or None."""
    since: datetime | None = await session.scalar(select(OptOut.since).where(OptOut.user_id == user_id))
    return since


def _row_counts(user_id: int, guild_id: int | None) -> dict[str, Select[int]]:
    """Return one counting statement per table."""
    dialogs = _dialogs(user_id, guild_id)
    turns = _turns(user_id, guild_id)
    audit = or_(AuditEntry.actor_id == user_id, AuditEntry.target_id == user_id)
    personas = select(Persona.id).where(_in_guild(Persona.guild_id, guild_id))
    own_personas = personas.where(Persona.owner_id == user_id)
    deliveries = or_(Delivery.turn_id.in_(turns), _without_turn(user_id, guild_id))
    conditions: dict[str, tuple[Any, ColumnElement[bool]]] = {
        "dialogs": (Dialog, Dialog.id.in_(dialogs)),
        "turns": (Turn, Turn.id.in_(turns)),
        "turn_files": (TurnFile, or_(TurnFile.turn_id.in_(turns), _quoted(user_id, guild_id))),
        "deliveries": (Delivery, deliveries),
        "delivery_messages": (
            DeliveryMessage,
            DeliveryMessage.delivery_id.in_(select(Delivery.id).where(deliveries)),
        ),
        "reply_variants": (ReplyVariant, ReplyVariant.turn_id.in_(turns)),
        "turn_prompts": (TurnPrompt, TurnPrompt.turn_id.in_(turns)),
        "facts": (Fact, _facts(user_id, guild_id)),
        "dialog_summaries": (DialogSummary, DialogSummary.dialog_id.in_(dialogs)),
        "memory_work": (MemoryWork, MemoryWork.dialog_id.in_(dialogs)),
        "personas": (Persona, Persona.id.in_(own_personas)),
        "persona_pictures": (PersonaPicture, PersonaPicture.persona_id.in_(own_personas)),
        "persona_assignments": (PersonaAssignment, _assigned(user_id, guild_id)),
        "persona_versions": (
            PersonaVersion,
            and_(PersonaVersion.author_id == user_id, PersonaVersion.persona_id.in_(personas)),
        ),
        "member_settings": (
            MemberSettingsRow,
            and_(MemberSettingsRow.user_id == user_id, _in_guild(MemberSettingsRow.guild_id, guild_id)),
        ),
        "daily_usage": (
            DailyUsage,
            and_(DailyUsage.user_id == user_id, _in_guild(DailyUsage.guild_id, guild_id)),
        ),
        "bound_threads": (
            BoundThread,
            and_(BoundThread.creator_id == user_id, _in_guild(BoundThread.guild_id, guild_id)),
        ),
        "audit_log": (AuditEntry, and_(audit, _in_guild(AuditEntry.guild_id, guild_id))),
    }
    return {name: select(func.count()).select_from(table).where(rows) for name, (table, rows) in conditions.items()}


def _assigned(user_id: int, guild_id: int | None) -> ColumnElement[bool]:
    """Match where a persona was set for this person, or by them."""
    who = or_(PersonaAssignment.user_id == user_id, PersonaAssignment.set_by == user_id)
    return and_(who, _in_guild(PersonaAssignment.guild_id, guild_id))


def _facts(user_id: int, guild_id: int | None) -> ColumnElement[bool]:
    return and_(Fact.user_id == user_id, _in_guild(Fact.guild_id, guild_id))


def _without_turn(user_id: int, guild_id: int | None) -> ColumnElement[bool]:
    """Deliveries of a message that waits, or whose turn was forgotten: they live for some seconds."""
    return and_(Delivery.turn_id.is_(None), Delivery.asker_id == user_id, _in_guild(Delivery.guild_id, guild_id))


def _dialogs(user_id: int, guild_id: int | None) -> Select[int]:
    return select(Dialog.id).where(Dialog.user_id == user_id, _in_guild(Dialog.guild_id, guild_id))


def _turns(user_id: int, guild_id: int | None) -> Select[int]:
    """Select what the person wrote, in dialogs of their own and in shared ones."""
    dialogs = select(Dialog.id).where(_in_guild(Dialog.guild_id, guild_id))
    return select(Turn.id).where(Turn.author_id == user_id, Turn.dialog_id.in_(dialogs))


def _quoted(user_id: int, guild_id: int | None) -> ColumnElement[bool]:
    """Match texts of this person that others have quoted, in the dialogs of any member."""
    dialogs = select(Dialog.id).where(_in_guild(Dialog.guild_id, guild_id))
    own = TurnFile.author_id == user_id
    return (
        own if guild_id is None else and_(own, TurnFile.turn_id.in_(select(Turn.id).where(Turn.dialog_id.in_(dialogs))))
    )


def _in_guild(column: Any, guild_id: int | None) -> ColumnElement[bool]:
    return true() if guild_id is None else column == guild_id
