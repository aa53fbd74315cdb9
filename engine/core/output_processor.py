"""The replies in the making: how many there may be, who waits for each, and the news that reach them.

Any thread may open and deliver; whoever waits on an event loop gets all that a step brought in one call. It knows
limits and loops, and neither plans nor torch.
"""

import asyncio
import contextlib
import threading
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from engine.config import EngineConfig
from engine.core.request_stream import EngineDead, Generation, Update
from engine.errors import Busy
from engine.scheduler.request import FinishReason, Request

LEAST_WAIT, MOST_WAIT = 1.0, 60.0  # seconds that a refused client is told to wait


@dataclass(slots=True, eq=False)
class Reply:
    """One request and whoever waits for it; times are of time.monotonic()."""

    request: Request
    generation: Generation
    submitted: float
    first_id: float | None = None


class Desk:
    def __init__(self, config: EngineConfig) -> None:
        self._rows, self._limit = config.max_batch, config.max_batch + config.max_waiting
        self._lock = threading.Lock()
        self._replies: dict[Request, Reply] = {}
        self._tenants: Counter[str] = Counter()
        self._closed: str | None = None
        self._mean_seconds = 1.0  # of a reply, lately

    def __len__(self) -> int:
        return len(self._replies)

    def __getitem__(self, request: Request) -> Reply:
        return self._replies[request]

    def open(self, request: Request, generation: Generation) -> Reply:
        """Raises Busy or EngineDead. A tenant that has nothing here yet still gets in when others have filled it."""
        with self._lock:
            if self._closed is not None:
                raise EngineDead(self._closed)
            newcomer = not self._tenants[request.tenant]
            if len(self._replies) >= (2 * self._limit if newcomer else self._limit):
                waves = (self._limit - self._rows) / self._rows
                raise Busy(min(MOST_WAIT, max(LEAST_WAIT, waves * self._mean_seconds)))
            reply = self._replies[request] = Reply(request, generation, time.monotonic())
            self._tenants[request.tenant] += 1
        return reply

    def deliver(self, updates: Iterable[tuple[Reply, Update]]) -> None:
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[Generation, Update]]] = {}
        for reply, update in updates:
            if update.finish_reason is not None:
                self._forget(reply)
            if reply.generation.loop is None:
                reply.generation.deliver(update)
            else:
                by_loop.setdefault(reply.generation.loop, []).append((reply.generation, update))
        for loop, batch in by_loop.items():
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(_hand_over, batch)

    def close(self, why: str) -> None:
        """From now on nothing is opened; what is open goes on until it ends."""
        with self._lock:
            self._closed = self._closed or why

    def end_all(self, reason: FinishReason, error: str | None = None) -> None:
        with self._lock:
            left = list(self._replies.values())
        self.deliver([(reply, Update((), reply.request.usage, reason, error)) for reply in left])

    def _forget(self, reply: Reply) -> None:
        with self._lock:
            if self._replies.pop(reply.request, None) is None:
                return
            self._tenants -= Counter([reply.request.tenant])  # drops what is zero
            if reply.first_id is not None:
                self._mean_seconds += 0.1 * (time.monotonic() - reply.first_id - self._mean_seconds)


def _hand_over(batch: list[tuple[Generation, Update]]) -> None:
    for generation, update in batch:
        generation.deliver(update)
