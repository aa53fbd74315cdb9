"""What ranks do with each other's memory, one rank at a time: the others' part of it was written before."""

import pytest
import torch

from engine.distributed.symmetric_memory import SymmetricMemory, aligned_size
from engine.kernels import all_reduce as kernels
from engine.kernels import reference
from engine.kernels.gemv import Push, gemv
from engine.kernels.pdl import supported
from tests.engine.kernels.test_products import CLOSE, DEVICE, DTYPE, EPS, random, weights

PDL = supported(DEVICE)
DIM, WORLD, TOKENS = 48, 3, 5


def ranks() -> list[SymmetricMemory]:
    arenas = [torch.zeros(1 << 16, dtype=torch.uint8, device=DEVICE) for _ in range(WORLD)]
    return [SymmetricMemory(rank, arenas) for rank in range(WORLD)]


def told(exchanges: list[SymmetricMemory], rank: int, epoch: int) -> None:
    """As if all others had said to this rank that they have got there."""
    exchanges[0].flags[rank].fill_(epoch)
    exchanges[rank].flags[rank][rank] = 0


def test_parts_do_not_overlap_and_are_everybodys() -> None:
    one, two, _ = ranks()
    first, second = one.allocate((3, 5), torch.float32), one.allocate((7,), torch.int32)
    theirs = two.allocate((3, 5), torch.float32)
    first[1].fill_(2.0)
    second[1].fill_(9)
    assert theirs[1].eq(2.0).all()
    assert first[1].eq(2.0).all()
    assert aligned_size(1) == aligned_size(256) == 256


@pytest.mark.parametrize("epoch", [0, 2**31 - 3])
@pytest.mark.parametrize("ending", ["sum", "norm", "squares"])
def test_all_ranks_sum_to_the_same_bits(ending: str, epoch: int) -> None:
    exchanges = ranks()
    parts = [exchange.allocate((TOKENS, DIM), DTYPE) for exchange in exchanges]
    for rank in range(WORLD):
        parts[0][rank].copy_(random(TOKENS, DIM, seed=rank))
    before, gain = random(TOKENS, DIM, seed=9), random(DIM, seed=5)
    site = 4
    now = (epoch + site + 2**31) % 2**32 - 2**31  # the counter has 32 bits
    found = []
    for rank, exchange in enumerate(exchanges):
        exchange.epoch.fill_(epoch)
        told(exchanges, rank, now)
        h, out = before.clone(), torch.full_like(before, torch.nan)
        squares = torch.full((TOKENS,), torch.nan, device=DEVICE)
        kernels.all_reduce(
            exchange, parts[rank], h, gain, TOKENS, site, out=None if ending == "sum" else out,
            squares=squares if ending == "squares" else None, eps=EPS, pdl=PDL,
        )  # fmt: skip
        for other, flags in enumerate(exchange.flags):
            assert other == rank or int(flags[rank]) == now
        expected = before.float() + sum(part.float() for part in parts[0])
        torch.testing.assert_close(h.float(), expected, **CLOSE)
        if ending == "norm":
            torch.testing.assert_close(out, reference.rms_norm(h, gain, EPS), **CLOSE)
        if ending == "squares":
            torch.testing.assert_close(out.float(), h.float() * gain.float(), **CLOSE)
            torch.testing.assert_close(squares, h.float().square().sum(1), rtol=2e-2, atol=1e-2)
        found.append(h)
    assert all(torch.equal(h, found[0]) for h in found)


def test_one_row_is_pushed_and_summed() -> None:
    exchanges = ranks()
    boxes = [exchange.allocate((WORLD, DIM), torch.int64) for exchange in exchanges]
    before, site = random(1, DIM, seed=9), 7
    own = [torch.full((1, DIM), torch.nan, device=DEVICE) for _ in range(WORLD)]
    inputs = [(random(1, 64, seed=rank), weights(DIM, 64)) for rank in range(WORLD)]
    for rank, (x, w) in enumerate(inputs):
        push = Push(boxes[rank], exchanges[rank].epoch, site, rank)
        gemv(x, w, own[rank], push=push, pdl=PDL, block=64, two_rows=rank == 1)
    expected = before.float() + sum(reference.linear(x, w) for x, w in inputs)
    found = []
    for rank, exchange in enumerate(exchanges):
        h = before.clone()
        kernels.all_reduce_row(exchange, own[rank], boxes[rank], h, site, pdl=PDL)
        torch.testing.assert_close(h.float(), expected, **CLOSE)
        found.append(h)
    assert all(torch.equal(h, found[0]) for h in found)


def test_columns_are_collected_and_ids_spread() -> None:
    exchanges = ranks()
    total, width, rows = 10, 4, 3  # the last rank has two columns
    logits = [exchange.allocate((rows * width,), torch.float32) for exchange in exchanges]
    ids = [exchange.allocate((rows,), torch.int32) for exchange in exchanges]
    whole = random(rows, total, dtype=torch.float32)
    for rank in range(WORLD):
        part = whole[:, rank * width : (rank + 1) * width]
        logits[0][rank][: part.numel()] = part.flatten()
    ids[0][0].copy_(torch.tensor([7, 0, 31999]))
    out = torch.full((rows, total), torch.nan, device=DEVICE)
    for rank in (1, 2, 0):  # rank 0 waits for the others
        kernels.gather_logits(exchanges[rank], logits[rank], out, rows, width, 1, pdl=PDL)
    torch.testing.assert_close(out, whole)
    for rank, exchange in enumerate(exchanges):
        found = torch.full((rows,), -1, dtype=torch.int32, device=DEVICE)
        kernels.broadcast_ids(exchange, ids[rank], found, rows, 2, pdl=PDL)
        assert found.tolist() == [7, 0, 31999]
