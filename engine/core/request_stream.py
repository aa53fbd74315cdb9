"""A reply while it is generated, as its caller sees it: token ids as they arrive, then the reason why it ended.

It knows asyncio and threads, but neither torch nor the scheduler. Ids that the caller has not read stay here, at most
`max_tokens` of them, so a slow reader delays no other request.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from engine.errors import EngineError
from engine.logits_params import TokenLogprobs
from engine.scheduler.request import FinishReason, Usage


class EngineDead(EngineError):
    """The engine has failed or was closed, and accepts no more requests."""


class RequestFailed(EngineError):
    """This reply cannot be finished."""


@dataclass(frozen=True, slots=True)
class RequestOutput:
    """What one step produced for one request. `finish_reason` is set in the last one."""

    token_ids: tuple[int, ...]
    usage: Usage
    finish_reason: FinishReason | None = None
    error: str | None = None
    logprobs: tuple[TokenLogprobs, ...] = ()  # of each id, if the request asked for them


class RequestStream:
    """`async for ids in stream` yields lists of new token ids, without the stop token.

    At the end `finish_reason` and `usage` are set. A reply that cannot be finished raises RequestFailed after the ids
    that were generated. Where no event loop runs, use `result`, which blocks.
    """

    def __init__(
        self, num_prompt_tokens: int, cancel: Callable[[], None], loop: asyncio.AbstractEventLoop | None
    ) -> None:
        self.loop = loop
        self.token_ids: list[int] = []
        self.logprobs: list[TokenLogprobs] = []  # of each of `token_ids`, if the request asked for them
        self.usage = Usage(num_prompt_tokens, 0, 0)
        self.finish_reason: FinishReason | None = None
        self.error: str | None = None
        # Of time.monotonic(), for traces; the engine thread sets the last two.
        self.submitted_at = time.monotonic()
        self.first_step_at: float | None = None
        self.first_token_at: float | None = None
        self._cancel = cancel
        self._num_read = 0
        self._new_output = asyncio.Event()
        self._finished = asyncio.Event()
        self._done = threading.Event()

    def cancel(self) -> None:
        """End the reply after the running step. May be called from any thread, and after the reply has ended."""
        if not self._done.is_set():
            self._cancel()

    def deliver(self, output: RequestOutput) -> None:
        """Append an output. Called on the event loop's thread, or on the engine thread if there is no loop."""
        if self._done.is_set():
            return
        self.token_ids += output.token_ids
        self.logprobs += output.logprobs
        self.usage = output.usage
        if output.finish_reason is not None:
            self.error, self.finish_reason = output.error, output.finish_reason
            self._done.set()
            self._cancel = _do_nothing  # breaks a reference cycle, which only a full garbage collection would free
        if self.loop is not None:
            self._new_output.set()
            if self.finish_reason is not None:
                self._finished.set()

    async def wait_for_more(self, seconds: float) -> None:
        """Let ids accumulate for `seconds`, or until the reply ends."""
        if self.finish_reason is None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._finished.wait()

    def result(self, timeout: float | None = None) -> list[int]:
        """All ids of the reply, once it has ended. Blocks, so not for an event loop's thread.

        Raises TimeoutError after `timeout` seconds, and RequestFailed.
        """
        if not self._done.wait(timeout):
            raise TimeoutError("the reply is not finished")
        if self.error is not None:
            raise RequestFailed(self.error)
        return self.token_ids

    def __aiter__(self) -> "RequestStream":
        return self

    async def __anext__(self) -> list[int]:
        while self._num_read == len(self.token_ids) and self.finish_reason is None:
            self._new_output.clear()
            await self._new_output.wait()
        new = self.token_ids[self._num_read :]
        if new:
            self._num_read = len(self.token_ids)
            return new
        if self.error is not None:
            raise RequestFailed(self.error)
        raise StopAsyncIteration


def _do_nothing() -> None:
    """What cancels a request that has ended."""
