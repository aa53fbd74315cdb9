"""How long a message will wait for its first token, from the measured speed and length of replies.

A moving average of the tokens per second of one reply, and one of the length of replies, give the time that a reply
takes. The engine is taken to write as many replies at once as it does now. Pure arithmetic on a clock that is passed
in; a token is here one piece of a stream, also from servers that send several tokens in one: only the quotient counts.
"""

from __future__ import annotations

import heapq
import math
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence

_HALF_LIFE = 20.0
"""Seconds after which a measured speed counts half: it depends on how many replies are written at once."""
_LENGTH_WEIGHT = 0.1
"""Weight of the last reply in the average length, once there were ten."""
_REMEMBERED = 600.0
"""Seconds for which the most replies at once are remembered."""
_OVERDUE = 0.25
"""What is left of a reply that is longer than the average, as a share of the average."""


class MeasuredReply:
    """A reply that is being written."""

    def __init__(self, estimate: WaitEstimate, dialog: Hashable, now: float) -> None:
        self.dialog = dialog
        self.started_at = self.last_at = now
        self.num_tokens = 1
        self._estimate = estimate

    def tokens(self, count: int = 1) -> None:
        """More tokens came, `count` of them together."""
        self._estimate.count_tokens(self, count)

    def end(self, *, failed: bool = False) -> None:
        """The reply is written, or stopped. `failed`: its length means nothing. Idempotent."""
        self._estimate.end(self, failed=failed)


class WaitEstimate:
    """Measures all replies of this process."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._running: dict[MeasuredReply, None] = {}
        self._tokens = self._seconds = 0.0  # what the speed is the quotient of; both fade
        self._faded_at = clock()
        self._length = 0.0
        self._num_ended = 0
        self._most_at_once, self._most_at = 0, clock()
        self.last_token_at = -math.inf
        """When the last token of any reply came, by the clock."""

    def first_token(self, dialog: Hashable) -> MeasuredReply:
        """A reply has its first token, and no longer waits."""
        reply = MeasuredReply(self, dialog, self._clock())
        self.last_token_at = reply.last_at
        self._running[reply] = None
        return reply

    def count_tokens(self, reply: MeasuredReply, count: int) -> None:
        """Further tokens of a running reply came."""
        now = self._clock()
        fading = 0.5 ** ((now - self._faded_at) / _HALF_LIFE)
        self._faded_at = now
        self._tokens = self._tokens * fading + count
        self._seconds = self._seconds * fading + (now - reply.last_at)
        reply.num_tokens += count
        reply.last_at = self.last_token_at = now
        # Not at the first token: the reply before it may have ended although nobody has read its end yet.
        if len(self._running) >= self._most_at_once or now - self._most_at > _REMEMBERED:
            self._most_at_once, self._most_at = len(self._running), now

    def end(self, reply: MeasuredReply, *, failed: bool) -> None:
        """A running reply ended. Idempotent."""
        if reply not in self._running:
            return
        del self._running[reply]
        if not failed:
            self._num_ended += 1
            self._length += (reply.num_tokens - self._length) * max(_LENGTH_WEIGHT, 1 / self._num_ended)

    @property
    def tokens_per_second(self) -> float | None:
        """The present speed of one reply; None if nothing was measured yet."""
        return self._tokens / self._seconds if self._seconds > 0 else None

    @property
    def average_length(self) -> float | None:
        """Tokens of a reply; None if none has ended yet."""
        return self._length if self._num_ended else None

    @property
    def most_at_once(self) -> int:
        """How many replies the engine has lately been seen to write at once; 0 if none."""
        return self._most_at_once

    def seconds(self, line: Sequence[Hashable]) -> float | None:
        """Seconds until the last message in line gets its first token; None if that cannot be said.

        `line`: the dialog of each waiting message, in order. The messages of one dialog are answered one after the
        other. Without a running reply the load of the engine is unknown.
        """
        speed = self.tokens_per_second
        if not line or speed is None or not self._num_ended or not self._running:
            return None
        duration = self._length / speed
        now = self._clock()
        ready: dict[Hashable, float] = {}  # when the message of a dialog that is served has its reply
        free: list[float] = []  # when each of the replies that are written at once ends
        for reply in self._running:
            left = max(duration - (now - reply.started_at), duration * _OVERDUE)
            heapq.heappush(free, left)
            ready[reply.dialog] = max(ready.get(reply.dialog, 0.0), left)
        waiting: dict[Hashable, deque[int]] = {}
        for place, dialog in enumerate(line):
            waiting.setdefault(dialog, deque()).append(place)
        while True:
            # The engine serves messages in the order in which it gets them: each dialog's next one, once it is ready.
            dialog = min(waiting, key=lambda each: (ready.get(each, 0.0), waiting[each][0]))
            place = waiting[dialog].popleft()
            start = max(ready.get(dialog, 0.0), heapq.heappop(free))
            if place == len(line) - 1:
                return start
            ready[dialog] = start + duration
            heapq.heappush(free, ready[dialog])
            if not waiting[dialog]:
                del waiting[dialog]
