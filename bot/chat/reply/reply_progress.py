"""What becomes known while one reply is generated, and who is told: the queue, the estimate of waits, the screen.

Knows the callbacks of a request; knows neither the engine nor the database.
"""

from __future__ import annotations

from collections.abc import Callable

from bot.chat.queue.wait_estimate import MeasuredReply, WaitEstimate
from bot.chat.queue.waiting import Waiting
from bot.chat.reply.generation import ThoughtWatcher
from bot.chat.reply.live_filter import LiveFilter
from bot.chat.requests import ChatRequest


class ReplyProgress:
    """The progress of one reply, from its first token to its end."""

    def __init__(
        self,
        request: ChatRequest,
        waiting: Waiting,
        live: LiveFilter,
        estimate: WaitEstimate,
        *,
        shows_thinking_time: bool,
    ) -> None:
        self.on_first_token: list[Callable[[], None]] = []
        """Called once, when the reply waits no more."""
        self._request = request
        self._waiting = waiting
        self._live = live
        self._estimate = estimate
        self._shows_thinking_time = shows_thinking_time
        self._measured: MeasuredReply | None = None

    @property
    def watcher(self) -> ThoughtWatcher:
        """What is told of thoughts."""
        return ThoughtWatcher(self._thinking, self._thought)

    async def push(self, piece: str, count: int = 1) -> None:
        """More of the answer came. `count`: in how many pieces the server sent it."""
        self._count_tokens(count)
        self._waiting.thinking = False
        await self._live.push(piece)

    def written(self) -> None:
        """The model has written the whole reply."""
        if self._measured is not None:
            self._measured.end()

    def end(self, *, failed: bool) -> None:
        """The turn has ended. `failed`: the length of the reply means nothing."""
        if self._measured is not None:
            self._measured.end(failed=failed)

    def _count_tokens(self, count: int) -> None:
        if self._measured is None:
            for call in self.on_first_token:
                call()
            self._measured = self._estimate.first_token(self._request.key.dialog)
            count -= 1
        if count:
            self._measured.tokens(count)

    def _thinking(self, count: int) -> None:
        self._count_tokens(count)
        self._waiting.thinking = True

    def _thought(self, seconds: float) -> None:
        self._live.restart()
        self._request.on_thought(seconds if self._shows_thinking_time else None)
