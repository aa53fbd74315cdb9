"""How a server's requests and health checks change what it is sent."""

from __future__ import annotations

from bot.engine_client.replicas.condition import FIRST_REST, LONGEST_REST, Condition


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def made() -> tuple[Condition, Clock, list[str]]:
    clock, states = Clock(), []
    return Condition(lambda state, reason: states.append(state), clock), clock, states


def test_one_useless_answer_may_be_the_prompts_fault():
    condition, _, states = made()
    condition.useless("500")
    assert condition.takes_requests
    condition.answered()
    condition.useless("500")
    assert condition.takes_requests
    assert states == []


def test_two_in_a_row_make_it_rest_and_each_failed_trial_doubles_that():
    condition, clock, _ = made()
    condition.useless("500")
    condition.useless("500")
    rest = FIRST_REST
    for _ in range(10):
        assert condition.state == "resting"
        condition.check_succeeded()  # a health check does not see what is wrong
        clock.now += rest - 0.1
        assert not condition.takes_requests
        clock.now += 0.2
        assert condition.takes_requests
        condition.begin()
        assert not condition.takes_requests, "one request at a time is a trial"
        condition.useless("500")
        rest = min(LONGEST_REST, rest * 2)
    clock.now += rest
    condition.begin()
    condition.answered()
    assert condition.state == "well"
    condition.useless("500")
    condition.useless("500")
    clock.now += FIRST_REST + 0.1
    assert condition.takes_requests, "a success makes rests short again"


def test_one_that_is_away_comes_back_after_a_health_check_and_an_answer():
    condition, clock, states = made()
    condition.not_there("refused")
    clock.now += 10_000
    assert not condition.takes_requests
    condition.check_succeeded()
    assert condition.takes_requests
    condition.begin()
    assert not condition.takes_requests
    condition.left()  # the member stopped the reply: nothing is known
    assert condition.takes_requests
    condition.begin()
    condition.answered()
    assert states == ["away", "trial", "well"]


def test_a_busy_server_may_miss_one_health_check():
    condition, _, _ = made()
    condition.check_missed()
    assert condition.state == "well"
    condition.check_succeeded()
    condition.check_missed()
    assert condition.state == "well"
    condition.check_missed()
    assert condition.state == "away"
