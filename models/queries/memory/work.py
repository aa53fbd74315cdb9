"""Which dialogs have something to remember, and which process works on each. Called by bot/memory.

A dialog is claimed by one process at a time. The claim of a dead process is void, and so is one older than any work
takes.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import and_, func, literal, or_, select, true, tuple_, update
from sqlalchemy.ext.asyncio import AsyncSession

from models.application import ours
from models.queries.common import codec, insert_if_absent, matches_key
from models.queries.dialogs.pairs import not_filtered
from models.queries.memory.forgetting import may_be_summarised
from models.queries.privacy.opt_outs import has_opted_out
from models.queries.replies.processes import is_dead, lost_processes
from models.queries.scope import cross_tenant
from models.tables import (
    Dialog,
    DialogSummary,
    GuildSettingsRow,
    MemberSettingsRow,
    MemoryWork,
    OptOut,
    Turn,
    TurnPrompt,
)
from models.types import DIRECT_MESSAGES, EVERYBODY, DialogKey, MemoryTask, RememberedPair

LONGEST_CLAIM = timedelta(minutes=15)
_MAX_CANDIDATES = 500
_REMEMBERED_ENDS = ("reset", "reset everywhere", "idle", "persona")
"""Ends of dialogs after which what was said counts. After an opt-out, or where the bot was removed, it does not."""


@cross_tenant("a job remembers for every tenant that wants it")
async def dialogs_to_remember(
    session: AsyncSession, *, active_after: datetime, limit: int, now: datetime
) -> tuple[MemoryTask, ...]:
    """Return the dialogs used since then, whose members (or guild, if it is shared) have memory on and who are free.

    The last active come first. Whether there is something to do is up to the caller.
    """
    guild, member = GuildSettingsRow, MemberSettingsRow
    of_dialog = and_(ours(member), member.guild_id == Dialog.guild_id, member.user_id == Dialog.user_id)
    wanted = and_(of_dialog, member.memory.is_(True))
    here = or_(guild.memory, Dialog.guild_id == DIRECT_MESSAGES)
    allowed = or_(and_(wanted, here, OptOut.user_id.is_(None)), and_(Dialog.user_id == EVERYBODY, guild.memory))
    done = and_(Turn.dialog_id == Dialog.id, Turn.status == "done", not_filtered())
    summarised = func.coalesce(
        select(func.max(DialogSummary.to_turn_id))
        .where(DialogSummary.dialog_id == Dialog.id)
        .correlate(Dialog)  # two levels up
        .scalar_subquery(),
        0,
    )
    counts = select(func.count(Turn.id)).where(done)
    remembered = or_(member.forgotten_at.is_(None), Turn.created_at > member.forgotten_at)
    candidates = await _candidates(session, active_after)
    if not candidates:
        return ()
    rows = (
        await session.execute(
            select(
                Dialog.id,
                Dialog.guild_id,
                Dialog.user_id,
                Dialog.channel_id,
                Dialog.last_active_at,
                Dialog.ended_at,
                guild.max_chat_logs.label("guild_chat_logs"),
                guild.model.label("guild_model"),
                member.max_chat_logs.label("own_chat_logs"),
                MemoryWork.facts_to_turn_id,
                MemoryWork.owner,
                MemoryWork.claimed_at,
                counts.scalar_subquery().label("num_pairs"),
                counts.where(Turn.id > summarised, remembered).scalar_subquery().label("num_new"),
                select(func.max(Turn.id)).where(done).scalar_subquery().label("last_turn_id"),
                select(TurnPrompt.num_pairs)
                .join(Turn, Turn.id == TurnPrompt.turn_id)
                .where(done)
                .order_by(Turn.id.desc())
                .limit(1)
                .scalar_subquery()
                .label("last_num_pairs"),
            )
            .outerjoin(guild, and_(ours(guild), guild.guild_id == Dialog.guild_id))
            .outerjoin(member, of_dialog)
            .outerjoin(OptOut, and_(ours(OptOut), OptOut.user_id == Dialog.user_id))
            .outerjoin(MemoryWork, MemoryWork.dialog_id == Dialog.id)
            .where(ours(Dialog), Dialog.id.in_(candidates), allowed)
            .where(or_(Dialog.ended_at.is_(None), Dialog.end_reason.in_(_REMEMBERED_ENDS)))
            .where(or_(MemoryWork.retry_at.is_(None), MemoryWork.retry_at <= now))
            .order_by(Dialog.last_active_at.desc())
            .limit(limit)
        )
    ).all()
    lost = await lost_processes(session)
    own = session.info.get("owner")
    return tuple(
        MemoryTask(
            key=DialogKey(row.guild_id, row.user_id, row.channel_id, shared=row.user_id == EVERYBODY),
            dialog_id=row.id,
            last_active_at=row.last_active_at,
            ended=row.ended_at is not None,
            guild_chat_logs=row.guild_chat_logs,
            own_chat_logs=row.own_chat_logs,
            num_pairs=row.num_pairs,
            num_new=row.num_new,
            last_num_pairs=row.last_num_pairs,
            last_turn_id=row.last_turn_id or 0,
            facts_to_turn_id=row.facts_to_turn_id or 0,
            guild_model=row.guild_model,
        )
        for row in rows
        if row.owner == own or _is_void(row.owner, row.claimed_at, lost, now)
    )


async def _candidates(session: AsyncSession, active_after: datetime) -> list[int]:
    """Find dialogs by those who have memory on, who are few: SQLite would scan all dialogs for a join."""
    members = select(MemberSettingsRow.guild_id, MemberSettingsRow.user_id).where(
        ours(MemberSettingsRow), MemberSettingsRow.memory.is_(True)
    )
    guilds = select(GuildSettingsRow.guild_id, literal(EVERYBODY)).where(
        ours(GuildSettingsRow), GuildSettingsRow.memory
    )
    used = select(Dialog.id, Dialog.last_active_at).where(
        ours(Dialog), Dialog.last_active_at >= active_after, Dialog.purge_id.is_(None)
    )
    found: dict[int, datetime] = {}
    for owners in (members, guilds):
        theirs = used.where(tuple_(Dialog.guild_id, Dialog.user_id).in_(owners))
        rows = await session.execute(theirs.order_by(Dialog.last_active_at.desc()).limit(_MAX_CANDIDATES))
        found |= {row.id: row.last_active_at for row in rows}
    return sorted(found, key=lambda each: found[each], reverse=True)[:_MAX_CANDIDATES]


@cross_tenant("a job remembers for every tenant that wants it")
async def claim_dialog(session: AsyncSession, *, dialog_id: int, now: datetime) -> bool:
    """Let this process write the memory of a dialog. False if another one does, or the dialog is gone."""
    if await session.scalar(select(Dialog.id).where(ours(Dialog), Dialog.id == dialog_id)) is None:
        return False
    await insert_if_absent(session, MemoryWork, dialog_id=dialog_id)
    row = await session.scalar(
        select(MemoryWork)
        .where(MemoryWork.dialog_id == dialog_id)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    own = session.info.get("owner")
    if row is None:
        return False
    if row.owner != own and not _is_void(row.owner, row.claimed_at, await lost_processes(session), now):
        return False
    row.owner, row.claimed_at = own, now
    await session.flush()
    return True


@cross_tenant("a job remembers for every tenant that wants it")
async def release_dialog(session: AsyncSession, *, dialog_id: int, pause: timedelta | None, now: datetime) -> None:
    """Give a claim of this process back. `pause`: an attempt failed; the next one waits as long for each failure."""
    row = await session.scalar(
        select(MemoryWork).where(MemoryWork.dialog_id == dialog_id, MemoryWork.owner == session.info.get("owner"))
    )
    if row is None:
        return
    row.owner = row.claimed_at = row.retry_at = None
    row.failures = 0 if pause is None else row.failures + 1
    if pause is not None:
        row.retry_at = now + pause * min(row.failures, 12)
    await session.flush()


@cross_tenant("a process gives back what it claimed, of every tenant")
async def release_all(session: AsyncSession) -> None:
    """Give all claims of this process back: it ends."""
    mine = update(MemoryWork).where(MemoryWork.owner == session.info.get("owner"))
    await session.execute(mine.values(owner=None, claimed_at=None))


async def facts_looked_for(session: AsyncSession, *, key: DialogKey, dialog_id: int, turn_id: int) -> None:
    """Record up to which turn of the dialog facts were looked for."""
    mine = select(Dialog.id).where(matches_key(key), Dialog.id == dialog_id)
    await session.execute(
        update(MemoryWork)
        .where(MemoryWork.dialog_id.in_(mine))
        .values(facts_to_turn_id=turn_id)
        .execution_options(synchronize_session=False)
    )


async def pairs_to_remember(
    session: AsyncSession, *, key: DialogKey, dialog_id: int, after: int, limit: int, for_summary: bool = False
) -> tuple[RememberedPair, ...]:
    """Return the first pairs of the dialog after this turn, oldest first, without their files and quotes.

    `wants_facts`: whether the author has memory on, and has not had everything forgotten since. `for_summary`: only
    those that a summary may cover.
    """
    wants = and_(
        ours(MemberSettingsRow),
        MemberSettingsRow.guild_id == key.guild_id,
        MemberSettingsRow.user_id == Turn.author_id,
        MemberSettingsRow.memory.is_(True),
        or_(MemberSettingsRow.forgotten_at.is_(None), Turn.created_at > MemberSettingsRow.forgotten_at),
    )
    rows = await session.execute(
        select(
            Turn.id,
            Turn.author_id,
            Turn.author_name,
            Turn.user_text,
            Turn.reply,
            Turn.finished_at,
            MemberSettingsRow.user_id.label("wants"),
            OptOut.user_id.label("opted_out"),
        )
        .join(Dialog, Dialog.id == Turn.dialog_id)
        .outerjoin(MemberSettingsRow, wants)
        .outerjoin(OptOut, and_(ours(OptOut), OptOut.user_id == Turn.author_id))
        .where(matches_key(key), Dialog.id == dialog_id, Turn.status == "done", Turn.id > after, not_filtered())
        .where(may_be_summarised(key) if for_summary else true())
        .order_by(Turn.id)
        .limit(limit)
    )
    opened = codec(session).open
    return tuple(
        RememberedPair(
            turn_id=row.id,
            author_id=row.author_id if row.author_id is not None else key.user_id,
            author=None if row.author_name is None else opened(row.author_name),
            user=opened(row.user_text),
            reply="" if row.reply is None else opened(row.reply),
            finished_at=row.finished_at,
            wants_facts=row.wants is not None and row.opted_out is None,
        )
        for row in rows
    )


async def memory_is_wanted(session: AsyncSession, *, key: DialogKey) -> bool:
    """Whether the guild and the member want memory now (in a shared dialog the guild): so it stays until the commit.

    For what was written in the meantime: who switched memory off keeps nothing that comes late.
    """
    if key.guild_id != DIRECT_MESSAGES:
        guild = select(GuildSettingsRow.memory).where(ours(GuildSettingsRow), GuildSettingsRow.guild_id == key.guild_id)
        if not await session.scalar(guild.with_for_update(read=True)):
            return False
    if key.shared:
        return True
    member = select(MemberSettingsRow.memory).where(
        ours(MemberSettingsRow), MemberSettingsRow.guild_id == key.guild_id, MemberSettingsRow.user_id == key.user_id
    )
    if not await session.scalar(member.with_for_update(read=True)):
        return False
    return not await has_opted_out(session, key=key)


def _is_void(owner: str | None, claimed_at: datetime | None, lost: frozenset[str], now: datetime) -> bool:
    return is_dead(owner, lost) or claimed_at is None or now - claimed_at > LONGEST_CLAIM
