"""The GPU's runner on several ranks, on the CPU: the ids of one rank, whether a library sums or the ranks do it
themselves in memory that they share (a file here, the GPUs' own there)."""

import multiprocessing
import os
from collections.abc import Callable
from functools import partial
from multiprocessing.queues import Queue
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from engine.bench.random_model import RandomCheckpoint
from engine.checkpoint import ModelSpec, tensor_shapes
from engine.config import EngineConfig
from engine.distributed import tensor_parallel
from engine.distributed.symmetric_memory import SymmetricMemory
from engine.model.loader import load_model
from engine.model.quantization import quantize_block
from engine.runner.torch_runner import TorchRunner
from tests.engine.runner.cuda.test_cuda_runner import CONTEXT, PAGES, plans

STEPS = 5  # prompts, one row, rows beside a prompt, several rows


class Whole(RandomCheckpoint):
    """Tensors that are the same however they are cut."""

    def copy_into(self, name: str, out: torch.Tensor, *, dim: int | None = None, start: int = 0) -> None:
        shape = tensor_shapes(self.spec)[name]
        generator = torch.Generator().manual_seed(sum(map(ord, name)) + 131 * len(name))
        whole = torch.randn(shape, generator=generator) * (2 * shape[-1] ** -0.5 if len(shape) > 1 else 1.0)
        out.copy_(whole if dim is None else whole.narrow(dim, start, out.shape[dim]))


ARENA = 1 << 20  # bytes


def work(rank: int, world: int, folder: str, shared: bool, fused: int, answers: "Queue[list[dict[int, int]]]") -> None:
    os.environ["TRITON_INTERPRET"] = "1"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    tensor_parallel.start_groups(world, nccl=False)
    made = 0

    def meet(size: int) -> SymmetricMemory | None:
        nonlocal made
        if not shared:
            return None
        assert size < ARENA // 2
        files = [f"{folder}/arena{number}" for number in range(world)]
        arenas = [torch.from_file(name, shared=True, size=ARENA, dtype=torch.uint8) for name in files]
        made += 1
        return SymmetricMemory(rank, [arena[(made - 1) * ARENA // 2 :][: ARENA // 2] for arena in arenas])

    answers.put(ids(rank, world, meet, fused))
    answers.put(ids(rank, world, meet, fused, bits=4))
    answers.put(ids(rank, world, bits=4, plain=True))


def ids(
    rank: int,
    world: int,
    meet: Callable[[int], SymmetricMemory | None] | None = None,
    fused: int = 128,
    bits: int = 0,
    plain: bool = False,
) -> list[dict[int, int]]:
    from engine.runner.cuda import forward
    from engine.runner.cuda.cuda_runner import CudaRunner  # Triton decides at import whether it interprets

    forward.FUSED_TOKENS = fused  # a step of more tokens goes the way of many
    spec = ModelSpec(
        format="meta", chat="llama2", dim=32, n_layers=1, n_heads=4, n_kv_heads=2, head_dim=8, ffn_dim=64,
        vocab_size=50, norm_eps=1e-5, rope_theta=10000.0, rope_scaling=None, max_context=CONTEXT,
        tied_embeddings=False, dtype=torch.float32, shards=1,
    )  # fmt: skip
    config = EngineConfig(
        device=torch.device("cpu"), dtype=torch.float32, max_num_seqs=4, max_context=CONTEXT, max_prefill_tokens=40,
        world_size=world, rank=rank,
    )  # fmt: skip
    model = load_model(config, Whole(spec), partial(quantize_block, bits=bits) if bits else None)
    runner: CudaRunner | TorchRunner = TorchRunner(config, model, PAGES) if plain else CudaRunner(config, model, meet)
    if isinstance(runner, CudaRunner):
        runner.start(PAGES)
    return [runner.wait(runner.execute_async(plan)) for plan in plans()[:STEPS]]


@pytest.mark.parametrize(("world", "shared", "fused"), [(2, False, 128), (2, True, 128), (4, True, 8)])
def test_fault_27_ranks_sample_what_one_does(world: int, shared: bool, fused: int, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    for number in range(world):
        (tmp_path / f"arena{number}").write_bytes(bytes(ARENA))
    ranks = [
        context.Process(target=work, args=(rank, world, str(tmp_path), shared, fused, answers), daemon=True)
        for rank in range(world)
    ]
    for process in ranks:
        process.start()
    alone = ids(0, 1)
    found = [answers.get(timeout=200) for _ in range(3 * world)]
    for process in ranks:
        process.join(30)
    assert found.count(alone) == world
    assert any(alone)
    # Each rank packs its own slice, so packed weights are others than on one rank: the same ids as plain torch's.
    narrow = [each for each in found if each != alone]
    assert len(narrow) == 2 * world
    assert narrow == [narrow[0]] * (2 * world)
