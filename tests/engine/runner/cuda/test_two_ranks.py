"""The GPU runner on several ranks samples the ids of one rank, whether torch.distributed sums or our collectives.

It runs on the CPU; the memory that the ranks share is a file.
"""

import multiprocessing
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from multiprocessing.queues import Queue
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F

from engine.bench.random_model import RandomCheckpoint
from engine.checkpoint import Architecture, ModelSpec, tensor_shapes
from engine.config import EngineConfig
from engine.distributed import tensor_parallel
from engine.distributed.symmetric_memory import SymmetricMemory
from engine.logits_params import Adjustment
from engine.model.loader import load_model
from engine.model.quantization import quantize_block
from engine.runner.torch_runner import TorchRunner
from engine.scheduler.step_plan import NewSequence, PrefillChunk, StepPlan, Verification
from tests.engine.runner.cuda.test_cuda_runner import CONTEXT, EVERYTHING, PAGES, PLAIN_LLAMA, grants, tokens


class SeededCheckpoint(RandomCheckpoint):
    """Random tensors that do not depend on how they are sharded."""

    def copy_into(self, name: str, out: torch.Tensor, *, dim: int | None = None, start: int = 0) -> None:
        shape = tensor_shapes(self.spec)[name]
        generator = torch.Generator().manual_seed(sum(map(ord, name)) + 131 * len(name))
        whole = torch.randn(shape, generator=generator) * (2 * shape[-1] ** -0.5 if len(shape) > 1 else 1.0)
        out.copy_(whole if dim is None else whole.narrow(dim, start, out.shape[dim]))


ARENA, PARTS = 1 << 21, 8  # bytes, of which each runner takes a part
LAYERS = 3  # the first leaves each rank a residual stream that is right for its own tokens only
# Whatever happens to a product between its sum over the ranks and the residual stream, and experts.
MIXTURE = Architecture(
    qk_norm=True, post_norms=True, float32_norms=True, activation="gelu_tanh", output_bias=True, logit_softcap=3.0,
    experts=4, experts_per_token=2,
)  # fmt: skip
# Each of four ranks has 2 query heads and the one key/value head; they have 32, 32, 8 and 0 columns of the
# feed-forward, and 13, 13, 13 and 11 logits.
UNEVEN = {"n_heads": 8, "n_kv_heads": 1, "ffn_dim": 72}


def plans() -> list[StepPlan]:
    """A prompt, one row, a row beside a prompt, two rows, of which one is adjusted and the other verifies drafts."""
    prompt = tokens(6, 2)
    adjusted = NewSequence(0, 0.8, 0.9, 9 << 40, True, Adjustment(EVERYTHING, prompt, 6, 0, (1, 2, 4)), 3)
    return [
        StepPlan(0, (NewSequence(1, 0.0, 1.0, 5),), grants(1, 0, 2), (PrefillChunk(1, 0, tokens(17, 1), True),)),
        StepPlan(1, decode_rows=(1,)),
        StepPlan(2, (adjusted,), grants(0, 0, 1), (PrefillChunk(0, 0, prompt, True),), (1,)),
        StepPlan(3, decode_rows=(1, 0)),
        StepPlan(4, verifications=(Verification(1, (3, 4, 5)),), decode_rows=(0,)),
    ]


def shared_plans() -> list[StepPlan]:
    """A row enters with a page of row 1, then all decode; follows `plans`."""
    new, pages = (NewSequence(2, 0.0, 1.0, 5),), (grants(1, 0, 1)[0], *grants(2, 1, 1))
    return [
        StepPlan(5, new, tuple((2, *page[1:]) for page in pages), (PrefillChunk(2, 16, tokens(3, 4), True),), (1, 0)),
        StepPlan(6, decode_rows=(1, 0, 2)),
        StepPlan(7, decode_rows=(1, 0, 2)),
    ]


def run_rank(
    rank: int,
    world: int,
    folder: str,
    shared: bool,
    fused: int,
    with_llama: bool,
    results: "Queue[tuple[str, list[dict[int, int]]]]",
) -> None:
    os.environ["TRITON_INTERPRET"] = "1"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    tensor_parallel.start_groups(world, nccl=False)
    num_arenas = 0

    def create_arena(size: int) -> SymmetricMemory | None:
        nonlocal num_arenas
        if not shared:
            return None
        assert size < ARENA // PARTS
        files = [f"{folder}/arena{number}" for number in range(world)]
        arenas = [torch.from_file(name, shared=True, size=ARENA, dtype=torch.uint8) for name in files]
        num_arenas += 1
        return SymmetricMemory(rank, [arena.view(PARTS, -1)[num_arenas - 1] for arena in arenas])

    results.put(("quantized", ids(rank, world, create_arena, fused, bits=4)))
    results.put(("quantized", ids(rank, world, bits=4, plain=True)))
    results.put(("mixture", ids(rank, world, create_arena, fused, blocks=MIXTURE)))
    if world == 4:
        results.put(("uneven", ids(rank, world, create_arena, fused, **UNEVEN)))
        for plain in (False, True):
            results.put(("uneven, quantized", ids(rank, world, create_arena, fused, bits=4, plain=plain, **UNEVEN)))
    if with_llama:
        from engine.runner.cuda.batch import prefix_limits

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(prefix_limits, "MIN_PREFIX", 16)
            patch.setattr(prefix_limits, "MIN_MEMBERS", 2)
            results.put(("llama", ids(rank, world, create_arena, fused, shares=True, n_layers=LAYERS)))


