"""Runs, for nobody, what the first message to a process runs, so that no member waits for it.

SQLAlchemy compiles each statement at its first use, and the pool opens its connections: together 0.2 s of a core, in
which no other message is served. Nothing is stored: the transaction is rolled back. Knows no Discord.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import structlog

from models import queries
from models.database import Database, Session
from models.errors import DatabaseError
from models.queries.administration.blocks import blocks_of_guild
from models.queries.replies.deliveries import begin_waiting
from models.queries.replies.delivery_messages import message_sent, messages_shown
from models.types import DialogKey, OutgoingMessage, Place, TurnResult

log = structlog.get_logger(__name__)

_NOBODY = DialogKey(1, 0)
"""A guild and a member that Discord does not have."""


class _RolledBack(Exception):
    """Ends the transaction without storing anything."""


async def warm_up(database: Database) -> None:
    """Serve one message that nobody sent. A database that is away is left to those who use it."""
    try:
        await asyncio.gather(_read(database), _write(database))
    except DatabaseError as error:
        log.info("the first messages will take longer", error=type(error).__name__)


async def _read(database: Database) -> None:
    async with database.read() as session:
        await queries.member_settings(session, key=_NOBODY)
        await queries.guild_settings(session, key=_NOBODY)
        await blocks_of_guild(session, key=_NOBODY, now=datetime.now(UTC))


async def _write(database: Database) -> None:
    try:
        async with database.write() as session:
            await _serve(session)
            raise _RolledBack
    except _RolledBack:
        pass


async def _serve(session: Session) -> None:
    now = datetime.now(UTC)
    place = Place(
        _NOBODY.guild_id,
        0,
        _NOBODY.user_id,
        nonce=0,
        application_id=0,
        reply_token="",
        token_expires_at=now,
    )
    await begin_waiting(session, key=_NOBODY, place=place, now=now)
    turn = await queries.begin_turn(
        session, key=_NOBODY, text="-", limit=1, interaction_id=0, place=place, memory=True, now=now
    )
    await message_sent(session, delivery_id=turn.delivery_id, position=0, message_id=0)
    result = TurnResult("-", 1, 1, "stop", 1, 1, (OutgoingMessage("-", message_id=0),))
    await queries.finish_turn(session, key=_NOBODY, turn_id=turn.turn_id, result=result, now=now)
    await messages_shown(session, delivery_id=turn.delivery_id, shown=[(0, 0)], done=True)
