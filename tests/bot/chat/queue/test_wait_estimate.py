"""The estimated wait, with a clock that the test moves."""

from __future__ import annotations

import pytest

from bot.chat.queue.wait_estimate import MeasuredReply, WaitEstimate


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def written(estimate: WaitEstimate, clock: Clock, tokens: int, pause: float, dialog: str = "someone") -> None:
    """One reply of so many tokens, from the first one to its end."""
    reply = estimate.first_token(dialog)
    more(reply, clock, tokens - 1, pause)
    reply.end()


def more(reply: MeasuredReply, clock: Clock, tokens: int, pause: float) -> None:
    for _ in range(tokens):
        clock.now += pause
        reply.tokens()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def estimate(clock: Clock) -> WaitEstimate:
    return WaitEstimate(clock)


def test_nothing_is_said_before_anything_was_measured(estimate: WaitEstimate, clock: Clock) -> None:
    assert estimate.seconds(["a"]) is None
    reply = estimate.first_token("b")
    more(reply, clock, 10, 0.1)
    assert estimate.seconds(["a"]) is None  # no reply has ended: nobody knows how long they are
    reply.end()
    assert estimate.seconds(["a"]) is None  # and none is running: nobody knows what the engine is busy with


def test_one_reply_at_a_time(estimate: WaitEstimate, clock: Clock) -> None:
    written(estimate, clock, 101, 0.1)
    assert estimate.tokens_per_second == pytest.approx(10)
    assert estimate.average_length == 101
    running = estimate.first_token("x")
    assert estimate.seconds(["a"]) == pytest.approx(10.1)
    assert estimate.seconds(["a", "b", "c"]) == pytest.approx(30.3)
    more(running, clock, 60, 0.1)
    assert estimate.seconds(["a"]) == pytest.approx(4.1)
    more(running, clock, 60, 0.1)  # longer than the others: it may end any moment
    assert estimate.seconds(["a"]) == pytest.approx(10.1 / 4)


def test_replies_that_are_written_at_once_free_the_engine_one_by_one(estimate: WaitEstimate, clock: Clock) -> None:
    written(estimate, clock, 100, 0.1)
    first = estimate.first_token("x")
    more(first, clock, 50, 0.1)
    second = estimate.first_token("y")
    assert estimate.seconds(["a"]) == pytest.approx(5, abs=0.1)
    assert estimate.seconds(["a", "b"]) == pytest.approx(10, abs=0.1)
    assert estimate.seconds(["a", "b", "c"]) == pytest.approx(15, abs=0.1)
    first.end()
    second.end()


def test_a_message_waits_for_the_one_before_it_in_its_dialog(estimate: WaitEstimate, clock: Clock) -> None:
    written(estimate, clock, 100, 0.1)
    for dialog in "xyz":
        estimate.first_token(dialog)
    assert estimate.seconds(["a"]) == pytest.approx(10, abs=0.1)
    assert estimate.seconds(["a", "a"]) == pytest.approx(20, abs=0.1)
    # One that waits for its own dialog does not hold up others, although it came before them.
    assert estimate.seconds(["x", "x", "x", "b"]) == pytest.approx(10, abs=0.1)


def test_the_speed_follows_the_present_one(estimate: WaitEstimate, clock: Clock) -> None:
    written(estimate, clock, 100, 0.1)
    running = estimate.first_token("x")
    more(running, clock, 100, 1.0)  # the engine became ten times slower
    assert estimate.tokens_per_second == pytest.approx(1, rel=0.1)


def test_the_length_is_a_moving_average_and_a_failed_reply_is_none(estimate: WaitEstimate, clock: Clock) -> None:
    for _ in range(30):
        written(estimate, clock, 100, 0.01)
    failed = estimate.first_token("x")
    failed.end(failed=True)
    failed.end()
    assert estimate.average_length == pytest.approx(100)
    for _ in range(30):
        written(estimate, clock, 200, 0.01)
    assert estimate.average_length == pytest.approx(200, rel=0.05)


def test_a_reply_that_came_in_one_piece_gives_no_speed(estimate: WaitEstimate, clock: Clock) -> None:
    written(estimate, clock, 1, 0.0)
    estimate.first_token("x")
    assert estimate.seconds(["a"]) is None
