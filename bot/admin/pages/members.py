"""Members: of all guilds and of one, each with what is stored, and the two things that the operator does to them."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import structlog
from starlette.exceptions import HTTPException
from starlette.responses import Response

from bot.admin.context import PAGE, Visit
from bot.chat.stop_requests import StopRequests
from bot.errors import DatabaseUnavailable
from bot.guilds.administration.blocks import MAX_REASON
from bot.guilds.privacy import PrivacyService
from bot.storage import translate_database_errors
from models import queries
from models.database import Database, Session
from models.errors import DatabaseUnavailable as StoredUnavailable
from models.errors import WrongEncryptionKey
from models.queries.administration.blocks import block_of
from models.queries.administration.members import pending_questions
from models.queries.operator.lists import guild_member_rows, guild_row, member_dialog_rows, member_rows
from models.queries.privacy.holdings import person_counts, person_guilds
from models.queries.privacy.opt_outs import opted_out_since
from models.queries.tenants.member_settings import member_settings
from models.types import DIRECT_MESSAGES, EVERYBODY, Block, DialogKey, StopRequester

log = structlog.get_logger(__name__)

MAX_DAYS = 3650


async def members_page(visit: Visit) -> Response:
    """Everybody whom the application knows, by id."""
    after = visit.cursor("after")
    with translate_database_errors():
        async with visit.database.read() as session:
            rows = await member_rows(session, after=after or 0, limit=PAGE + 1)
    return visit.page(
        "lists/members.html", "People", guild=None, rows=rows[:PAGE], more=len(rows) > PAGE, first=not after
    )


async def guild_members_page(visit: Visit) -> Response:
    """The members of a guild, by id."""
    guild_id, after = visit.number("guild"), visit.cursor("after")
    with translate_database_errors():
        async with visit.database.read() as session:
            if await guild_row(session, guild_id=guild_id) is None:
                raise HTTPException(404)
            rows = await guild_member_rows(session, guild_id=guild_id, after=after or 0, limit=PAGE + 1)
    title = f"Members of guild {guild_id}" if guild_id else "Members in direct messages"
    return visit.page(
        "lists/members.html", title, guild=guild_id, rows=rows[:PAGE], more=len(rows) > PAGE, first=not after
    )


async def member_page(visit: Visit) -> Response:
    """One person in all guilds: where they are known, how much is stored."""
    user_id = _user(visit)
    with translate_database_errors():
        async with visit.database.read() as session:
            guilds = await person_guilds(session, user_id=user_id)
            counts = await person_counts(session, user_id=user_id)
            opted_out = await opted_out_since(session, user_id=user_id)
    if not guilds and not any(counts.values()) and opted_out is None:
        raise HTTPException(404)
    return visit.page(
        "details/member.html",
        f"Person {user_id}",
        user_id=user_id,
        guild=None,
        guilds=guilds,
        counts=sorted(counts.items()),
        opted_out=opted_out,
        problem="",
    )


async def guild_member_page(visit: Visit) -> Response:
    """One member of a guild: their settings, block and dialogs."""
    return await _guild_member(visit)


async def block(visit: Visit) -> Response:
    """Block a member of a guild for some days or for good, and stop what is being written for them."""
    key = DialogKey(visit.number("guild"), _user(visit))
    reason, days = visit.fields.get("reason", "").strip() or None, visit.fields.get("days", "").strip()
    if key.guild_id == DIRECT_MESSAGES:
        raise HTTPException(400, "A block holds in a guild; there are none in direct messages.")
    if reason is not None and len(reason) > MAX_REASON:
        return await _guild_member(visit, f"A reason has at most {MAX_REASON} characters.")
    if days and not (days.isascii() and days.isdecimal() and len(days) < 5 and 1 <= int(days) <= MAX_DAYS):
        return await _guild_member(visit, f"Days are a number from 1 to {MAX_DAYS}, or nothing for good.")
    await _require_guild(visit.database, key.guild_id)
    now = datetime.now(UTC)
    until = now + timedelta(days=int(days)) if days else None
    with translate_database_errors():
        await visit.database.run(
            lambda session: queries.block_member(
                session, key=key, blocked=True, actor_id=None, now=now, reason=reason, until=until
            )
        )
    await _stop_replies(visit.database, key)
    return visit.to(f"/a/{visit.application_id}/guilds/{key.guild_id}/members/{key.user_id}")


async def unblock(visit: Visit) -> Response:
    """End the block of a member."""
    key = DialogKey(visit.number("guild"), _user(visit))
    await _require_guild(visit.database, key.guild_id)
    with translate_database_errors():
        async with visit.database.read() as session:
            found = await _block(visit, key, session)
        if found is not None:
            await visit.database.run(
                lambda session: queries.block_member(
                    session, key=key, blocked=False, actor_id=None, now=datetime.now(UTC)
                )
            )
    return visit.to(f"/a/{visit.application_id}/guilds/{key.guild_id}/members/{key.user_id}")


async def delete_member(visit: Visit) -> Response:
    """Delete what is stored of a person, in one guild or in all, once their id was typed."""
    user_id = _user(visit)
    guild_id = visit.number("guild") if "guild" in visit.request.path_params else None
    if visit.fields.get("typed", "").strip() != str(user_id):
        problem = "Nothing was deleted: the id that was typed is another one."
        return (
            await _guild_member(visit, problem)
            if guild_id is not None
            else visit.page("problem.html", "Nothing was deleted", status=400, problem=problem)
        )
    if guild_id is not None:
        await _require_guild(visit.database, guild_id)
    with translate_database_errors():
        receipt = await PrivacyService(visit.database).delete(user_id, guild_id=guild_id)
    log.info("the operator deleted a person's data", receipt=receipt.receipt_id, guild=guild_id)
    return visit.page("details/deleted.html", "Deleted", receipt=receipt, user_id=user_id, guild=guild_id)


def _user(visit: Visit) -> int:
    """The person in the path. 0 is nobody: what all members of a channel share is stored under it."""
    user_id = visit.number("user")
    if user_id == EVERYBODY:
        raise HTTPException(404)
    return user_id


async def _guild_member(visit: Visit, problem: str = "") -> Response:
    key, before = DialogKey(visit.number("guild"), _user(visit)), None
    if visit.request.method != "POST":
        before = visit.cursor("before")
    with translate_database_errors():
        async with visit.database.read() as session:
            if await guild_row(session, guild_id=key.guild_id) is None:
                raise HTTPException(404)
            counts = await person_counts(session, user_id=key.user_id, guild_id=key.guild_id)
            settings = await member_settings(session, key=key)
            blocked = await _block(visit, key, session)
            opted_out = await opted_out_since(session, user_id=key.user_id)
            dialogs = await member_dialog_rows(
                session, guild_id=key.guild_id, user_id=key.user_id, before=before, limit=PAGE + 1
            )
    if not any(counts.values()) and blocked is None and opted_out is None:
        raise HTTPException(404)
    return visit.page(
        "details/member.html",
        f"Member {key.user_id}",
        status=400 if problem else 200,
        user_id=key.user_id,
        guild=key.guild_id,
        counts=sorted(counts.items()),
        settings=settings,
        block=blocked,
        opted_out=opted_out,
        rows=dialogs[:PAGE],
        more=len(dialogs) > PAGE,
        first=before is None,
        problem=problem,
    )


async def _block(visit: Visit, key: DialogKey, session: Session) -> Block | None:
    """The block that holds now; without its reason, if that does not open."""
    try:
        return await block_of(session, key=key, now=datetime.now(UTC))
    except WrongEncryptionKey:
        return Block(key.user_id, datetime.now(UTC), reason="(sealed: set GUILDLLAMA_ENCRYPTION_KEYS)")


async def _require_guild(database: Database, guild_id: int) -> None:
    with translate_database_errors():
        async with database.read() as session:
            if await guild_row(session, guild_id=guild_id) is None:
                raise HTTPException(404)


async def _stop_replies(database: Database, key: DialogKey) -> None:
    """Ask the processes that write replies to the member to stop, as the member themselves may."""
    try:
        async with database.read() as session:
            asked = await pending_questions(session, key=key)
        by = StopRequester(key.user_id)
        await asyncio.gather(*(StopRequests(database).stop(each, by) for each in asked))
    except (StoredUnavailable, DatabaseUnavailable):
        log.warning("a blocked member's replies could not be stopped", guild=key.guild_id)
