"""The operator's lists of guilds, members and dialogs, by pages.

A page begins after a key, and reads no more than it shows.
"""

from __future__ import annotations

from datetime import datetime
from heapq import merge
from typing import Any, Literal

from sqlalchemy import Select, and_, exists, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from models.application import ours
from models.queries.operator.paging import OPERATOR, counted, next_members
from models.queries.scope import cross_tenant
from models.tables import DailyUsage, Dialog, Guild, MemberBlock, MemberSettingsRow, OptOut, Turn, User
from models.types.operator import DialogRow, GuildRow, MemberRow

DialogState = Literal["open", "ended"]


@cross_tenant(OPERATOR)
async def guild_rows(session: AsyncSession, *, after: int, limit: int) -> tuple[GuildRow, ...]:
    """Return the next guilds by id, after an id; direct messages are guild 0, so begin with -1."""
    rows = await session.execute(_guilds().where(Guild.id > after).order_by(Guild.id).limit(limit))
    return tuple(GuildRow(*row) for row in rows)


@cross_tenant(OPERATOR)
async def guild_row(session: AsyncSession, *, guild_id: int) -> GuildRow | None:
    """Return one guild, or None."""
    row = (await session.execute(_guilds().where(Guild.id == guild_id))).one_or_none()
    return None if row is None else GuildRow(*row)


@cross_tenant(OPERATOR)
async def guild_member_rows(session: AsyncSession, *, guild_id: int, after: int, limit: int) -> tuple[MemberRow, ...]:
    """Return the next members of a guild by id: who used the bot there, has a dialog or settings, or is blocked."""
    columns = (DailyUsage.user_id, Dialog.user_id, MemberSettingsRow.user_id, MemberBlock.user_id)
    named = [await next_members(session, column, guild_id, after, limit) for column in columns]
    ids = list(dict.fromkeys(merge(*named)))[:limit]
    if not ids:
        return ()
    used = and_(ours(DailyUsage), DailyUsage.guild_id == guild_id, DailyUsage.user_id == User.id)
    own = select(Dialog.id).where(ours(Dialog), Dialog.guild_id == guild_id, Dialog.user_id == User.id)
    block = exists().where(ours(MemberBlock), MemberBlock.guild_id == guild_id, MemberBlock.user_id == User.id)
    last = select(func.max(DailyUsage.day)).where(used).correlate(User).scalar_subquery()
    members = select(User.id, counted(own.correlate(User)), last, block, _opted_out()).where(
        ours(User), User.id.in_(ids)
    )
    known = {row[0]: MemberRow(*row) for row in await session.execute(members)}
    # Somebody whose data was deleted has no row of their own, but may still be blocked.
    return tuple(known.get(each) or MemberRow(each, 0, None, blocked=True) for each in ids)


@cross_tenant(OPERATOR)
async def member_rows(session: AsyncSession, *, after: int, limit: int) -> tuple[MemberRow, ...]:
    """Return the next people of all guilds by id, after an id."""
    used = and_(ours(DailyUsage), DailyUsage.user_id == User.id)
    own = select(Dialog.id).where(ours(Dialog), Dialog.user_id == User.id)
    block = exists().where(ours(MemberBlock), MemberBlock.user_id == User.id)
    last = select(func.max(DailyUsage.day)).where(used).correlate(User).scalar_subquery()
    members = select(User.id, counted(own.correlate(User)), last, block, _opted_out())
    rows = await session.execute(members.where(ours(User), User.id > after).order_by(User.id).limit(limit))
    return tuple(MemberRow(*row) for row in rows)


@cross_tenant(OPERATOR)
async def dialog_rows(
    session: AsyncSession,
    *,
    state: DialogState,
    before: tuple[datetime, int] | None,
    limit: int,
) -> tuple[DialogRow, ...]:
    """Return dialogs of all guilds, by when they were last used, or by when they ended: the next before a place."""
    time = Dialog.last_active_at if state == "open" else Dialog.ended_at
    rows = _dialogs().where(Dialog.ended_at.is_(None) if state == "open" else Dialog.ended_at.is_not(None))
    return await _page(session, rows, time, before, limit)


@cross_tenant(OPERATOR)
async def guild_dialog_rows(
    session: AsyncSession, *, guild_id: int, before: tuple[datetime, int] | None, limit: int
) -> tuple[DialogRow, ...]:
    """Return the dialogs of a guild in any state, the last used first: the next before a place."""
    rows = _dialogs().where(Dialog.guild_id == guild_id)
    return await _page(session, rows, Dialog.last_active_at, before, limit)


@cross_tenant(OPERATOR)
async def member_dialog_rows(
    session: AsyncSession, *, guild_id: int, user_id: int, before: int | None, limit: int
) -> tuple[DialogRow, ...]:
    """Return a member's own dialogs in a guild, the last begun first: the next before an id."""
    rows = _dialogs().where(Dialog.guild_id == guild_id, Dialog.user_id == user_id)
    if before is not None:
        rows = rows.where(Dialog.id < before)
    found = await session.execute(rows.order_by(Dialog.id.desc()).limit(limit))
    return tuple(DialogRow(*row) for row in found)


@cross_tenant(OPERATOR)
async def dialog_row(session: AsyncSession, *, guild_id: int, dialog_id: int) -> DialogRow | None:
    """Return one dialog of a guild, or None."""
    rows = _dialogs().where(Dialog.guild_id == guild_id, Dialog.id == dialog_id)
    row = (await session.execute(rows)).one_or_none()
    return None if row is None else DialogRow(*row)


async def _page(
    session: AsyncSession, rows: Select[*tuple[Any, ...]], time: Any, before: tuple[datetime, int] | None, limit: int
) -> tuple[DialogRow, ...]:
    if before is not None:
        moment, dialog_id = before
        # The first condition bounds the index; the second one orders what has the same time.
        rows = rows.where(time <= moment, or_(time < moment, Dialog.id < dialog_id))
    found = await session.execute(rows.order_by(time.desc(), Dialog.id.desc()).limit(limit))
    return tuple(DialogRow(*row) for row in found)


def _guilds() -> Select[*tuple[Any, ...]]:
    active = (
        select(func.max(Dialog.last_active_at))
        .where(ours(Dialog), Dialog.guild_id == Guild.id)
        .correlate(Guild)
        .scalar_subquery()
    )
    dialogs = select(Dialog.id).where(ours(Dialog), Dialog.guild_id == Guild.id).correlate(Guild)
    return select(Guild.id, Guild.first_seen_at, Guild.removed_at, active, counted(dialogs)).where(ours(Guild))


def _dialogs() -> Select[*tuple[Any, ...]]:
    turns = select(Turn.id).where(Turn.dialog_id == Dialog.id).correlate(Dialog)
    return select(
        Dialog.id,
        Dialog.guild_id,
        Dialog.user_id,
        Dialog.channel_id,
        Dialog.opened_at,
        Dialog.last_active_at,
        Dialog.ended_at,
        Dialog.end_reason,
        Dialog.parked_at,
        Dialog.purge_id,
        counted(turns),
    ).where(ours(Dialog))


def _opted_out() -> Any:
    return exists().where(ours(OptOut), OptOut.user_id == User.id)
