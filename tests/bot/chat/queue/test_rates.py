"""Messages a minute: never more than a bucket holds and gets back, and what is told of the return is true."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.chat.queue.limiter import Limiter
from bot.chat.queue.rates import Buckets
from bot.errors import TooManyMessages
from models.types import DialogKey, Limits, ReplyLimits

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds

    def now(self) -> datetime:
        return NOW + timedelta(seconds=self.seconds - 1000)


@given(st.integers(1, 60), st.lists(st.one_of(st.just(0.0), st.floats(0, 90)), max_size=120))
def test_in_no_stretch_of_time_come_more_than_a_full_bucket_and_what_returned_meanwhile(
    limit: int, pauses: list[float]
) -> None:
    clock, taken = Clock(), []
    buckets = Buckets(clock)
    for pause in pauses:
        clock.seconds += pause
        left = buckets.left("ann", limit)
        wait = buckets.seconds_until("ann", limit)
        assert (wait == 0.0) == (left >= 1)
        if wait:
            clock.seconds += wait * 0.99
            assert buckets.seconds_until("ann", limit) > 0  # not earlier than was told
            clock.seconds += wait * 0.01 + 1e-6
        assert buckets.seconds_until("ann", limit) == 0.0  # and not later
        buckets.take("ann", limit)
        taken.append(clock.seconds)
    for first in range(len(taken)):
        for last in range(first, len(taken)):
            allowed = limit + (taken[last] - taken[first]) * limit / 60
            assert last - first + 1 <= allowed + 1e-3


@given(st.integers(1, 60), st.integers(0, 100))
def test_a_minute_later_all_may_come_again_and_keys_are_apart(limit: int, count: int) -> None:
    clock = Clock()
    buckets = Buckets(clock)
    for _ in range(min(limit, count)):
        buckets.take("ann", limit)
    assert buckets.left("bob", limit) == limit
    clock.seconds += buckets.seconds_until("ann", limit, limit)
    assert buckets.left("ann", limit) == limit
    assert clock.seconds <= 1060


def test_the_refusal_says_whose_limit_it_is_and_when_it_returns() -> None:
    clock = Clock()
    limiter = Limiter(clock, clock.now)
    ann, bob, cid = (DialogKey(1, user, channel_id=user) for user in (10, 11, 12))
    limits = ReplyLimits(Limits(minute_messages=2), Limits(minute_messages=3))
    limiter.take(ann, limits)
    limiter.take(DialogKey(1, 10, channel_id=99, shared=True), limits)  # the same member elsewhere in the guild
    with pytest.raises(TooManyMessages) as own:
        limiter.take(ann, limits)
    assert (own.value.by, own.value.returns_at) == ("member", clock.now() + timedelta(seconds=30))
    assert f"2 messages a minute. Ask me again <t:{int(own.value.returns_at.timestamp())}:R>." in own.value.user_message
    limiter.take(bob, limits)
    with pytest.raises(TooManyMessages) as everybody:
        limiter.take(cid, limits)
    assert everybody.value.by == "guild"
    limiter.take(DialogKey(2, 12), limits)  # another guild
    limiter.take(DialogKey(0, 12), limits)  # in direct messages there is none
    clock.seconds += 20
    limiter.take(cid, limits)
    limiter.take(ann, limits, is_repeat=True)  # counted, and not refused
    left = limiter.left(ann, limits.member, "member")
    assert (left.messages, left.all_back_at) == (0, clock.now() + timedelta(seconds=(3 - 20 / 30) * 30))


def test_a_refused_message_counts_for_nobody() -> None:
    clock = Clock()
    limiter = Limiter(clock, clock.now)
    limits = ReplyLimits(Limits(minute_messages=5), Limits(minute_messages=1))
    limiter.take(DialogKey(1, 10), limits)
    for _ in range(10):
        with pytest.raises(TooManyMessages):
            limiter.take(DialogKey(1, 11), limits)
    assert limiter.left(DialogKey(1, 11), limits.member, "member").messages == 5
    clock.seconds += 60
    limiter.take(DialogKey(1, 11), limits)


def test_a_bucket_that_is_full_again_takes_no_memory() -> None:
    """Else each member who ever wrote would be kept, and memory would grow for months."""
    clock = Clock()
    buckets = Buckets(clock)
    for number in range(1000):
        buckets.take(f"member {number}", 30)
        buckets.take("guild", 600)
        clock.seconds += 1.0
    assert len(buckets) <= 4  # two seconds bring one of thirty back
    assert buckets.left("guild", 600) == 600
    for _ in range(5):
        buckets.take("ann", 30)
    clock.seconds += 9.0
    buckets.take("bob", 30)
    assert buckets.left("ann", 30) == 25 + 4  # she is not forgotten before
