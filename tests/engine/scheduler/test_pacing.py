"""Large prompt steps when nobody waits for a token, and rarely otherwise."""

from engine.scheduler.token_budget import RARELY, SAVED, Pace


def test_without_bursts_every_step_is_alike() -> None:
    pace = Pace(chunk=64, burst=0, rows=8)
    assert [pace.budget(decoding) for decoding in (0, 1, 8)] == [64, 64, 64]


def test_bursts_are_rare_while_rows_decode() -> None:
    pace = Pace(chunk=480, burst=992, rows=32)
    assert pace.budget(0) == 1024
    taken = []
    for _ in range(1000):
        budget = pace.budget(decoding=20)
        pace.spent(20, budget)
        taken.append(budget)
    bursts = taken.count(992)
    assert taken[: int(SAVED)] == [992] * int(SAVED)
    assert SAVED < bursts <= SAVED + 1000 / RARELY + 1
    assert taken[100:].count(992) <= 900 / RARELY + 1


def test_small_steps_cost_no_credit_and_idleness_restores_it() -> None:
    pace = Pace(chunk=480, burst=992, rows=32)
    for _ in range(50):
        assert pace.budget(5) == 992
        pace.spent(5, 480)
    for _ in range(60):
        pace.spent(5, 992)
    assert pace.budget(5) == 480
    pace.budget(0)
    assert pace.budget(5) == 992
