"""Answers that members reported to the admins of their guild. The key names the guild, and who acts.

A report has a copy of the answer, since the conversation may be deleted before an admin reads it. It goes when the data
of whose message was answered is deleted; the copy of the prompt goes when that of anyone else in it is.
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta

from sqlalchemy import delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from models.application import ours
from models.queries.common import (
    attempt_number,
    codec,
    count_rows,
    ensure_guild,
    ensure_user,
    num_deleted,
    page_of,
    upsert,
)
from models.queries.privacy.opt_outs import has_opted_out
from models.queries.scope import cross_tenant
from models.queries.tenants.audit import record_audit
from models.tables import Dialog, Report, ReportChannel, ReportSpeaker, Turn
from models.types import DialogKey, ReportDetails, ReportedAnswer, ReportLine, ReportOutcome

WINDOW = timedelta(days=1)
"""Within which a member may report a limited number of answers."""


async def add_report(
    session: AsyncSession,
    *,
    key: DialogKey,
    turn_id: int,
    channel_id: int,
    reason: str,
    answer: ReportedAnswer,
    limit: int,
    now: datetime,
) -> ReportOutcome:
    """Store the key's member's report of a turn of the key's guild. `limit`: reports of a member within WINDOW."""
    if await has_opted_out(session, key=key):
        return "opted out"
    turn = (
        await session.execute(
            select(Turn.author_id, Dialog.user_id)
            .join(Dialog, Dialog.id == Turn.dialog_id)
            .where(ours(Dialog), Turn.id == turn_id, Dialog.guild_id == key.guild_id, Dialog.purge_id.is_(None))
            .with_for_update(read=True, of=Turn)  # its author's data is deleted after this, with the report, or before
        )
    ).one_or_none()
    if turn is None:
        return "gone"
    await ensure_guild(session, key.guild_id, now)
    await ensure_user(session, key.user_id, now)
    mine = (ours(Report), Report.reporter_id == key.user_id, Report.guild_id == key.guild_id)
    earlier = select(Report.created_at).where(*mine, Report.source_turn_id == turn_id).limit(1)
    if (made_at := await session.scalar(earlier)) is not None:
        # Our first COMMIT may have succeeded although its answer was lost.
        return "stored" if attempt_number(session) > 1 and made_at == now else "again"
    if await count_rows(session, select(func.count(Report.id)).where(*mine, Report.created_at > now - WINDOW)) >= limit:
        return "too many"
    seal = codec(session).seal
    report = Report(
        guild_id=key.guild_id,
        channel_id=channel_id,
        source_turn_id=turn_id,
        author_id=turn.user_id if turn.author_id is None else turn.author_id,
        reporter_id=key.user_id,
        reason=seal(reason),
        pair=seal(json.dumps({"question": answer.question, "reply": answer.reply}, ensure_ascii=False)),
        prompt=None if answer.prompt is None else seal(_prompt_json(answer)),
        created_at=now,
    )
    session.add(report)
    await session.flush()
    others = answer.speakers - {report.author_id, 0}
    if answer.prompt is not None and others:
        session.add_all(ReportSpeaker(report_id=report.id, user_id=each) for each in sorted(others))
        await session.flush()
    return "stored"


async def reports(
    session: AsyncSession, *, key: DialogKey, before: int | None = None, after: int | None = None, limit: int
) -> tuple[ReportLine, ...]:
    """Return reports of the key's guild, newest first: the last ones, those before one, or the first after one."""
    mine = select(Report).where(ours(Report), Report.guild_id == key.guild_id)
    page = await page_of(session, mine, Report.id, before=before, after=after, limit=limit)
    return tuple(_line(session, row) for row in page)


async def count_reports(session: AsyncSession, *, key: DialogKey) -> tuple[int, int]:
    """Return how many reports of the key's guild are open, and how many there are."""
    mine = select(func.count(Report.id)).where(ours(Report), Report.guild_id == key.guild_id)
    return await count_rows(session, mine.where(Report.closed_at.is_(None))), await count_rows(session, mine)


