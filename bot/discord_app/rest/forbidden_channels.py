"""Remembers the channels that refused the bot, and leaves them alone for an hour: each refusal counts against it."""

from __future__ import annotations

import contextlib
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator

import discord

THREAD_ARCHIVED, THREAD_LOCKED = 50083, 160005
"""Discord's codes. A message opens an archived thread by itself, so one that is refused as archived is locked, too."""
_NOT_THE_CHANNEL = (THREAD_LOCKED, 20009, 50005, 200000, 200001, 240000)
"""Refusals that a moderator may undo at any time, or that are about one text or one message: the next may be taken."""
_FORBIDDEN_FOR = 3600.0
"""Seconds for which a channel that refused a message is left alone."""
_MAX_FORBIDDEN = 10_000


class ChannelForbidden(Exception):
    """The bot was refused in this channel within the last hour: nothing was sent."""


class ForbiddenChannels:
    """The channels that refused a message within the last hour."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since: OrderedDict[int, float] = OrderedDict()

    @contextlib.contextmanager
    def once(self, channel_id: int, *, remember: bool = True) -> Iterator[None]:
        """Raise ChannelForbidden in a channel that refused the bot within the last hour; remember one that does so now.

        `remember`: not for a file, since the channel may take messages without one.
        """
        since = self._since.get(channel_id)
        if since is not None and self._clock() - since < _FORBIDDEN_FOR:
            raise ChannelForbidden(str(channel_id))
        try:
            yield
        except discord.Forbidden as error:
            if remember and error.code not in _NOT_THE_CHANNEL:
                self._since[channel_id] = self._clock()
                self._since.move_to_end(channel_id)
                if len(self._since) > _MAX_FORBIDDEN:
                    self._since.popitem(last=False)
            raise
