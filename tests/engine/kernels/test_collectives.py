"""Collectives in shared memory, run one rank at a time: what the other ranks write was written before."""

import pytest
import torch

from engine.distributed.symmetric_memory import SymmetricMemory, aligned_size
from engine.kernels.collectives import all_reduce as one_shot
from engine.kernels.collectives.packets import all_reduce_row
from engine.kernels.collectives.sampling import broadcast_ids, gather_logits
from engine.kernels.collectives.two_shot_all_reduce import two_shot_all_reduce
from engine.kernels.linear.gemv import Push, gemv
from engine.kernels.pdl import supported
from tests.engine.kernels import reference
from tests.engine.kernels.test_linear import CLOSE, DEVICE, DTYPE, EPS, random, weights

PDL = supported(DEVICE)
DIM, WORLD, TOKENS = 48, 3, 5


def ranks() -> list[SymmetricMemory]:
    arenas = [torch.zeros(1 << 16, dtype=torch.uint8, device=DEVICE) for _ in range(WORLD)]
    return [SymmetricMemory(rank, arenas) for rank in range(WORLD)]


def signal_from_others(memories: list[SymmetricMemory], rank: int, epoch: int) -> None:
    """As if all other ranks had signalled to this one that they have reached collective `epoch`."""
    memories[0].flags[rank].fill_(epoch)
    memories[rank].flags[rank][rank] = 0


def test_allocations_do_not_overlap_and_are_shared() -> None:
    one, two, _ = ranks()
    first, second = one.allocate((3, 5), torch.float32), one.allocate((7,), torch.int32)
    same_as_first = two.allocate((3, 5), torch.float32)
    first[1].fill_(2.0)
    second[1].fill_(9)
    assert same_as_first[1].eq(2.0).all()
    assert first[1].eq(2.0).all()
    assert aligned_size(1) == aligned_size(256) == 256


