"""The requests that the engine has accepted and not finished: how many may enter, and how outputs reach their callers.

This is where outputs leave the engine thread. A caller on an event loop gets them through that loop's
`call_soon_threadsafe`, with one call for each loop and step. A caller without a loop gets them directly.

It knows limits and event loops, but neither plans nor torch. Any thread may call it.
"""

import asyncio
import contextlib
import threading
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from engine.config import EngineConfig
from engine.core.request_stream import EngineDead, RequestOutput, RequestStream
from engine.errors import Busy
from engine.scheduler.request import FinishReason, Request

MIN_RETRY_AFTER: Final = 1.0  # seconds that a refused client is told to wait
MAX_RETRY_AFTER: Final = 60.0


@dataclass(slots=True, eq=False)
class RequestState:
    """A request and the stream of its caller. Times are of time.monotonic()."""

    request: Request
    stream: RequestStream
    submitted_at: float
    first_token_at: float | None = None


class OutputProcessor:
    """All unfinished requests, at most `max_num_seqs + max_waiting` of them, or twice that (see `add_request`)."""

    def __init__(self, config: EngineConfig) -> None:
        self._max_num_seqs, self._max_requests = config.max_num_seqs, config.max_num_seqs + config.max_waiting
        self._lock = threading.Lock()
        self._requests: dict[Request, RequestState] = {}
        self._tenants: Counter[str] = Counter()
        self._closed_because: str | None = None
        self._mean_reply_seconds = 1.0  # from first token to end, exponential moving average

    def __len__(self) -> int:
        return len(self._requests)

    def __getitem__(self, request: Request) -> RequestState:
        return self._requests[request]

    def add_request(self, request: Request, stream: RequestStream) -> RequestState:
        """Accept a request. Raises Busy or EngineDead.

        The limit is doubled for a tenant without any unfinished request, so that other tenants cannot lock it out.
        """
        with self._lock:
            if self._closed_because is not None:
                raise EngineDead(self._closed_because)
            is_new_tenant = not self._tenants[request.tenant]
            if len(self._requests) >= (2 * self._max_requests if is_new_tenant else self._max_requests):
                batches_ahead = (self._max_requests - self._max_num_seqs) / self._max_num_seqs
                retry_after = batches_ahead * self._mean_reply_seconds
                raise Busy(min(MAX_RETRY_AFTER, max(MIN_RETRY_AFTER, retry_after)))
            state = self._requests[request] = RequestState(request, stream, time.monotonic())
            self._tenants[request.tenant] += 1
        return state

    def publish(self, outputs: Iterable[tuple[RequestState, RequestOutput]]) -> None:
        """Send outputs to their streams, and drop the requests that have ended."""
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[RequestStream, RequestOutput]]] = {}
        for state, output in outputs:
            if output.finish_reason is not None:
                self._remove(state)
            if state.stream.loop is None:
                state.stream.deliver(output)
            else:
                by_loop.setdefault(state.stream.loop, []).append((state.stream, output))
        for loop, batch in by_loop.items():
            with contextlib.suppress(RuntimeError):  # the loop is closed, so no task can be waiting
                loop.call_soon_threadsafe(_deliver_all, batch)

    def close(self, reason: str) -> None:
        """Accept no more requests; those accepted before go on. Later requests get the first `reason` given."""
        with self._lock:
            self._closed_because = self._closed_because or reason

    def finish_all(self, reason: FinishReason, error: str | None = None) -> None:
        """End every unfinished request as its caller sees it. Does not tell the scheduler."""
        with self._lock:
            unfinished = list(self._requests.values())
        self.publish([(state, RequestOutput((), state.request.usage, reason, error)) for state in unfinished])

    def _remove(self, state: RequestState) -> None:
        with self._lock:
            if self._requests.pop(state.request, None) is None:
                return
            self._tenants -= Counter([state.request.tenant])  # also drops zero counts
            if state.first_token_at is not None:
                seconds = time.monotonic() - state.first_token_at
                self._mean_reply_seconds += 0.1 * (seconds - self._mean_reply_seconds)


def _deliver_all(batch: list[tuple[RequestStream, RequestOutput]]) -> None:
    for stream, output in batch:
        stream.deliver(output)
