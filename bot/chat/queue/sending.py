"""Limits how many messages of one guild are at the engine without a first token.

Our own engine shares its time among guilds, also as a server of its own. Other servers answer in order of arrival: a
hundred messages of one guild there would delay another guild's message by a hundred replies. The bot therefore sends of
each guild about as many messages ahead as it has seen the server write at once: a row that becomes free finds a
message, and another guild's message waits for one more reply at most. While no reply gets a token, the bot sends more
and more: a server that is slow to begin may still write many at once.

Begin transactions are limited for the same reason: the database, too, serves in order of arrival.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any

from bot.chat.queue.running import Place, RunningReplies
from bot.chat.queue.wait_estimate import WaitEstimate

_MAX_BEGINNING = 4
"""Begin transactions of one guild at once."""
_PATIENCE = 0.5
"""Seconds without a token of any reply after which twice as many are sent ahead."""
_MAX_DOUBLINGS = 10


class Sending:
    """The messages of all guilds on their way to their first token."""

    def __init__(
        self,
        estimate_of: Callable[[Any], WaitEstimate],
        *,
        is_fair: Callable[[Any], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`estimate_of`: what was measured at a guild's server. `is_fair`: whether it shares its time among guilds.

        A guild that has chosen another model is another one to them, and here: its messages wait elsewhere.
        """
        self._estimate_of = estimate_of
        self._is_fair = is_fair
        self._clock = clock
        self._sent = RunningReplies()
        self._beginning = RunningReplies()
        self._since = clock()

    async def turn(self, guild: Hashable) -> Place:
        """Wait until a message of this guild may be sent. Release the place at its first token or at its end."""
        if not self._sent.total:
            self._since = self._clock()
        return await self._sent.take(
            (guild, partial(self._most_ahead, guild)), look_again=None if self._is_fair(guild) else _PATIENCE
        )

    def beginning(self, guild: Hashable) -> AbstractAsyncContextManager[None]:
        """The block of a begin transaction of this guild."""
        return self._beginning.hold((guild, _MAX_BEGINNING))

    def _most_ahead(self, guild: Hashable) -> int | None:
        if self._is_fair(guild):
            return None
        estimate = self._estimate_of(guild)
        silent = self._clock() - max(self._since, estimate.last_token_at)
        doublings = min(_MAX_DOUBLINGS, max(0, int(silent / _PATIENCE)))
        return max(1, estimate.most_at_once) << doublings
