"""Acknowledges a question that an interaction asked: first it is recorded, then Discord is told.

So nothing that the member saw acknowledged is lost with the process. Discord waits for 3 s; where the database is slow,
the acknowledgement goes first. Knows discord.py's interactions; knows nothing of the answer.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace

import structlog

from bot.chat.turns.deliveries import DeliveryLog
from bot.chat.turns.waiting_record import WaitingRecord
from bot.discord_app.context import Interaction
from bot.discord_app.delivery import defer, is_ephemeral, seconds_since_receipt
from bot.discord_app.error_messages import report_error
from bot.failpoint import failpoint
from models.types import DialogKey, Place

log = structlog.get_logger(__name__)

RECORDED_WITHIN = 1.0
"""Seconds after an interaction came for which its acknowledgement waits for the record, of the 3 that Discord allows.
What is read before, such as who is blocked, waits for a slow database within the same time."""


@contextlib.asynccontextmanager
async def acknowledged(
    deliveries: DeliveryLog, interaction: Interaction, place: Place
) -> AsyncIterator[tuple[Place, WaitingRecord] | None]:
    """Record a question and defer its interaction; the block then answers it in this place, with this record.

    None if it was too late or another process was faster: the block must then do nothing. An error of the block is
    reported here: the record must last until the member has read of it.
    """
    # Whose dialog it is does not matter here, only whether anything may be stored of the member.
    record = WaitingRecord(deliveries, DialogKey(place.guild_id, place.asker_id), place)
    try:
        if not await record.written(within=RECORDED_WITHIN - seconds_since_receipt(interaction)):
            log.warning("a question is acknowledged before it is recorded: the database is slow", question=place.nonce)
        failpoint("before_acknowledge")
        if await defer(interaction, ephemeral=place.ephemeral):
            failpoint("after_acknowledge")
            yield replace(place, ephemeral=is_ephemeral(interaction)), record
        else:
            yield None
    except Exception as error:
        await report_error(interaction, error)
    finally:
        await record.end()