def ids(
    rank: int,
    world: int,
    create_arena: Callable[[int], SymmetricMemory | None] | None = None,
    fused: int = 128,
    bits: int = 0,
    plain: bool = False,
    blocks: Architecture = PLAIN_LLAMA,
    shares: bool = False,
    **dimensions: int,
) -> list[dict[int, int]]:
    from engine.runner.cuda import forward
    from engine.runner.cuda.cuda_runner import CudaRunner  # Triton decides at import whether it interprets

    forward.FUSED_TOKENS = fused  # steps of more tokens take the plain path
    spec = ModelSpec(
        format="meta", chat="llama2", dim=32, n_layers=1, n_heads=4, n_kv_heads=2, head_dim=8, ffn_dim=64,
        vocab_size=50, norm_eps=1e-5, rope_theta=10000.0, rope_scaling=None, max_context=CONTEXT,
        tied_embeddings=False, dtype=torch.float32, shards=1, architecture=blocks,
    )  # fmt: skip
    spec = replace(spec, **dimensions)
    config = EngineConfig(
        device=torch.device("cpu"), dtype=torch.float32, max_num_seqs=4, max_context=CONTEXT, max_prefill_tokens=40,
        world_size=world, rank=rank,
    )  # fmt: skip
    model = load_model(config, SeededCheckpoint(spec), partial(quantize_block, bits=bits) if bits else None)
    runner: CudaRunner | TorchRunner
    if plain:
        runner = TorchRunner(config, model, PAGES)
    else:
        runner = CudaRunner(config, model, create_arena)
        runner.start(PAGES)
    sampled = [runner.wait(runner.execute_async(plan)) for plan in plans() + (shared_plans() if shares else [])]
    if isinstance(runner, CudaRunner) and shares and world > 1:
        last = runner._last_decode
        assert last is not None
        assert last[0].shares_prefixes
    return sampled


@pytest.mark.long
@pytest.mark.parametrize("bits", [0, 4])
def test_the_share_of_one_of_four_ranks(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rank 0 without the others: both runners continue with its part of each sum, and the others' logits are 0."""

    def with_zeros(x: torch.Tensor, columns: int, out: torch.Tensor | None = None) -> torch.Tensor:
        joined = F.pad(x, (0, columns - x.shape[1]))
        if out is not None:
            out[:, :columns] = joined
        return joined

    monkeypatch.setattr(tensor_parallel, "gather_columns", with_zeros)
    found, expected = (ids(0, 4, bits=bits, plain=plain, **UNEVEN) for plain in (False, True))
    assert any(found)
    assert found == expected


@pytest.mark.parametrize(
    ("world", "shared", "fused", "with_llama"),
    [
        pytest.param(2, True, 8, False, marks=pytest.mark.long),
        *(
            pytest.param(*case, True, marks=pytest.mark.long)
            for case in ((2, True, 8), (2, False, 128), (4, True, 128), (4, True, 8))
        ),
    ],
)
def test_fault_27_ranks_sample_what_one_does(
    world: int, shared: bool, fused: int, with_llama: bool, tmp_path: Path
) -> None:
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    for number in range(world):
        (tmp_path / f"arena{number}").write_bytes(bytes(ARENA))
    ranks = [
        context.Process(
            target=run_rank, args=(rank, world, str(tmp_path), shared, fused, with_llama, results), daemon=True
        )
        for rank in range(world)
    ]
    for process in ranks:
        process.start()
    alone_mixture = ids(0, 1, plain=True, blocks=MIXTURE)
    num_cases = 3 + with_llama + (3 if world == 4 else 0)
    sampled = [results.get(timeout=200) for _ in range(num_cases * world)]
    for process in ranks:
        process.join(30)
    if with_llama:
        alone = ids(0, 1, shares=True, n_layers=LAYERS)  # each row reads for itself
        assert any(alone)
        assert [found for case, found in sampled if case == "llama"] == [alone] * world
    assert any(alone_mixture)
    assert [found for case, found in sampled if case == "mixture"] == [alone_mixture] * world
    # Each rank quantizes its own shard, so the weights differ from those of one rank: compare with plain torch's ids.
    for case in ("quantized", *(["uneven, quantized"] if world == 4 else [])):
        quantized = [found for each, found in sampled if each == case]
        assert quantized == [quantized[0]] * (2 * world)
    if world == 4:
        assert [found for case, found in sampled if case == "uneven"] == [ids(0, 1, plain=True, **UNEVEN)] * world
