"""Bursts of prompt tokens while no row decodes, and rarely otherwise."""

import pytest

from engine.scheduler.token_budget import MAX_SAVED_BURSTS, STEPS_PER_BURST, TokenBudget, counted_rows


def test_without_bursts_every_step_has_the_same_budget() -> None:
    token_budget = TokenBudget(max_prefill_tokens=64, burst_prefill_tokens=0, max_num_seqs=8)
    assert [token_budget.prefill_tokens(num_decoding) for num_decoding in (0, 1, 8)] == [64, 64, 64]


def test_bursts_are_rare_while_rows_decode() -> None:
    token_budget = TokenBudget(max_prefill_tokens=512, burst_prefill_tokens=1024, max_num_seqs=32, counts_rows=True)
    assert token_budget.prefill_tokens(0) == 1024
    budgets = []
    for _ in range(1000):
        budget = token_budget.prefill_tokens(num_decoding=20)
        token_budget.record_step(20, budget)
        budgets.append(budget)
    bursts = budgets.count(992)
    assert budgets[: int(MAX_SAVED_BURSTS)] == [992] * int(MAX_SAVED_BURSTS)
    assert MAX_SAVED_BURSTS < bursts <= MAX_SAVED_BURSTS + 1000 / STEPS_PER_BURST + 1
    assert budgets[100:].count(992) <= 900 / STEPS_PER_BURST + 1


def test_small_steps_use_no_saved_burst_and_idleness_restores_them() -> None:
    token_budget = TokenBudget(max_prefill_tokens=512, burst_prefill_tokens=1024, max_num_seqs=32, counts_rows=True)
    for _ in range(50):
        assert token_budget.prefill_tokens(5) == 992
        token_budget.record_step(5, 480)
    for _ in range(60):
        token_budget.record_step(5, 992)
    assert token_budget.prefill_tokens(5) == 480
    token_budget.prefill_tokens(0)
    assert token_budget.prefill_tokens(5) == 992


@pytest.mark.parametrize(
    ("num_decoding", "max_num_seqs", "rows"),
    [
        (1, 256, 32),
        (32, 256, 32),
        (33, 256, 64),
        (100, 256, 128),
        (129, 256, 256),
        (90, 96, 96),
        (70, 96, 96),
        (5, 8, 8),
    ],
)
def test_decoding_rows_count_in_steps(num_decoding: int, max_num_seqs: int, rows: int) -> None:
    assert counted_rows(num_decoding, max_num_seqs) == rows
    token_budget = TokenBudget(512, 1024, max_num_seqs, counts_rows=True)
    assert token_budget.prefill_tokens(num_decoding) == 1024 - rows
    assert token_budget.prefill_tokens(0) == 1024
    assert TokenBudget(40, 0, max_num_seqs).prefill_tokens(num_decoding) == 40
