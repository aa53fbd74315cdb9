"""Shows "is typing" in a channel while replies are written there: one request for all of them, as Discord shows one."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterator

from bot.discord_app.delivery import DISCORD_ERRORS
from bot.discord_app.rest.message_api import MessageApi

_INTERVAL = 8.0  # seconds; Discord shows it for ten


class TypingIndicator:
    """The channels in which the bot is typing."""

    def __init__(self, api: MessageApi) -> None:
        self._api = api
        self._num_replies: Counter[int] = Counter()
        self._tasks: dict[int, asyncio.Task[None]] = {}

    @contextlib.contextmanager
    def shown_in(self, channel_id: int) -> Iterator[None]:
        """Show "is typing" in this channel until the block ends."""
        self._num_replies[channel_id] += 1
        if channel_id not in self._tasks:
            self._tasks[channel_id] = asyncio.create_task(self._type(channel_id), name="typing")
        try:
            yield
        finally:
            self._num_replies[channel_id] -= 1
            if not self._num_replies[channel_id]:
                del self._num_replies[channel_id]
                self._tasks.pop(channel_id).cancel()

    async def _type(self, channel_id: int) -> None:
        with contextlib.suppress(*DISCORD_ERRORS):
            while True:
                await self._api.typing(channel_id)
                await asyncio.sleep(_INTERVAL)
