"""How often a refusal is said in a channel: a flood of messages must not become a flood of refusals.

A member's own limit is said to them once a minute in a channel; that of a guild, or that many wait, once a minute in a
channel to everybody together.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

import discord

from bot.errors import BotError, LimitReached

_INTERVAL = 60.0
_MAX_REMEMBERED = 10_000


class RefusalPace:
    """Remembers when which refusal was said."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._said_at: OrderedDict[tuple[int, int], float] = OrderedDict()

    def may_say(self, error: BotError, message: discord.Message) -> bool:
        """Whether this refusal of this message is said now."""
        whose = message.author.id if isinstance(error, LimitReached) and error.by == "member" else 0
        key = (message.channel.id, whose)
        now = self._clock()
        said_at = self._said_at.get(key)
        if said_at is not None and now - said_at < _INTERVAL:
            return False
        self._said_at[key] = now
        self._said_at.move_to_end(key)
        while len(self._said_at) > _MAX_REMEMBERED:
            self._said_at.popitem(last=False)
        return True
