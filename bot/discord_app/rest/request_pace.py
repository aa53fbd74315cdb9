"""Spaces the bot's requests so that Discord never has to refuse one, and lets the urgent ones go first.

Discord counts requests per channel and kind of route, per webhook, and all requests of the bot together; those with
an interaction's token count apart, and need no turn here. discord.py waits once a bucket is empty, in order of arrival;
here a final text overtakes the edits of texts that still grow. The limits are those of the responses' headers, and
DEFAULT_LIMITS until the first response. A request counts until its period has passed after its response, so that no
delay on the way can bring two of them closer together. Knows no message and no text.
"""

from __future__ import annotations

import asyncio
import enum
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["create", "edit", "delete", "typing", "webhook", "other"]

DEFAULT_LIMITS: Mapping[Kind, tuple[int, float]] = {
    "create": (5, 5.0),
    "edit": (5, 5.0),
    "delete": (5, 1.0),
    "typing": (5, 5.0),
    "webhook": (5, 2.0),
}
"""For each channel, or webhook: number of requests, and the seconds of the period. A webhook has one for all kinds."""
GLOBAL_LIMIT = (48, 1.0)
"""For all requests with the bot's token; Discord allows 50."""
_MARGIN = 0.05  # seconds
_MAX_WINDOWS = 1000


class Urgency(enum.IntEnum):
    """The order in which waiting requests are sent."""

    FINAL = 0
    """The text that stays: a finished reply, an error."""
    FIRST = 1
    """The first words of a reply."""
    LIVE = 2
    """A reply that grows: the next edit shows what this one would have shown."""
    STATUS = 3
    """The place in line."""
    TYPING = 4


# How many requests of the period each urgency leaves to the ones before it: in a channel, and of all.
_CHANNEL_RESERVE = {Urgency.LIVE: 1, Urgency.STATUS: 2}
_GLOBAL_RESERVE = {Urgency.LIVE: 12, Urgency.STATUS: 32, Urgency.TYPING: 44}


@dataclass(slots=True)
class _Window:
    """At most `limit` requests in any `period` seconds; in a channel one after the other."""

    limit: int
    period: float
    serial: bool
    num_running: int = 0
    responded_at: deque[float] = field(default_factory=deque)

    def forget_old(self, now: float) -> None:
        while self.responded_at and self.responded_at[0] <= now - self.period - _MARGIN:
            self.responded_at.popleft()

    def is_free(self, reserve: int) -> bool:
        if self.serial and self.num_running:
            return False
        return self.num_running + len(self.responded_at) < self.limit - min(reserve, self.limit - 1)

    @property
    def next_change(self) -> float | None:
        """When the oldest request no longer counts."""
        return self.responded_at[0] + self.period + _MARGIN if self.responded_at else None


class Turn:
    """The right to send one request now."""

    def __init__(self, pace: RequestPace, kind: Kind, windows: tuple[_Window, ...]) -> None:
        self.is_sent = False
        """Set when the request is sent: one that never was does not count."""
        self.status = 0
        """Of the last response."""
        self.kind: Kind = kind
        self._pace = pace
        self._windows = windows
        self._is_over = False

    def responded(self, headers: Mapping[str, str] | None = None) -> None:
        """End the turn: the response has come, or none will. Idempotent."""
        if self._is_over:
            return
        self._is_over = True
        if headers is not None:
            self._pace.learn(self.kind, headers)
        self._pace.release(self._windows, counts=self.is_sent)


@dataclass(slots=True)
class _Waiter:
    urgency: Urgency
    windows: tuple[_Window, ...]
    granted: asyncio.Future[None]
    has_turn: bool = False


class RequestPace:
    """The turns of one bot's requests."""

    def __init__(self) -> None:
        self._all = _Window(*GLOBAL_LIMIT, serial=False)
        self._limits = dict(DEFAULT_LIMITS)
        self._windows: OrderedDict[tuple[Kind, int], _Window] = OrderedDict()
        self._waiters: list[_Waiter] = []
        self._timer: asyncio.TimerHandle | None = None

    @asynccontextmanager
    async def turn(self, kind: Kind, channel_id: int, urgency: Urgency) -> AsyncIterator[Turn]:
        """Wait until one request of this kind may be sent to this channel or webhook. It is sent within the block."""
        windows = (self._all, *self._channel_window(kind, channel_id))
        waiter = _Waiter(urgency, windows, asyncio.get_running_loop().create_future())
        self._waiters.append(waiter)
        self._waiters.sort(key=lambda each: each.urgency)  # stable: in order of arrival among equals
        self._grant()
        try:
            await waiter.granted
        except asyncio.CancelledError:
            if waiter.has_turn:
                self.release(windows, counts=False)
            raise
        turn = Turn(self, kind, windows)
        try:
            yield turn
        finally:
            turn.responded()

    def learn(self, kind: Kind, headers: Mapping[str, str]) -> None:
        """Take the limit from a response's headers; the period is what is left of it after its first request."""
        try:
            limit, remaining = int(headers["X-RateLimit-Limit"]), int(headers["X-RateLimit-Remaining"])
            reset_after = float(headers["X-RateLimit-Reset-After"])
        except (KeyError, ValueError):
            return
        known = self._limits.get(kind)
        if known is None or limit < 1:
            return
        period = reset_after if remaining == limit - 1 and reset_after > 0 else known[1]
        if abs(period - known[1]) < _MARGIN:
            period = known[1]
        if (limit, period) != known:
            self._limits[kind] = (limit, period)
            for (each, _), window in self._windows.items():
                if each == kind:
                    window.limit, window.period = limit, period

    def release(self, windows: tuple[_Window, ...], *, counts: bool) -> None:
        """End one request's turn. `counts`: whether it was sent."""
        now = asyncio.get_running_loop().time()
        for window in windows:
            window.num_running -= 1
            if counts:
                window.responded_at.append(now)
        self._grant()

    def _channel_window(self, kind: Kind, channel_id: int) -> tuple[_Window, ...]:
        limit = self._limits.get(kind)
        if limit is None:
            return ()
        window = self._windows.pop((kind, channel_id), None) or _Window(*limit, serial=True)
        self._windows[kind, channel_id] = window
        if len(self._windows) > _MAX_WINDOWS:
            oldest = next(iter(self._windows))
            if not self._windows[oldest].num_running:
                del self._windows[oldest]
        return (window,)

    def _grant(self) -> None:
        """Grant all turns that the limits allow now, the most urgent first, and run again for the next one."""
        now = asyncio.get_running_loop().time()
        changes: set[float] = set()
        left: list[_Waiter] = []
        for waiter in self._waiters:
            if waiter.granted.done():  # cancelled
                continue
            if self._may_go(waiter, now):
                for window in waiter.windows:
                    window.num_running += 1
                waiter.has_turn = True
                waiter.granted.set_result(None)
            else:
                left.append(waiter)
                changes |= {at for each in waiter.windows if (at := each.next_change) is not None}
        self._waiters = left
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if changes:
            self._timer = asyncio.get_running_loop().call_at(max(min(changes), now + 0.001), self._grant)

    def _may_go(self, waiter: _Waiter, now: float) -> bool:
        for window in waiter.windows:
            window.forget_old(now)
        reserves = (_GLOBAL_RESERVE.get(waiter.urgency, 0), _CHANNEL_RESERVE.get(waiter.urgency, 0))
        return all(window.is_free(reserve) for window, reserve in zip(waiter.windows, reserves, strict=False))
