"""The sampling kernel draws what `engine.layers.sampler` defines."""

import pytest
import torch

from engine.kernels import sampling as kernel
from engine.kernels.pdl import supported
from engine.layers.sampler import sample

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
PDL = supported(DEVICE)


def draw(
    logits: torch.Tensor, temperature: list[float], top_p: list[float], seed: list[int], position: list[int]
) -> tuple[list[int], list[int]]:
    """(the kernel's ids, the definition's), with rows in reverse order and every other sample position given."""
    rows = len(logits)
    order = list(reversed(range(rows)))
    given = [position[i] if i % 2 else -1 for i in range(rows)]
    at = torch.zeros(rows, dtype=torch.int32)
    for i, row in enumerate(order):
        at[row] = position[i] - 1
    by_row = torch.tensor(order)
    halves = torch.tensor(seed, dtype=torch.int64).view(torch.int32).view(rows, 2)[by_row.argsort()]
    ids = torch.full((rows,), -9, dtype=torch.int32, device=DEVICE)
    kernel.sample(
        logits.to(DEVICE), torch.tensor(order, dtype=torch.int32, device=DEVICE),
        torch.tensor(given, dtype=torch.int32, device=DEVICE), at.to(DEVICE),
        torch.tensor(temperature)[by_row.argsort()].to(DEVICE), torch.tensor(top_p)[by_row.argsort()].to(DEVICE),
        halves.contiguous().to(DEVICE), ids, block=64, pdl=PDL,
    )  # fmt: skip
    expected = sample(
        logits, torch.tensor(temperature), torch.tensor(top_p), torch.tensor(seed), torch.tensor(position)
    )
    return ids.tolist(), expected.tolist()


@pytest.mark.parametrize("spread", [0.5, 4.0])
def test_the_definition_draws_the_same_ids(spread: float) -> None:
    rows = 10
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(rows, 200, generator=generator) * spread
    temperature = [0.6, 1.0, 0.0, 2.0, 0.7, 0.6, 0.6, 1.0, -1.0, 0.3]
    top_p = [0.9, 1.0, 0.9, 0.5, 0.0, 0.95, 0.9, 0.1, 0.9, 0.99]
    ours, expected = draw(logits, temperature, top_p, [7 << 40 | 5, -1, 3, 4, 5, 6, 7, 8, 9, 10], list(range(1, 11)))
    assert ours == expected


def test_ties_go_to_the_lower_id() -> None:
    logits = torch.tensor([[1.0, 2.0] * 40, [0.0] * 80, [5.0] * 3 + [-50.0] * 77])
    for seed in range(4):
        ours, expected = draw(logits, [1.0] * 3, [0.4, 0.5, 0.3], [seed] * 3, [1, 2, 3])
        assert ours == expected


def test_unusable_logits_give_minus_one() -> None:
    logits = torch.zeros(4, 70)
    logits[0, 5] = torch.nan
    logits[1, 69] = torch.inf
    logits[2] = -torch.inf
    logits[3, :69] = -torch.inf
    ours, expected = draw(logits, [1.0, 0.0, 1.0, 1.0], [0.9] * 4, [1] * 4, [1] * 4)
    assert ours == expected == [-1, -1, -1, 69]


def test_without_a_row_the_id_is_left_alone() -> None:
    ids = torch.full((1,), 42, dtype=torch.int32, device=DEVICE)
    none = torch.full((1,), -1, dtype=torch.int32, device=DEVICE)
    numbers = torch.ones(1, device=DEVICE)
    kernel.sample(torch.ones(1, 8, device=DEVICE), none, none, none, numbers, numbers, none.view(1, 1), ids, pdl=PDL)
    assert ids.tolist() == [42]
