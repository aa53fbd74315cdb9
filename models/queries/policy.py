"""What applies to one turn: everything that guild and member chose, in one statement; quotas; usage."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

from sqlalchemy import and_, literal, select
from sqlalchemy.ext.asyncio import AsyncSession

from models.errors import MemberBlocked, QuotaExceeded
from models.queries.common import ensure_guild, ensure_user, insert
from models.tables import DailyUsage, GuildSettingsRow, MemberSettingsRow, OptOut
from models.types import DialogKey, DialogSettings, Usage


@dataclass(frozen=True, slots=True)
class Policy:
    """What was read, before any of it is enforced."""

    settings: DialogSettings
    blocked: bool
    daily_turns: int | None
    daily_tokens: int | None
    turns_today: int
    tokens_today: int

    @property
    def counts_usage(self) -> bool:
        """Of a member who opted out, usage is only counted where the guild limits it."""
        return not self.settings.opted_out or self.daily_turns is not None or self.daily_tokens is not None


async def policy(session: AsyncSession, *, key: DialogKey, limit: int | None = None, now: datetime) -> Policy:
    """Everything that T1 and T2 must know about this key.

    `limit` is the operator's number of pairs: the guild's replaces it, the member's can only lower it.
    """
    one = select(literal(1).label("one")).subquery()
    member = and_(MemberSettingsRow.guild_id == key.guild_id, MemberSettingsRow.user_id == key.user_id)
    used = and_(DailyUsage.guild_id == key.guild_id, DailyUsage.user_id == key.user_id, DailyUsage.day == _utc_day(now))
    row = (
        await session.execute(
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
                MemberSettingsRow.blocked_at,
                OptOut.since,
                DailyUsage.turns,
                DailyUsage.prompt_tokens,
                DailyUsage.completion_tokens,
            )
            .select_from(one)
            .outerjoin(GuildSettingsRow, GuildSettingsRow.guild_id == key.guild_id)
            .outerjoin(MemberSettingsRow, member)
            .outerjoin(OptOut, OptOut.user_id == key.user_id)
            .outerjoin(DailyUsage, used)
        )
    ).one()
    return Policy(
        settings=DialogSettings(
            max_chat_logs=_shorter(limit if row.max_chat_logs is None else row.max_chat_logs, row.own_chat_logs),
            max_reply_tokens=row.max_reply_tokens,
            retention_days=_shorter(row.retention_days, row.own_retention_days),
            session_ttl=None if row.session_ttl_s is None else timedelta(seconds=row.session_ttl_s),
            locale=row.own_locale or row.locale,
            opted_out=row.since is not None,
            streaming=row.streaming is not False,
        ),
        blocked=row.blocked_at is not None,
        daily_turns=row.daily_turns,
        daily_tokens=row.daily_tokens,
        turns_today=row.turns or 0,
        tokens_today=(row.prompt_tokens or 0) + (row.completion_tokens or 0),
    )


def enforce(found: Policy, *, role_turns: int | None, now: datetime) -> None:
    """Refuses a blocked member and one whose day is used up. A role's quota replaces the guild's number of turns."""
    if found.blocked:
        raise MemberBlocked("an admin of this guild has blocked this member")
    resets_at = datetime.combine(_utc_day(now) + timedelta(days=1), time(), UTC)
    turns = found.daily_turns if role_turns is None else role_turns
    if turns is not None and found.turns_today >= turns:
        raise QuotaExceeded("turns", turns, resets_at)
    if found.daily_tokens is not None and found.tokens_today >= found.daily_tokens:
        raise QuotaExceeded("tokens", found.daily_tokens, resets_at)


async def add_usage(
    session: AsyncSession, *, key: DialogKey, prompt_tokens: int, completion_tokens: int, now: datetime, new_turn: bool
) -> None:
    """Counts a finished reply. A regenerated one costs tokens but is no new turn."""
    statement = insert(session, DailyUsage).values(
        guild_id=key.guild_id,
        user_id=key.user_id,
        day=_utc_day(now),
        turns=int(new_turn),
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
    )
    await session.execute(
        statement.on_conflict_do_update(
            index_elements=["guild_id", "user_id", "day"],
            set_={
                name: getattr(DailyUsage, name) + getattr(statement.excluded, name)
                for name in ("turns", "prompt_tokens", "completion_tokens")
            },
        )
    )


async def add_anonymous_usage(
    session: AsyncSession, *, key: DialogKey, prompt_tokens: int, completion_tokens: int, now: datetime
) -> None:
    """The same for a member who opted out and so may have no rows of their own yet."""
    await ensure_guild(session, key.guild_id, now)
    await ensure_user(session, key.user_id, now)
    await add_usage(
        session, key=key, prompt_tokens=prompt_tokens, completion_tokens=completion_tokens, now=now, new_turn=True
    )


async def usage(session: AsyncSession, *, key: DialogKey, since: date) -> tuple[Usage, ...]:
    """The member's usage in this guild, newest day first."""
    rows = await session.scalars(
        select(DailyUsage)
        .where(DailyUsage.guild_id == key.guild_id, DailyUsage.user_id == key.user_id, DailyUsage.day >= since)
        .order_by(DailyUsage.day.desc())
    )
    return tuple(Usage(row.day, row.turns, row.prompt_tokens, row.completion_tokens) for row in rows)


def _utc_day(now: datetime) -> date:
    return now.astimezone(UTC).date()


def _shorter(guild: int | None, member: int | None) -> int | None:
    given = [value for value in (guild, member) if value is not None]
    return min(given, default=None)
