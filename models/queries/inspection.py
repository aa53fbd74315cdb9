"""Queries of the operator's commands (`guildllama db ...`): counts, lists, one dialog in full, integrity checks.

A member's own export (bot/guilds/privacy.py) uses `dialog_lines` and `turn_lines` too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Row, Select, and_, cast, func, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from models.application import TERMINAL, ours
from models.queries.common import codec, is_open
from models.queries.dialogs.prompts import prompts_of
from models.queries.dialogs.turn_files import files_of
from models.queries.replies.recovery import dead_turns
from models.queries.scope import cross_application, cross_tenant
from models.tables import Base, Dialog, Guild, GuildSettingsRow, Turn
from models.types import EVERYBODY, PromptRecord, StoredFile, TurnStatus


@dataclass(frozen=True, slots=True)
class GuildLine:
    """One guild in the list of `db guilds`."""

    guild_id: int
    members: int
    dialogs: int
    turns: int
    last_active_at: datetime | None
    removed_at: datetime | None
    application_id: int = TERMINAL
    model: str | None = None
    """The name of the model that the guild chose."""


@dataclass(frozen=True, slots=True)
class DialogLine:
    """One dialog in the list of `db dialogs`; `turns` counts all states. `user_id` is 0 where all members share it."""

    dialog_id: int
    guild_id: int
    user_id: int
    channel_id: int
    turns: int
    opened_at: datetime
    last_active_at: datetime
    ended_at: datetime | None
    end_reason: str | None
    parked_at: datetime | None = None
    name: str | None = None
    application_id: int = TERMINAL

    @property
    def shared(self) -> bool:
        """Whether all members of its channel share it."""
        return self.user_id == EVERYBODY


@dataclass(frozen=True, slots=True)
class TurnLine:
    """One turn of a dialog, with decrypted text."""

    turn_id: int
    status: TurnStatus
    user: str
    reply: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    finish_reason: str | None
    first_token_ms: int | None
    total_ms: int | None
    error_id: str | None
    created_at: datetime
    author_id: int | None = None
    author_name: str | None = None
    files: tuple[StoredFile, ...] = ()
    prompt: PromptRecord | None = None
    answered_by: str | None = None
    """The name that stands above the reply."""
    model: str | None = None
    """Which model wrote the reply, as its server calls it."""


@cross_application("the operator's overview")
async def table_counts(session: AsyncSession) -> dict[str, int]:
    """Return the number of rows of every table, of all applications."""
    counts = {}
    for table in Base.metadata.sorted_tables:
        counts[table.name] = int(await session.scalar(select(func.count()).select_from(table)) or 0)
    return counts


@cross_application("the operator's overview")
async def totals(session: AsyncSession) -> dict[str, int]:
    """Return the figures of `guildllama db stats`, of all applications."""
    statuses = await session.execute(select(Turn.status, func.count()).group_by(Turn.status))
    by_status = {status: count for status, count in statuses}
    tokens = (await session.execute(select(func.sum(Turn.prompt_tokens), func.sum(Turn.completion_tokens)))).one()
    open_dialogs = await session.scalar(select(func.count()).where(is_open()).select_from(Dialog))
    parked = (Dialog.ended_at.is_(None), Dialog.parked_at.is_not(None))
    parked_dialogs = await session.scalar(select(func.count()).where(*parked).select_from(Dialog))
    counts = await table_counts(session)
    return {
        "guilds": counts["guilds"],
        "users": counts["users"],
        "personas": counts["personas"],
        "dialogs": counts["dialogs"],
        "open_dialogs": int(open_dialogs or 0),
        "parked_dialogs": int(parked_dialogs or 0),
        "turns": counts["turns"],
        **{f"{status}_turns": int(by_status.get(status, 0)) for status in ("done", "pending", "failed", "interrupted")},
        "prompt_tokens": int(tokens[0] or 0),
        "completion_tokens": int(tokens[1] or 0),
    }


@cross_tenant("the operator's overview")
async def guild_lines(session: AsyncSession) -> tuple[GuildLine, ...]:
    """Return every guild of this application, by id."""
    turns = select(Turn.dialog_id, func.count().label("turns")).where(ours(Turn)).group_by(Turn.dialog_id).subquery()
    rows = await session.execute(
        select(
            Guild.id,
            func.count(func.nullif(Dialog.user_id, EVERYBODY).distinct()),
            func.count(Dialog.id),
            cast(func.coalesce(func.sum(turns.c.turns), 0), BigInteger),
            func.max(Dialog.last_active_at),
            Guild.removed_at,
            Guild.application_id,
            func.max(GuildSettingsRow.model),
        )
        .outerjoin(Dialog, and_(ours(Dialog), Dialog.guild_id == Guild.id))
        .outerjoin(turns, turns.c.dialog_id == Dialog.id)
        .outerjoin(GuildSettingsRow, and_(ours(GuildSettingsRow), GuildSettingsRow.guild_id == Guild.id))
        .where(ours(Guild))
        .group_by(Guild.id, Guild.application_id, Guild.removed_at)
        .order_by(Guild.id)
    )
    return tuple(GuildLine(*row) for row in rows)


@cross_tenant("the operator's overview")
async def dialog_lines(
    session: AsyncSession, *, guild_id: int | None = None, user_id: int | None = None, limit: int = 50
) -> tuple[DialogLine, ...]:
    """Return the `limit` most recently active dialogs, of one guild or user if given."""
    lines = _dialog_lines()
    if guild_id is not None:
        lines = lines.where(Dialog.guild_id == guild_id)
    if user_id is not None:
        lines = lines.where(Dialog.user_id == user_id)
    rows = await session.execute(lines.order_by(Dialog.last_active_at.desc(), Dialog.id.desc()).limit(limit))
    return tuple(_dialog_line(session, row) for row in rows)


@cross_tenant("a person's own data, in all their guilds")
async def shared_dialog_lines(
    session: AsyncSession, *, author_id: int, guild_id: int | None = None
) -> tuple[DialogLine, ...]:
    """Return the shared dialogs in which this person wrote something."""
    wrote = select(Turn.dialog_id).where(ours(Turn), Turn.author_id == author_id)
    lines = _dialog_lines().where(Dialog.user_id == EVERYBODY, Dialog.id.in_(wrote))
    if guild_id is not None:
        lines = lines.where(Dialog.guild_id == guild_id)
    return tuple(_dialog_line(session, row) for row in await session.execute(lines.order_by(Dialog.id)))


@cross_tenant("the operator's overview")
async def dialog_line(session: AsyncSession, *, dialog_id: int) -> DialogLine | None:
    """Return one dialog, or None."""
    row = (await session.execute(_dialog_lines().where(Dialog.id == dialog_id))).first()
    return None if row is None else _dialog_line(session, row)


@cross_tenant("the operator's overview")
async def turn_lines(session: AsyncSession, *, dialog_id: int, author_id: int | None = None) -> tuple[TurnLine, ...]:
    """Return every turn of a dialog in any state, oldest first; of one author if given."""
    turns = select(Turn).where(Turn.dialog_id == dialog_id).order_by(Turn.id)
    rows = (await session.scalars(turns if author_id is None else turns.where(Turn.author_id == author_id))).all()
    files = await files_of(session, turn_ids=[turn.id for turn in rows])
    prompts = await prompts_of(session, turn_ids=[turn.id for turn in rows])
    decode = codec(session)
    statuses: dict[str, TurnStatus] = {
        "pending": "pending",
        "done": "done",
        "failed": "failed",
        "interrupted": "interrupted",
    }
    return tuple(
        TurnLine(
            turn.id,
            statuses[turn.status],
            decode.open(turn.user_text),
            None if turn.reply is None else decode.open(turn.reply),
            turn.prompt_tokens,
            turn.completion_tokens,
            turn.finish_reason,
            turn.first_token_ms,
            turn.total_ms,
            turn.error_id,
            turn.created_at,
            turn.author_id,
            None if turn.author_name is None else decode.open(turn.author_name),
            files.get(turn.id, ()),
            prompts.get(turn.id),
            None if turn.speaker_name is None else decode.open(turn.speaker_name),
            turn.model,
        )
        for turn in rows
    )


@cross_application("the operator's health check")
async def integrity_problems(session: AsyncSession) -> tuple[str, ...]:
    """Return what the database's own check finds wrong; empty if nothing."""
    if session.get_bind().dialect.name == "sqlite":
        rows = (await session.execute(text("PRAGMA integrity_check(20)"))).scalars().all()
        return tuple(str(row) for row in rows if row != "ok")
    # Postgres cannot check its pages without an extension; this finds invalid indexes and constraints.
    invalid = (
        await session.execute(
            text(
                "SELECT 'index ' || indexrelid::regclass || ' is not valid' FROM pg_index WHERE NOT indisvalid "
                "UNION ALL SELECT 'constraint ' || conname || ' was never validated' FROM pg_constraint "
                "WHERE NOT convalidated"
            )
        )
    ).scalars()
    return tuple(str(row) for row in invalid)


