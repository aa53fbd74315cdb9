"""Applies the limits of a minute and of replies at once to messages, and tells what is left of them.

What of a day is used is in the database (`models/queries/tenants/policy.py`). Knows keys and numbers; whose numbers
they are was decided before (`bot/guilds/settings/limits.py`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from bot.chat.queue.rates import Buckets
from bot.chat.queue.running import RunningReplies
from bot.errors import TooManyMessages
from models.types import DIRECT_MESSAGES, DialogKey, LimitedBy, Limits, ReplyLimits


@dataclass(frozen=True, slots=True)
class NowLeft:
    """What a member, or a guild, may ask for at once. None: no limit."""

    messages: int | None
    all_back_at: datetime | None
    """When a whole minute's messages may come again; None if they may now."""
    running: int


def member_key(key: DialogKey) -> DialogKey:
    """One member of one guild, however many channels they have dialogs in."""
    return DialogKey(key.guild_id, key.user_id)


def guild_key(key: DialogKey) -> DialogKey:
    """What counts as a guild where one must not displace another: in direct messages, each person."""
    return member_key(key) if key.guild_id == DIRECT_MESSAGES else DialogKey(key.guild_id, 0)


class Limiter:
    """The messages of the last minute and the replies that are written, of this process."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._buckets = Buckets(clock)
        self._running = RunningReplies()
        self._now = now

    def take(self, key: DialogKey, limits: ReplyLimits | None, *, is_repeat: bool = False) -> None:
        """Count a message of this key. Raises TooManyMessages, and then counts nothing.

        `is_repeat`: it is counted in any case.
        """
        by_key = tuple(_minute_limits(key, limits))
        if not is_repeat:
            for by, counted, limit in by_key:
                if seconds := self._buckets.seconds_until(counted, limit):
                    raise TooManyMessages(limit, by, self._now() + timedelta(seconds=seconds))
        for _, counted, limit in by_key:
            self._buckets.take(counted, limit)

    def turn(self, key: DialogKey, limits: ReplyLimits | None) -> AbstractAsyncContextManager[None]:
        """Wait until a reply to this key may be written, and count it until the block ends."""
        limits = limits or ReplyLimits()
        needs: list[tuple[tuple[LimitedBy, DialogKey], int | None]] = [
            (("member", member_key(key)), limits.member.running_replies),
        ]
        if key.guild_id != DIRECT_MESSAGES:
            needs.append((("guild", guild_key(key)), limits.guild.running_replies))
        return self._running.hold(*needs)

    def left(self, key: DialogKey, limits: Limits, by: LimitedBy) -> NowLeft:
        """What a member (`by`) or their whole guild may ask for now."""
        counted: tuple[LimitedBy, DialogKey] = (by, member_key(key) if by == "member" else guild_key(key))
        limit = limits.minute_messages
        if limit is None:
            return NowLeft(None, None, self._running.count(counted))
        seconds = self._buckets.seconds_until(counted, limit, limit)
        return NowLeft(
            self._buckets.left(counted, limit),
            self._now() + timedelta(seconds=seconds) if seconds else None,
            self._running.count(counted),
        )


def _minute_limits(
    key: DialogKey, limits: ReplyLimits | None
) -> Iterator[tuple[LimitedBy, tuple[LimitedBy, DialogKey], int]]:
    if limits is None:
        return
    if limits.member.minute_messages is not None:
        yield "member", ("member", member_key(key)), limits.member.minute_messages
    if limits.guild.minute_messages is not None and key.guild_id != DIRECT_MESSAGES:
        yield "guild", ("guild", guild_key(key)), limits.guild.minute_messages
