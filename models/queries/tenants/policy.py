"""What applies to one turn: guild and member settings, quotas and usage.

Called by the other query modules; usage is counted per guild, user and UTC day. `bot/guilds/settings/limits.py` has
decided which numbers apply to a message: from the guild's settings, the member's roles and the operator's maxima.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import cache

from sqlalchemy import Executable, and_, bindparam, func, literal, select
from sqlalchemy.ext.asyncio import AsyncSession

from models.application import ours
from models.errors import MemberBlocked, QuotaExceeded
from models.queries.common import change, codec, dialect, ensure_guild, ensure_user, insert, rows_of
from models.tables import DailyUsage, GuildSettingsRow, MemberBlock, MemberSettingsRow, OptOut
from models.types import (
    DIRECT_MESSAGES,
    Block,
    DayUsed,
    DialogKey,
    DialogSettings,
    LimitedBy,
    Limits,
    ReplyLimits,
    TurnResult,
    Usage,
)


@dataclass(frozen=True, slots=True)
class Policy:
    """Settings, quotas and today's usage of one key, before any of it is enforced. None: no quota."""

    settings: DialogSettings
    block: Block | None
    """What an admin decided, if it holds now."""
    daily_turns: int | None
    daily_tokens: int | None
    messages_today: int
    """Finished turns and further replies to earlier ones."""
    tokens_today: int

    @property
    def records_usage(self) -> bool:
        """Whether usage is counted: for a member who opted out only where the guild has a quota."""
        return not self.settings.opted_out or self.daily_turns is not None or self.daily_tokens is not None


_NOTHING = select(literal(1).label("one")).subquery()
_POLICY = (
    select(
        GuildSettingsRow.max_chat_logs,
        GuildSettingsRow.max_reply_tokens,
        GuildSettingsRow.retention_days,
        GuildSettingsRow.session_ttl_s,
        GuildSettingsRow.streaming,
        GuildSettingsRow.locale,
        GuildSettingsRow.daily_turns,
        GuildSettingsRow.daily_tokens,
        MemberSettingsRow.max_chat_logs.label("own_chat_logs"),
        MemberSettingsRow.retention_days.label("own_retention_days"),
        MemberSettingsRow.locale.label("own_locale"),
        MemberBlock.blocked_at,
        MemberBlock.until.label("blocked_until"),
        MemberBlock.reason.label("block_reason"),
        GuildSettingsRow.memory,
        MemberSettingsRow.memory.label("own_memory"),
        OptOut.since,
        DailyUsage.turns,
        DailyUsage.more_replies,
        DailyUsage.prompt_tokens,
        DailyUsage.completion_tokens,
    )
    .select_from(_NOTHING)
    .outerjoin(GuildSettingsRow, and_(ours(GuildSettingsRow), GuildSettingsRow.guild_id == bindparam("guild_id")))
    .outerjoin(
        MemberSettingsRow,
        and_(
            ours(MemberSettingsRow),
            MemberSettingsRow.guild_id == bindparam("guild_id"),
            MemberSettingsRow.user_id == bindparam("user_id"),
        ),
    )
    .outerjoin(
        MemberBlock,
        and_(
            ours(MemberBlock),
            MemberBlock.guild_id == bindparam("guild_id"),
            MemberBlock.user_id == bindparam("user_id"),
        ),
    )
    .outerjoin(OptOut, and_(ours(OptOut), OptOut.user_id == bindparam("user_id")))
    .outerjoin(
        DailyUsage,
        and_(
            ours(DailyUsage),
            DailyUsage.guild_id == bindparam("guild_id"),
            DailyUsage.user_id == bindparam("user_id"),
            DailyUsage.day == bindparam("day"),
        ),
    )
)


async def load_policy(session: AsyncSession, *, key: DialogKey, limit: int | None = None, now: datetime) -> Policy:
    """Read settings, quotas and today's usage of this key, in one statement.

    `limit` is the operator's max_chat_logs: the guild's value replaces it, the member's can only lower it.
    """
    of_key = {"guild_id": key.guild_id, "user_id": key.user_id, "day": _utc_day(now)}
    row = (await rows_of(session, _POLICY, of_key)).one()
    block: Block | None = None
    if row.blocked_at is not None:
        reason = None if row.block_reason is None else codec(session).open(row.block_reason)
        block = Block(key.user_id, row.blocked_at, row.blocked_until, reason=reason)
    memory_here = key.guild_id == DIRECT_MESSAGES or bool(row.memory)
    memory = memory_here and bool(row.own_memory) and row.since is None
    return Policy(
        settings=DialogSettings(
            max_chat_logs=_smaller(limit if row.max_chat_logs is None else row.max_chat_logs, row.own_chat_logs),
            max_reply_tokens=row.max_reply_tokens,
            retention_days=_smaller(row.retention_days, row.own_retention_days),
            session_ttl=None if row.session_ttl_s is None else timedelta(seconds=row.session_ttl_s),
            locale=row.own_locale or row.locale,
            opted_out=row.since is not None,
            streaming=row.streaming is not False,
            memory=memory,
            summaries=memory_here if key.shared else memory,
        ),
        block=block if block is not None and block.holds(now) else None,
        daily_turns=row.daily_turns,
        daily_tokens=row.daily_tokens,
        messages_today=(row.turns or 0) + (row.more_replies or 0),
        tokens_today=(row.prompt_tokens or 0) + (row.completion_tokens or 0),
    )


