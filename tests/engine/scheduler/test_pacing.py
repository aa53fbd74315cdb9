"""Large prompt steps when nobody waits for a token, and rarely otherwise."""

from engine.scheduler.token_budget import MAX_SAVED_BURSTS, STEPS_PER_BURST, TokenBudget


def test_without_bursts_every_step_is_alike() -> None:
    pace = TokenBudget(max_prefill_tokens=64, burst_prefill_tokens=0, max_num_seqs=8)
    assert [pace.prefill_tokens(decoding) for decoding in (0, 1, 8)] == [64, 64, 64]


def test_bursts_are_rare_while_rows_decode() -> None:
    pace = TokenBudget(max_prefill_tokens=480, burst_prefill_tokens=992, max_num_seqs=32)
    assert pace.prefill_tokens(0) == 1024
    taken = []
    for _ in range(1000):
        budget = pace.prefill_tokens(num_decoding=20)
        pace.record_step(20, budget)
        taken.append(budget)
    bursts = taken.count(992)
    assert taken[: int(MAX_SAVED_BURSTS)] == [992] * int(MAX_SAVED_BURSTS)
    assert MAX_SAVED_BURSTS < bursts <= MAX_SAVED_BURSTS + 1000 / STEPS_PER_BURST + 1
    assert taken[100:].count(992) <= 900 / STEPS_PER_BURST + 1


def test_small_steps_cost_no_credit_and_idleness_restores_it() -> None:
    pace = TokenBudget(max_prefill_tokens=480, burst_prefill_tokens=992, max_num_seqs=32)
    for _ in range(50):
        assert pace.prefill_tokens(5) == 992
        pace.record_step(5, 480)
    for _ in range(60):
        pace.record_step(5, 992)
    assert pace.prefill_tokens(5) == 480
    pace.prefill_tokens(0)
    assert pace.prefill_tokens(5) == 992
