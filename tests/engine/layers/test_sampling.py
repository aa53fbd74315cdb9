"""Sampling against its definition written out token by token, and independence of a row from its batch."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.layers.sampler import philox_uniform, sample, signed64


def draw(logits: torch.Tensor, temperature: float, top_p: float, seed: int, position: int) -> int:
    return int(
        sample(
            logits.unsqueeze(0),
            torch.tensor([temperature]),
            torch.tensor([top_p]),
            torch.tensor([signed64(seed)]),
            torch.tensor([position]),
        )
    )


def sample_by_definition(logits: list[float], temperature: float, top_p: float, u: float) -> int:
    weights = torch.softmax(torch.tensor(logits) / temperature, dim=0).tolist()
    ranked = sorted(range(len(weights)), key=lambda token: (-weights[token], token))
    kept, before = set(), 0.0
    for token in ranked:
        if before <= top_p or top_p >= 1:
            kept.add(token)
        before += weights[token]
    target, running = u * sum(weights[token] for token in kept), 0.0
    for token in sorted(kept):
        running += weights[token]
        if running > target:
            return token
    raise AssertionError("no token")


def test_philox_gives_the_published_numbers() -> None:
    """Random123's known answer for philox4x32-10 with counter and key of zeros."""
    assert philox_uniform(torch.tensor([0]), torch.tensor([0])).item() == (0x6627E8D5 >> 8) * 2.0**-24


def test_philox_is_uniform_and_never_one() -> None:
    values = philox_uniform(torch.full((100_000,), 7), torch.arange(100_000)).double()
    assert values.min() >= 0
    assert values.max() < 1
    histogram = torch.histc(values, bins=50, min=0, max=1)
    assert float(((histogram - 2000) ** 2 / 2000).sum()) < 90  # chi-square with 49 degrees of freedom


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.floats(-8, 8, width=32), min_size=2, max_size=40, unique=True),
    st.floats(0.125, 2, width=32),
    st.floats(0, 1, width=32),
    st.integers(0, 2**64 - 1),
    st.integers(0, 100_000),
)
def test_it_does_what_the_definition_says(
    logits: list[float], temperature: float, top_p: float, seed: int, position: int
) -> None:
    u = float(philox_uniform(torch.tensor([signed64(seed)]), torch.tensor([position])))
    got = draw(torch.tensor(logits), temperature, top_p, seed, position)
    nudged = {
        sample_by_definition(logits, temperature, max(0.0, top_p + dp), min(max(0.0, u + du), 1 - 1e-9))
        for du in (-1e-5, 0, 1e-5)
        for dp in (-1e-6, 0, 1e-6)
    }
    assert got in nudged  # more than one answer only where rounding decides


@pytest.mark.parametrize("spread", [0.001, 3.0])
def test_few_candidates_and_a_full_sort_agree(spread: float) -> None:
    """A flat distribution keeps more tokens than the candidates; a peaked one fewer."""
    logits = torch.randn(1, 3000, generator=torch.Generator().manual_seed(1)) * spread
    weights = torch.softmax(logits[0], dim=0)
    ranked, ids = weights.sort(descending=True, stable=True)
    kept = set(ids[(ranked.cumsum(0) - ranked) <= 0.7].tolist())
    assert (len(kept) > 256) == (spread < 1)
    drawn = {draw(logits[0], 1.0, 0.7, 5, position) for position in range(300)}
    assert drawn <= kept
    assert len(drawn) > 20


def test_equal_probabilities_are_kept_by_the_lower_id() -> None:
    logits = torch.zeros(1000)
    assert {draw(logits, 1.0, 0.0015, 3, position) for position in range(64)} == {0, 1}


def test_frequencies_are_the_probabilities() -> None:
    logits = torch.tensor([0.5, 2.0, -1.0, 1.0])
    rows = 20_000
    ids = sample(
        logits.expand(rows, 4),
        torch.ones(rows),
        torch.ones(rows),
        torch.zeros(rows, dtype=torch.int64),
        torch.arange(rows),
    )
    expected = torch.softmax(logits, 0) * rows
    assert float(((ids.bincount(minlength=4) - expected) ** 2 / expected).sum()) < 16


def test_a_row_does_not_depend_on_other_rows() -> None:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(8, 600, generator=generator) * 2
    temperature, top_p = (
        torch.tensor([0.0, 0.6, 1.0, 0.6, 2.0, 0.3, 1.0, 0.0]),
        torch.tensor([1, 0.9, 1, 0.5, 1, 0.1, 0.9, 0.2]),
    )
    seed, position = torch.arange(8) * 77, torch.arange(8) + 5
    together = sample(logits, temperature, top_p, seed, position).tolist()
    assert together == [draw(logits[n], float(temperature[n]), float(top_p[n]), 77 * n, n + 5) for n in range(8)]


@pytest.mark.parametrize("wrong", [math.nan, math.inf, "all -inf"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_not_finite_affect_only_their_row(wrong: float | str, temperature: float) -> None:
    logits = torch.zeros(3, 300)
    logits[:, 7] = 5.0
    if isinstance(wrong, str):
        logits[1] = -math.inf
    else:
        logits[1, 100] = wrong
    heat = torch.full((3,), temperature)
    ids = sample(logits, heat, torch.full((3,), 0.1), torch.zeros(3, dtype=torch.int64), torch.arange(3))
    assert ids.tolist() == [7, -1, 7]


def test_all_64_bits_of_a_seed_count() -> None:
    logits = torch.zeros(50_000)
    assert len({draw(logits, 1.0, 1.0, seed, 1) for seed in (0, 1, 1 << 31, 1 << 32, 1 << 63, (1 << 64) - 1)}) == 6