async def enforce_policy(
    session: AsyncSession, *, policy: Policy, key: DialogKey, limits: ReplyLimits | None, now: datetime
) -> None:
    """Raise MemberBlocked or QuotaExceeded if the member may not chat now.

    `limits`: the numbers that apply, instead of those that the guild has stored for a member.
    """
    if policy.block is not None:
        raise MemberBlocked(policy.block.until, policy.block.reason)
    if limits is None:
        limits = ReplyLimits(Limits(daily_messages=policy.daily_turns, daily_tokens=policy.daily_tokens))
    today = _utc_day(now)
    _check_day(limits.member, DayUsed(today, policy.messages_today, policy.tokens_today), "member")
    if limits.guild.daily_messages is not None or limits.guild.daily_tokens is not None:
        _check_day(limits.guild, await guild_day(session, key=key, day=today), "guild")


def _check_day(limits: Limits, used: DayUsed, by: LimitedBy) -> None:
    if limits.daily_messages is not None and used.messages >= limits.daily_messages:
        raise QuotaExceeded("turns", limits.daily_messages, day_after(used.day), by)
    if limits.daily_tokens is not None and used.tokens >= limits.daily_tokens:
        raise QuotaExceeded("tokens", limits.daily_tokens, day_after(used.day), by)


def day_after(day: date) -> datetime:
    """Return when a UTC day ends, and its numbers begin anew."""
    return datetime.combine(day + timedelta(days=1), time(), UTC)


_GUILD_DAY = select(
    func.coalesce(func.sum(DailyUsage.turns + DailyUsage.more_replies), 0).label("messages"),
    func.coalesce(func.sum(DailyUsage.prompt_tokens + DailyUsage.completion_tokens), 0).label("tokens"),
).where(ours(DailyUsage), DailyUsage.guild_id == bindparam("guild_id"), DailyUsage.day == bindparam("day"))


async def guild_day(session: AsyncSession, *, key: DialogKey, day: date) -> DayUsed:
    """Return what all members of the key's guild have used on a UTC day."""
    row = (await rows_of(session, _GUILD_DAY, {"guild_id": key.guild_id, "day": day})).one()
    return DayUsed(day, int(row.messages), int(row.tokens))


@cache
def _add_usage(on: str) -> Executable:
    added = insert(on, DailyUsage)
    return added.on_conflict_do_update(
        index_elements=["guild_id", "user_id", "day", "application_id"],
        set_={
            name: getattr(DailyUsage, name) + getattr(added.excluded, name)
            for name in ("turns", "more_replies", "prompt_tokens", "completion_tokens")
        },
    )


async def add_usage(
    session: AsyncSession, *, key: DialogKey, result: TurnResult, now: datetime, new_turn: bool
) -> None:
    """Add a finished reply to the member's usage of the day, as a turn or as a further reply to an earlier one."""
    added = {
        "guild_id": key.guild_id,
        "user_id": key.user_id,
        "day": _utc_day(now),
        "turns": int(new_turn),
        "more_replies": int(not new_turn),
        "prompt_tokens": result.prompt_tokens,
        "completion_tokens": result.completion_tokens,
    }
    await change(session, _add_usage(dialect(session)), added)


async def add_opted_out_usage(session: AsyncSession, *, key: DialogKey, result: TurnResult, now: datetime) -> None:
    """Add a new turn of a member who opted out: guild and user may not be stored yet."""
    await ensure_guild(session, key.guild_id, now)
    await ensure_user(session, key.user_id, now)
    await add_usage(session, key=key, result=result, now=now, new_turn=True)


async def usage(session: AsyncSession, *, key: DialogKey, since: date) -> tuple[Usage, ...]:
    """Return the key's member's usage in the key's guild since a UTC day, newest day first."""
    rows = await session.scalars(
        select(DailyUsage)
        .where(
            ours(DailyUsage),
            DailyUsage.guild_id == key.guild_id,
            DailyUsage.user_id == key.user_id,
            DailyUsage.day >= since,
        )
        .order_by(DailyUsage.day.desc())
    )
    return tuple(Usage(row.day, row.turns, row.prompt_tokens, row.completion_tokens, row.more_replies) for row in rows)


def _utc_day(now: datetime) -> date:
    return now.astimezone(UTC).date()


def _smaller(guild: int | None, member: int | None) -> int | None:
    """Return the smaller of the values that are set, or None."""
    given = [value for value in (guild, member) if value is not None]
    return min(given, default=None)
