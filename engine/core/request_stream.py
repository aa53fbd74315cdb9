"""A reply in the making, as whoever submitted the request sees it: token ids as they come, then how it ended.

It knows asyncio and threads, and neither torch nor the scheduler. Ids that nobody has read yet wait here; there are at
most `max_tokens` of them, and nobody else waits for a slow reader.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass

from engine.errors import EngineError
from engine.scheduler.request import FinishReason, Usage


class EngineDead(EngineError):
    """The engine has failed or was closed; nothing can be submitted any more."""


class RequestFailed(EngineError):
    """This reply cannot be finished."""


@dataclass(frozen=True, slots=True)
class RequestOutput:
    """What one step brought for one reply."""

    token_ids: tuple[int, ...]
    usage: Usage
    finish_reason: FinishReason | None = None
    error: str | None = None


class RequestStream:
    """`async for ids in generation` yields lists of new token ids (stop tokens are not among them).

    At its end `finish_reason` and `usage` are set. A reply that cannot be finished raises GenerationFailed after the
    ids that it did make. Without a running event loop use `result`, which blocks.
    """

    def __init__(self, prompt_tokens: int, cancel: Callable[[], None], loop: asyncio.AbstractEventLoop | None) -> None:
        self.loop = loop
        self.token_ids: list[int] = []
        self.usage = Usage(prompt_tokens, 0, 0)
        self.finish_reason: FinishReason | None = None
        self.error: str | None = None
        self._cancel = cancel
        self._unread = 0
        self._new_output = asyncio.Event()
        self._finished = asyncio.Event()
        self._done = threading.Event()

    def cancel(self) -> None:
        """Stop as soon as the running step is over. Harmless when it has ended already, and from any thread."""
        if not self._done.is_set():
            self._cancel()

    def deliver(self, update: RequestOutput) -> None:
        """Called on the event loop's thread, or on the engine's when there is no loop."""
        if self._done.is_set():
            return
        self.token_ids += update.token_ids
        self.usage = update.usage
        if update.finish_reason is not None:
            self.error, self.finish_reason = update.error, update.finish_reason
            self._done.set()
        if self.loop is not None:
            self._new_output.set()
            if self.finish_reason is not None:
                self._finished.set()

    async def wait_for_more(self, seconds: float) -> None:
        """Lets ids gather for so long, or until the reply has ended."""
        if self.finish_reason is None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._finished.wait()

    def result(self, timeout: float | None = None) -> list[int]:
        """All ids of the reply, waiting for its end. Not for the event loop's thread."""
        if not self._done.wait(timeout):
            raise TimeoutError("the reply is not finished")
        if self.error is not None:
            raise RequestFailed(self.error)
        return self.token_ids

    def __aiter__(self) -> "RequestStream":
        return self

    async def __anext__(self) -> list[int]:
        while self._unread == len(self.token_ids) and self.finish_reason is None:
            self._new_output.clear()
            await self._new_output.wait()
        new = self.token_ids[self._unread :]
        if new:
            self._unread = len(self.token_ids)
            return new
        if self.error is not None:
            raise RequestFailed(self.error)
        raise StopAsyncIteration
