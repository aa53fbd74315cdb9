"""Experts: the choice, its arrangement in blocks, and the grouped products, against plain torch."""

import pytest
import torch

from engine.kernels.linear.experts import arrange, combine, max_blocks, route
from engine.kernels.linear.grouped_matmul import ExpertMatrices, grouped_matmul
from engine.model.quantization import quantized_weight
from tests.engine.kernels import reference
from tests.engine.kernels.test_linear import CLOSE, DEVICE, DTYPE, PDL, random

EXPERTS, PER = 5, 2


def ints(*shape: int) -> torch.Tensor:
    return torch.full(shape, -7, dtype=torch.int32, device=DEVICE)


def arranged(chosen: torch.Tensor, block: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]:
    """(order, block_experts, num_blocks, most blocks)."""
    blocks = max_blocks(chosen.numel(), EXPERTS, block)
    order, block_experts, num_blocks = ints(blocks * block), ints(blocks), ints(1)
    arrange(chosen, ints(EXPERTS), order, block_experts, num_blocks, block=block, pdl=PDL)
    return order, block_experts, num_blocks, blocks


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize(("experts", "per"), [(5, 2), (128, 8), (4, 4)])
def test_the_choice(experts: int, per: int, normalized: bool) -> None:
    logits = random(3, experts)
    chosen, weights = ints(3, per), torch.full((3, per), torch.nan, device=DEVICE)
    route(logits, chosen, weights, normalized=normalized, pdl=PDL)
    expected, indices = logits.float().softmax(-1).topk(per)
    if normalized:
        expected = expected / expected.sum(-1, keepdim=True)
    torch.testing.assert_close(weights, expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(logits.gather(1, chosen.long()), logits.gather(1, indices))  # in 16 bits logits may be equal


def test_nan_chooses_experts_that_exist() -> None:
    chosen = ints(1, PER)
    route(
        torch.full((1, EXPERTS), torch.nan, dtype=DTYPE, device=DEVICE), chosen, torch.empty(1, PER, device=DEVICE),
        normalized=True, pdl=PDL,
    )  # fmt: skip
    assert 0 <= int(chosen.min()) <= int(chosen.max()) < EXPERTS


@pytest.mark.parametrize("tokens", [1, 9, 600])  # 600: more pairs than are read at once
def test_each_pair_is_in_one_block_of_its_expert(tokens: int) -> None:
    generator = torch.Generator().manual_seed(tokens)
    chosen = torch.stack([torch.randperm(EXPERTS - 1, generator=generator)[:PER] for _ in range(tokens)])
    chosen = chosen.to(torch.int32).to(DEVICE)  # no token chooses the last expert
    order, block_experts, num_blocks, blocks = arranged(chosen, 16)
    used = int(num_blocks)
    assert used == sum(-(-int((chosen == expert).sum()) // 16) for expert in range(EXPERTS)) <= blocks
    pairs = order.view(-1, 16)[:used]
    assert sorted(pairs[pairs >= 0].tolist()) == list(range(tokens * PER))
    assert set(pairs[pairs < 0].tolist()) <= {-1}
    for expert, row in zip(block_experts[:used].tolist(), pairs.tolist(), strict=True):
        assert {int(chosen.view(-1)[pair]) for pair in row if pair >= 0} == {expert}


@pytest.mark.parametrize(("tokens", "block"), [(1, 16), (20, 32)])
@pytest.mark.parametrize("bits", [16, 8, 4])
@pytest.mark.parametrize("gelu", [False, True])
def test_the_feed_forward(tokens: int, block: int, bits: int, gelu: bool) -> None:
    dim, ffn = 100, 48
    plain = [
        (random(2 * ffn, dim, seed=2 * n) * dim**-0.5, random(dim, ffn, seed=2 * n + 1) * ffn**-0.5)
        for n in range(EXPERTS)
    ]
    matrices = [[quantized_weight(w, bits) if bits < 16 else w for w in pair] for pair in plain]
    x = random(tokens, dim)
    weights, chosen = random(tokens, EXPERTS, dtype=torch.float32).softmax(-1).topk(PER)
    chosen = chosen.to(torch.int32).contiguous()
    order, block_experts, num_blocks, blocks = arranged(chosen, block)
    gated = torch.full((tokens * PER, ffn), torch.nan, dtype=DTYPE, device=DEVICE)
    products = torch.full((tokens * PER, dim), torch.nan, dtype=DTYPE, device=DEVICE)
    out = torch.full((tokens, dim), torch.nan, dtype=DTYPE, device=DEVICE)
    where = (order, block_experts, num_blocks)
    w13, w2 = (ExpertMatrices.of([pair[kind] for pair in matrices]) for kind in range(2))
    grouped_matmul(x, w13, gated, *where, blocks=blocks, block=block, per_row=PER, gated=True, gelu=gelu, pdl=PDL)
    grouped_matmul(gated, w2, products, *where, blocks=blocks, block=block, per_row=1, pdl=PDL)
    combine(products, weights.contiguous(), out, pdl=PDL)
    expected = torch.zeros(tokens, dim, device=DEVICE)
    for expert, (up, down) in enumerate(matrices):
        share = torch.where(chosen == expert, weights, 0.0).sum(-1, keepdim=True)
        fed = reference.linear(reference.linear(x, up, gated=True, gelu=gelu), down)
        expected += share * fed
    torch.testing.assert_close(out.float(), expected, **CLOSE)
