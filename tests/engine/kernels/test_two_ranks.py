"""The GPU's runner on two ranks, over gloo on the CPU: the ids of one rank, in the same code that NCCL runs."""

import multiprocessing
import os
from functools import partial
from multiprocessing.queues import Queue
from pathlib import Path

import torch
import torch.distributed as dist

from engine import parallel
from engine.bench.random_model import RandomCheckpoint
from engine.checkpoint import ModelSpec, tensor_shapes
from engine.config import EngineConfig
from engine.load import load_model
from engine.quantize import pack_block
from engine.torch_runner import TorchRunner
from tests.engine.kernels.test_cuda_runner import CONTEXT, PAGES, plans

STEPS = 4


class Whole(RandomCheckpoint):
    """Tensors that are the same however they are cut."""

    def copy_into(self, name: str, out: torch.Tensor, *, dim: int | None = None, start: int = 0) -> None:
        shape = tensor_shapes(self.spec)[name]
        generator = torch.Generator().manual_seed(sum(map(ord, name)) + 131 * len(name))
        whole = torch.randn(shape, generator=generator) * (2 * shape[-1] ** -0.5 if len(shape) > 1 else 1.0)
        out.copy_(whole if dim is None else whole.narrow(dim, start, out.shape[dim]))


def work(rank: int, store: str, answers: "Queue[list[dict[int, int]]]") -> None:
    os.environ["TRITON_INTERPRET"] = "1"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    parallel.start_groups(2, nccl=False)
    answers.put(ids(rank, 2))
    answers.put(ids(rank, 2, bits=4))
    answers.put(ids(rank, 2, bits=4, plain=True))


def ids(rank: int, world: int, bits: int = 0, plain: bool = False) -> list[dict[int, int]]:
    from engine.cuda_runner import CudaRunner  # Triton decides at import whether it interprets

    spec = ModelSpec(
        format="meta", chat="llama2", dim=32, n_layers=1, n_heads=4, n_kv_heads=2, head_dim=8, ffn_dim=64,
        vocab_size=50, norm_eps=1e-5, rope_theta=10000.0, rope_scaling=None, max_context=CONTEXT,
        tied_embeddings=False, dtype=torch.float32, shards=1,
    )  # fmt: skip
    config = EngineConfig(
        device=torch.device("cpu"), dtype=torch.float32, max_batch=4, max_context=CONTEXT, chunk=40,
        world_size=world, rank=rank,
    )  # fmt: skip
    model = load_model(config, Whole(spec), partial(pack_block, bits=bits) if bits else None)
    runner: CudaRunner | TorchRunner = TorchRunner(config, model, PAGES) if plain else CudaRunner(config, model)
    if isinstance(runner, CudaRunner):
        runner.start(PAGES)
    return [runner.collect(runner.launch(plan)) for plan in plans()[:STEPS]]


def test_fault_27_two_ranks_sample_what_one_does(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    ranks = [context.Process(target=work, args=(rank, str(tmp_path / "store"), answers)) for rank in range(2)]
    for process in ranks:
        process.start()
    alone = ids(0, 1)
    found = [answers.get(timeout=120) for _ in range(3 * len(ranks))]
    for process in ranks:
        process.join(30)
    assert found.count(alone) == 2
    assert any(alone)
    # Each rank packs its own slice, so packed weights are others than on one rank: the same ids as plain torch's.
    narrow = [each for each in found if each != alone]
    assert len(narrow) == 4
    assert narrow == [narrow[0]] * 4
