"""Tensor parallelism: the one file that touches fairscale.

fairscale gives the model-parallel group and the parameter containers (`ColumnParallelLinear` splits its output,
`RowParallelLinear` its input). Their forwards and their allocation are ours: plain `F.linear` and one all-reduce, which
trace and capture whole; parameters without storage, filled slice by slice, so that a rank never holds more than its
share. With one rank there is no process group at all, and the same layers simply do not communicate.

It knows layers and groups. What is split how, and where the numbers come from, is the model's business.
"""

import contextlib
import io

import torch
import torch.distributed as dist
import torch.nn.functional as F
from fairscale.nn.model_parallel import initialize as groups
from fairscale.nn.model_parallel.layers import ColumnParallelLinear, ParallelEmbedding, RowParallelLinear
from torch import Tensor, nn

from engine.checkpoint import ModelSpec
from engine.errors import ConfigError

_ALIGN = 16  # columns; what a GPU's matrix products like


def check_divisible(spec: ModelSpec, world_size: int) -> None:
    """The ranks must divide the query heads. All else is padded or repeated where it does not come out even."""
    if spec.n_heads % world_size:
        works = [n for n in range(1, spec.n_heads + 1) if spec.n_heads % n == 0]
        raise ConfigError(
            "--nproc-per-node",
            expected=f"one of {', '.join(map(str, works))} (the model has {spec.n_heads} heads)",
            found=str(world_size),
        )


def kv_heads(spec: ModelSpec, world_size: int) -> int:
    """Key/value heads on each rank; with more ranks than heads, each head is on several.

    Where a rank's query heads would look at parts of two groups, each query head has a key/value head of its own.
    """
    if spec.n_kv_heads % world_size == 0:
        return spec.n_kv_heads // world_size
    return 1 if world_size % spec.n_kv_heads == 0 else spec.n_heads // world_size


def kv_sources(spec: ModelSpec, rank: int, world_size: int) -> list[int]:
    """Which of the model's key/value heads the heads of a rank are."""
    count, group = kv_heads(spec, world_size), spec.n_heads // spec.n_kv_heads
    queries = spec.n_heads // world_size
    return [(rank * queries + head * queries // count) // group for head in range(count)]


def ffn_width(spec: ModelSpec, world_size: int) -> int:
    """Columns of the feed-forward layer on each rank. Where they do not come out even, the last ranks hold zeros."""
    if spec.ffn_dim % world_size == 0:
        return spec.ffn_dim // world_size
    share = -(-spec.ffn_dim // world_size)
    return _ALIGN * -(-share // _ALIGN)


def start_groups(world_size: int, *, nccl: bool) -> None:
    """Build the model-parallel group of all ranks. The default process group exists already."""
    with contextlib.redirect_stdout(io.StringIO()):  # fairscale announces itself on stdout
        groups.initialize_model_parallel(world_size, model_parallel_backend="nccl" if nccl else "gloo")


def stop_groups() -> None:
    if groups.model_parallel_is_initialized():
        groups.destroy_model_parallel()


def group() -> dist.ProcessGroup | None:
    """The model-parallel group, or None with one rank."""
    if not groups.model_parallel_is_initialized():
        return None
    found: dist.ProcessGroup = groups.get_model_parallel_group()
    return found


def all_reduce(x: Tensor) -> Tensor:
    """The sum over the ranks, in place."""
    ranks = group()
    if ranks is not None:
        dist.all_reduce(x, group=ranks)
    return x


def broadcast(x: Tensor) -> Tensor:
    """Rank 0's values on every rank, in place."""
    ranks = group()
    if ranks is not None:
        dist.broadcast(x, src=0, group=ranks)
    return x


def gather_columns(x: Tensor, columns: int) -> Tensor:
    """[R, n] of every rank -> [R, columns], side by side in rank order, on every rank."""
    ranks = group()
    if ranks is None:
        return x
    local = x.contiguous()
    if local.is_cuda and dist.get_backend(ranks) == "gloo":
        local = local.cpu()  # gloo gathers on the host only
    parts = [torch.empty_like(local) for _ in range(dist.get_world_size(ranks))]
    dist.all_gather(parts, local, group=ranks)
    return torch.cat(parts, dim=1)[:, :columns].to(x.device)


class ColumnLinear(ColumnParallelLinear):  # type: ignore[misc]  # fairscale is untyped
    """y = x W^T with this rank's rows of W; the result stays split. Holds fused matrices too (q, k, v; gate, up).

    `quantized`, when set, replaces the product by one over quantized weights; `weight` may then be deleted.
    """

    weight: nn.Parameter
    quantized: nn.Module | None

    def __init__(self, in_features: int, local_features: int, *, world_size: int, dtype: torch.dtype) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = in_features, local_features * world_size
        self.output_size_per_partition = local_features
        self.gather_output = False
        self.weight = _parameter(local_features, in_features, dtype)
        self.quantized = None

    def forward(self, x: Tensor) -> Tensor:
        return _product(self, x)


class RowLinear(RowParallelLinear):  # type: ignore[misc]  # fairscale is untyped
    """y = sum over ranks of x_local W_local^T, with this rank's columns of W. `quantized` as in ColumnLinear."""

    weight: nn.Parameter
    quantized: nn.Module | None

    def __init__(self, local_features: int, out_features: int, *, world_size: int, dtype: torch.dtype) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = local_features * world_size, out_features
        self.input_size_per_partition = local_features
        self.input_is_parallel = True
        self.weight = _parameter(out_features, local_features, dtype)
        self.quantized = None

    def forward(self, x: Tensor) -> Tensor:
        return all_reduce(_product(self, x))


class Embedding(ParallelEmbedding):  # type: ignore[misc]  # fairscale is untyped
    """The whole table on every rank: one collective less a step, for 2 % of the weights."""

    weight: nn.Parameter

    def __init__(self, num_embeddings: int, embedding_dim: int, *, dtype: torch.dtype) -> None:
        nn.Module.__init__(self)
        self.num_embeddings = num_embeddings
        self.embedding_dim = self.embedding_dim_per_partition = embedding_dim
        self.weight = _parameter(num_embeddings, embedding_dim, dtype)

    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.weight)


class OutputLinear(ColumnLinear):
    """The vocabulary's logits: this rank computes rows [start, start + local) of W, then all are gathered.

    A vocabulary that the ranks do not divide is padded to `width` logits a rank; the padding is cut after gathering.
    """

    def __init__(self, in_features: int, vocab: int, *, rank: int, world_size: int, dtype: torch.dtype) -> None:
        self_width = -(-vocab // world_size)
        start = min(rank * self_width, vocab)
        super().__init__(in_features, min(self_width, vocab - start), world_size=world_size, dtype=dtype)
        self.width, self.start, self.vocab = self_width, start, vocab

    def forward(self, x: Tensor) -> Tensor:
        """Logits in 32 bits, [R, vocab], on every rank."""
        local = _product(self, x).float()
        if local.shape[1] < self.width:
            local = F.pad(local, (0, self.width - local.shape[1]))
        return gather_columns(local, self.vocab)


def _parameter(rows: int, columns: int, dtype: torch.dtype) -> nn.Parameter:
    """A parameter with a shape and no storage: the loader gives it one, on its device."""
    return nn.Parameter(torch.empty(rows, columns, dtype=dtype, device="meta"), requires_grad=False)


def _product(layer: ColumnLinear | RowLinear, x: Tensor) -> Tensor:
    if layer.quantized is not None:
        result: Tensor = layer.quantized(x)
        return result
    return F.linear(x, layer.weight)