@cross_application("the operator's health check")
async def orphans(session: AsyncSession) -> dict[str, int]:
    """Count rows whose parent is missing, by foreign key; empty as long as foreign keys are enforced."""
    missing_parents = {}
    for table in Base.metadata.sorted_tables:
        for key in table.foreign_key_constraints:
            parent = key.referred_table.alias()
            pairs = [(each.parent, parent.c[each.column.name]) for each in key.elements]
            missing = (
                select(func.count())
                .select_from(table.outerjoin(parent, and_(*(child == its_parent for child, its_parent in pairs))))
                .where(*(child.is_not(None) for child, _ in pairs), pairs[0][1].is_(None))
            )
            count = int(await session.scalar(missing) or 0)
            if count:
                missing_parents[f"{table.name}.{pairs[0][0].name}"] = count
    return missing_parents


@cross_tenant("the operator's health check")
async def stuck_turns(session: AsyncSession, *, now: datetime) -> tuple[int, ...]:
    """Return the ids of pending turns that no process works on; the next cleanup interrupts them."""
    return await dead_turns(session, now=now)


def _dialog_lines() -> Select[*tuple[Any, ...]]:
    turns = select(func.count()).where(Turn.dialog_id == Dialog.id).scalar_subquery()
    return select(
        Dialog.id,
        Dialog.guild_id,
        Dialog.user_id,
        Dialog.channel_id,
        func.coalesce(turns, 0),
        Dialog.opened_at,
        Dialog.last_active_at,
        Dialog.ended_at,
        Dialog.end_reason,
        Dialog.parked_at,
        Dialog.name,
        Dialog.application_id,
    ).where(ours(Dialog))


def _dialog_line(session: AsyncSession, row: Row[*tuple[Any, ...]]) -> DialogLine:
    """A row of `_dialog_lines`, its name decrypted."""
    line = DialogLine(*tuple(row))
    return line if line.name is None else replace(line, name=codec(session).open(line.name))
