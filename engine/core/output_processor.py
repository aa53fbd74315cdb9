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
from engine.core.request_stream import EngineDead, RequestOutput, RequestStream
from engine.errors import Busy
from engine.scheduler.request import FinishReason, Request

MIN_RETRY_AFTER, MAX_RETRY_AFTER = 1.0, 60.0  # seconds that a refused client is told to wait


@dataclass(slots=True, eq=False)
class RequestState:
    """One request and whoever waits for it; times are of time.monotonic()."""

    request: Request
    stream: RequestStream
    submitted_at: float
    first_token_at: float | None = None


class OutputProcessor:
    def __init__(self, config: EngineConfig) -> None:
        self._rows, self._limit = config.max_num_seqs, config.max_num_seqs + config.max_waiting
        self._lock = threading.Lock()
        self._requests: dict[Request, RequestState] = {}
        self._tenants: Counter[str] = Counter()
        self._closed: str | None = None
        self._mean_seconds = 1.0  # of a reply, lately

    def __len__(self) -> int:
        return len(self._requests)

    def __getitem__(self, request: Request) -> RequestState:
        return self._requests[request]

    def add_request(self, request: Request, generation: RequestStream) -> RequestState:
        """Raises Busy or EngineDead. A tenant that has nothing here yet still gets in when others have filled it."""
        with self._lock:
            if self._closed is not None:
                raise EngineDead(self._closed)
            newcomer = not self._tenants[request.tenant]
            if len(self._requests) >= (2 * self._limit if newcomer else self._limit):
                waves = (self._limit - self._rows) / self._rows
                raise Busy(min(MAX_RETRY_AFTER, max(MIN_RETRY_AFTER, waves * self._mean_seconds)))
            reply = self._requests[request] = RequestState(request, generation, time.monotonic())
            self._tenants[request.tenant] += 1
        return reply

    def publish(self, updates: Iterable[tuple[RequestState, RequestOutput]]) -> None:
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[RequestStream, RequestOutput]]] = {}
        for reply, update in updates:
            if update.finish_reason is not None:
                self._remove(reply)
            if reply.stream.loop is None:
                reply.stream.deliver(update)
            else:
                by_loop.setdefault(reply.stream.loop, []).append((reply.stream, update))
        for loop, batch in by_loop.items():
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(_hand_over, batch)

    def close(self, why: str) -> None:
        """From now on nothing is opened; what is open goes on until it ends."""
        with self._lock:
            self._closed = self._closed or why

    def finish_all(self, reason: FinishReason, error: str | None = None) -> None:
        with self._lock:
            left = list(self._requests.values())
        self.publish([(reply, RequestOutput((), reply.request.usage, reason, error)) for reply in left])

    def _remove(self, reply: RequestState) -> None:
        with self._lock:
            if self._requests.pop(reply.request, None) is None:
                return
            self._tenants -= Counter([reply.request.tenant])  # drops what is zero
            if reply.first_token_at is not None:
                self._mean_seconds += 0.1 * (time.monotonic() - reply.first_token_at - self._mean_seconds)


def _hand_over(batch: list[tuple[RequestStream, RequestOutput]]) -> None:
    for generation, update in batch:
        generation.deliver(update)