async def report_details(session: AsyncSession, *, key: DialogKey, report_id: int) -> ReportDetails | None:
    """Return one report of the key's guild with its copy, or None if it is gone."""
    row = await session.scalar(
        select(Report).where(ours(Report), Report.guild_id == key.guild_id, Report.id == report_id)
    )
    if row is None:
        return None
    opened = codec(session).open
    pair = json.loads(opened(row.pair))
    prompt = None if row.prompt is None else json.loads(opened(row.prompt))
    answer = ReportedAnswer(
        question=pair["question"],
        reply=pair["reply"],
        prompt=None if prompt is None else prompt["messages"],
        exact=prompt is not None and bool(prompt["exact"]),
    )
    return ReportDetails(_line(session, row), answer)


async def close_report(
    session: AsyncSession, *, key: DialogKey, report_id: int, actor_id: int, closed: bool, now: datetime
) -> bool:
    """Close a report of the key's guild, or open it again. False if it is gone."""
    await ensure_user(session, actor_id, now)
    mine = update(Report).where(ours(Report), Report.guild_id == key.guild_id, Report.id == report_id)
    values = {"closed_at": now if closed else None, "closed_by": actor_id if closed else None}
    if not num_deleted(await session.execute(mine.values(**values).execution_options(synchronize_session=False))):
        return False
    action = "report.close" if closed else "report.open"
    await record_audit(session, key=key, actor_id=actor_id, action=action, details={"report": report_id}, now=now)
    return True


async def delete_report(session: AsyncSession, *, key: DialogKey, report_id: int, actor_id: int, now: datetime) -> bool:
    """Delete a report of the key's guild. False if it is gone."""
    mine = delete(Report).where(ours(Report), Report.guild_id == key.guild_id, Report.id == report_id)
    if not num_deleted(await session.execute(mine.execution_options(synchronize_session=False))):
        return False
    await record_audit(
        session, key=key, actor_id=actor_id, action="report.delete", details={"report": report_id}, now=now
    )
    return True


async def report_channel(session: AsyncSession, *, key: DialogKey) -> int | None:
    """Return the channel in which the admins of the key's guild want to read of reports."""
    mine = select(ReportChannel.channel_id).where(ours(ReportChannel), ReportChannel.guild_id == key.guild_id)
    channel_id: int | None = await session.scalar(mine)
    return channel_id


async def set_report_channel(
    session: AsyncSession, *, key: DialogKey, channel_id: int | None, actor_id: int, now: datetime
) -> None:
    """Choose that channel, or none."""
    await ensure_guild(session, key.guild_id, now)
    if channel_id is None:
        await session.execute(delete(ReportChannel).where(ours(ReportChannel), ReportChannel.guild_id == key.guild_id))
    else:
        await upsert(session, ReportChannel, {"guild_id": key.guild_id}, {"channel_id": channel_id})
    await record_audit(
        session, key=key, actor_id=actor_id, action="report.channel", details={"channel": channel_id}, now=now
    )


@cross_tenant("reports of every guild are kept for the same time")
async def count_old_reports(session: AsyncSession, *, before: datetime) -> int:
    """Count the reports that were made before a moment."""
    return await count_rows(session, select(func.count(Report.id)).where(ours(Report), Report.created_at < before))


@cross_tenant("reports of every guild are kept for the same time")
async def delete_old_reports(session: AsyncSession, *, before: datetime, limit: int) -> int:
    """Delete a batch of the reports that were made before a moment; return how many."""
    old = select(Report.id).where(ours(Report), Report.created_at < before).limit(limit)
    gone = delete(Report).where(ours(Report), Report.id.in_(old)).execution_options(synchronize_session=False)
    return num_deleted(await session.execute(gone))


def _line(session: AsyncSession, row: Report) -> ReportLine:
    return ReportLine(
        report_id=row.id,
        channel_id=row.channel_id,
        author_id=row.author_id,
        reporter_id=row.reporter_id,
        created_at=row.created_at,
        closed_at=row.closed_at,
        closed_by=row.closed_by,
        reason=None if row.reason is None else codec(session).open(row.reason),
    )


def _prompt_json(answer: ReportedAnswer) -> str:
    return json.dumps({"messages": list(answer.prompt or ()), "exact": answer.exact}, ensure_ascii=False)