@pytest.mark.parametrize("epoch", [0, 2**31 - 3])
@pytest.mark.parametrize("ending", ["sum", "norm", "squares", "squares of three parts"])
def test_all_ranks_sum_to_the_same_bits(ending: str, epoch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if ending == "squares of three parts":
        monkeypatch.setattr(one_shot, "_MIN_COLUMNS", 16)
    memories = ranks()
    parts = [memory.allocate((TOKENS, DIM), DTYPE) for memory in memories]
    for rank in range(WORLD):
        parts[0][rank].copy_(random(TOKENS, DIM, seed=rank))
    before, gain = random(TOKENS, DIM, seed=9), random(DIM, seed=5)
    seq = 4
    now = (epoch + seq + 2**31) % 2**32 - 2**31  # the counter has 32 bits
    found = []
    for rank, memory in enumerate(memories):
        memory.epoch.fill_(epoch)
        signal_from_others(memories, rank, now)
        h, out = before.clone(), torch.full_like(before, torch.nan)
        squares = torch.full((3, TOKENS), torch.nan, device=DEVICE)
        num_parts = one_shot.all_reduce(
            memory, parts[rank], h, gain, TOKENS, seq, out=None if ending == "sum" else out,
            squares=squares if "squares" in ending else None, eps=EPS, pdl=PDL,
        )  # fmt: skip
        for other, flags in enumerate(memory.flags):
            assert other == rank or int(flags[rank]) == now
        expected = before.float() + sum(part.float() for part in parts[0])
        torch.testing.assert_close(h.float(), expected, **CLOSE)
        if ending == "norm":
            torch.testing.assert_close(out, reference.rms_norm(h, gain, EPS), **CLOSE)
        if "squares" in ending:
            assert num_parts == (3 if "parts" in ending else 1)
            torch.testing.assert_close(out.float(), h.float() * gain.float(), **CLOSE)
            torch.testing.assert_close(squares[:num_parts].sum(0), h.float().square().sum(1), rtol=2e-2, atol=1e-2)
        found.append(h)
    assert all(torch.equal(h, found[0]) for h in found)


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("count", [2, 9])  # of two tokens the last rank has none
def test_ranks_share_the_tokens_of_a_sum(count: int, whole: bool) -> None:
    memories, tokens, summed = ranks(), 9, slice(0, count)
    parts, streams, outs = ([memory.allocate((tokens, DIM), DTYPE) for memory in memories] for _ in range(3))
    before, gain, seq, epoch = random(tokens, DIM, seed=9), random(DIM, seed=5), 4, 2**31 - 5
    for rank, memory in enumerate(memories):
        outs[0][rank].fill_(torch.nan)
        parts[0][rank].copy_(random(tokens, DIM, seed=rank))
        streams[0][rank].copy_(before)
        memory.epoch.fill_(epoch)
    now = epoch + seq + 1 - 2**32
    for rank, memory in enumerate(memories):
        signal_from_others(memories, rank, now)
        two_shot_all_reduce(
            memory, parts[rank], streams[rank], gain, count, seq, out=outs[rank], whole=whole, eps=EPS, pdl=PDL
        )
        assert int(memory.done) == 0
        for other, flags in enumerate(memory.flags):
            assert other == rank or int(flags[rank]) == now
    expected = before.float() + sum(part.float() for part in parts[0])
    normed = reference.rms_norm(expected.to(DTYPE), gain, EPS)
    others = [row for row in range(tokens) if not summed.start <= row < summed.stop]
    share = -(-(summed.stop - summed.start) // WORLD)
    for rank in range(WORLD):
        torch.testing.assert_close(outs[0][rank][summed], normed[summed], **CLOSE)
        assert torch.equal(outs[0][rank][summed], outs[0][0][summed])
        own = slice(*(min(summed.stop, summed.start + share * at) for at in (rank, rank + 1)))
        whole_or_own = summed if whole else own
        torch.testing.assert_close(streams[0][rank][whole_or_own].float(), expected[whole_or_own], **CLOSE)
        assert torch.equal(streams[0][rank][others], before[others])
        assert outs[0][rank][others].isnan().all()


def test_one_row_is_pushed_and_summed() -> None:
    memories = ranks()
    inboxes = [memory.allocate((WORLD, DIM), torch.int64) for memory in memories]
    before, seq = random(1, DIM, seed=9), 7
    own = [torch.full((1, DIM), torch.nan, device=DEVICE) for _ in range(WORLD)]
    inputs = [(random(1, 64, seed=rank), weights(DIM, 64)) for rank in range(WORLD)]
    for rank, (x, w) in enumerate(inputs):
        push = Push(inboxes[rank], memories[rank].epoch, seq, rank)
        gemv(x, w, own[rank], push=push, pdl=PDL, block=64, two_rows=rank == 1)
    expected = before.float() + sum(reference.linear(x, w) for x, w in inputs)
    found = []
    for rank, memory in enumerate(memories):
        h = before.clone()
        all_reduce_row(memory, own[rank], inboxes[rank], h, seq, pdl=PDL)
        torch.testing.assert_close(h.float(), expected, **CLOSE)
        found.append(h)
    assert all(torch.equal(h, found[0]) for h in found)


def test_logits_are_gathered_and_ids_broadcast() -> None:
    memories = ranks()
    total, width, rows = 10, 4, 3  # the last rank has two columns
    logits = [memory.allocate((rows * width,), torch.float32) for memory in memories]
    ids = [memory.allocate((rows,), torch.int32) for memory in memories]
    whole = random(rows, total, dtype=torch.float32)
    for rank in range(WORLD):
        part = whole[:, rank * width : (rank + 1) * width]
        logits[0][rank][: part.numel()] = part.flatten()
    ids[0][0].copy_(torch.tensor([7, 0, 31999]))
    out = torch.full((rows, total), torch.nan, device=DEVICE)
    for rank in (1, 2, 0):  # rank 0 waits for the others
        gather_logits(memories[rank], logits[rank], out, rows, width, 1, pdl=PDL)
    torch.testing.assert_close(out, whole)
    for rank, memory in enumerate(memories):
        found = torch.full((rows,), -1, dtype=torch.int32, device=DEVICE)
        broadcast_ids(memory, ids[rank], found, rows, 2, pdl=PDL)
        assert found.tolist() == [7, 0, 31999]
