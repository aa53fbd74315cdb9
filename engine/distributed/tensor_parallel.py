"""Tensor parallelism: the one file that imports fairscale.

fairscale provides the model-parallel group and the layer classes (`ColumnParallelLinear` splits its output,
`RowParallelLinear` its input). Forward and allocation are overridden. The forward is a plain `F.linear` and at most one
collective. Parameters start on the meta device and are loaded slice by slice, so that a rank never holds more than its
shard. With a single rank there is no process group, and the same layers do not communicate.

It knows layers and groups. It does not know which weights a model has or how a checkpoint stores them.
"""

import contextlib
import io
from typing import Final

import torch
import torch.distributed as dist
import torch.nn.functional as F
from fairscale.nn.model_parallel import initialize as groups
from fairscale.nn.model_parallel.layers import ColumnParallelLinear, ParallelEmbedding, RowParallelLinear
from torch import Tensor, nn

from engine.checkpoint import ModelSpec
from engine.errors import ConfigError

_ALIGN: Final = 32  # columns: a group of quantized weights. The alignment of rows that GPUs need divides it


def check_divisible(spec: ModelSpec, world_size: int) -> None:
    """Raises ConfigError unless the world size divides the query heads. Everything else can be padded or repeated."""
    if spec.n_heads % world_size:
        valid = [n for n in range(1, spec.n_heads + 1) if spec.n_heads % n == 0]
        raise ConfigError(
            "--nproc-per-node",
            expected=f"one of {', '.join(map(str, valid))} (the model has {spec.n_heads} heads)",
            found=str(world_size),
        )


def kv_heads(spec: ModelSpec, world_size: int) -> int:
    """Key/value heads on each rank. If there are more ranks than heads, several ranks hold the same head.

    If the query heads of a rank would belong to parts of two groups, every query head gets its own copy of its
    key/value head.
    """
    if spec.n_kv_heads % world_size == 0:
        return spec.n_kv_heads // world_size
    return 1 if world_size % spec.n_kv_heads == 0 else spec.n_heads // world_size


def kv_sources(spec: ModelSpec, rank: int, world_size: int) -> list[int]:
    """For each key/value head of a rank, the model's head that it is a copy of."""
    count, group_size = kv_heads(spec, world_size), spec.n_heads // spec.n_kv_heads
    queries = spec.n_heads // world_size
    return [(rank * queries + head * queries // count) // group_size for head in range(count)]


def ffn_width(spec: ModelSpec, world_size: int) -> int:
    """Columns of the feed-forward layer on each rank: on one rank all, else whole groups, padded with zeros.

    If a rank's columns began within a group of a quantized file, its weights would be quantized together with weights
    of another group, and would no longer have the file's codes.
    """
    if world_size == 1:
        return spec.ffn_dim
    width = -(-spec.ffn_dim // world_size)
    return _ALIGN * -(-width // _ALIGN)


def start_groups(world_size: int, *, nccl: bool) -> None:
    """Create the model-parallel group of all ranks. The default process group must exist."""
    with contextlib.redirect_stdout(io.StringIO()):  # fairscale prints a banner
        groups.initialize_model_parallel(world_size, model_parallel_backend="nccl" if nccl else "gloo")


def stop_groups() -> None:
    """Destroy the model-parallel group, if there is one."""
    if groups.model_parallel_is_initialized():
        groups.destroy_model_parallel()


def group() -> dist.ProcessGroup | None:
    """The model-parallel group, or None with a single rank."""
    if not groups.model_parallel_is_initialized():
        return None
    model_parallel: dist.ProcessGroup = groups.get_model_parallel_group()
    return model_parallel


def all_reduce(x: Tensor) -> Tensor:
    """Sum `x` over the ranks, in place."""
    process_group = group()
    if process_group is not None:
        dist.all_reduce(x, group=process_group)
    return x


def broadcast(x: Tensor) -> Tensor:
    """Overwrite `x` with rank 0's values, in place."""
    process_group = group()
    if process_group is not None:
        dist.broadcast(x, src=0, group=process_group)
    return x


def gather_columns(x: Tensor, columns: int, out: Tensor | None = None) -> Tensor:
    """Concatenate x [R, n] of all ranks in rank order and keep the first `columns`: [R, columns] on every rank.

    The result is in `out` [R, n * ranks], if given.
    """
    process_group = group()
    if process_group is None:
        return x
    local = x.contiguous()
    if local.is_cuda and dist.get_backend(process_group) == "gloo":
        local = local.cpu()  # gloo gathers on the host only
    shards = [torch.empty_like(local) for _ in range(dist.get_world_size(process_group))]
    dist.all_gather(shards, local, group=process_group)
    if out is None:
        return torch.cat(shards, dim=1)[:, :columns].to(x.device)
    if local.device == x.device:
        torch.cat(shards, dim=1, out=out)
    else:
        out.copy_(torch.cat(shards, dim=1))
    return out[:, :columns]


class ColumnLinear(ColumnParallelLinear):  # type: ignore[misc]  # fairscale is untyped
    """y_local = x W_local^T with this rank's rows of W. The output stays split over the ranks.

    W may be a concatenation (q, k and v; gate and up). `quantized`, if set, computes the product from quantized
    weights, and `weight` may then be deleted. `bias` holds this rank's rows of it, None for a layer without one.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None
    quantized: nn.Module | None

    def __init__(
        self, in_features: int, local_features: int, *, world_size: int, dtype: torch.dtype, bias: bool = False
    ) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = in_features, local_features * world_size
        self.output_size_per_partition = local_features
        self.gather_output = False
        self.weight = _parameter((local_features, in_features), dtype)
        self.bias = _parameter((local_features,), dtype) if bias else None
        self.quantized = None

    def forward(self, x: Tensor) -> Tensor:
        """[R, in_features] -> [R, local_features]."""
        y = local_product(self, x)
        return y if self.bias is None else y + self.bias


class RowLinear(RowParallelLinear):  # type: ignore[misc]  # fairscale is untyped
    """y = sum over ranks of x_local W_local^T with this rank's columns of W. `quantized` as in ColumnLinear.

    Every rank holds the whole `bias`, and adds it to the sum.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None
    quantized: nn.Module | None

    def __init__(
        self, local_features: int, out_features: int, *, world_size: int, dtype: torch.dtype, bias: bool = False
    ) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = local_features * world_size, out_features
        self.input_size_per_partition = local_features
        self.input_is_parallel = True
        self.weight = _parameter((out_features, local_features), dtype)
        self.bias = _parameter((out_features,), dtype) if bias else None
        self.quantized = None

    def forward(self, x: Tensor) -> Tensor:
        """[R, local_features] -> [R, out_features], the same on every rank."""
        y = all_reduce(local_product(self, x))
        return y if self.bias is None else y + self.bias


class Embedding(ParallelEmbedding):  # type: ignore[misc]  # fairscale is untyped
    """The full embedding table on every rank: 2 % of the weights, and one collective less in each step."""

    weight: nn.Parameter

    def __init__(self, num_embeddings: int, embedding_dim: int, *, dtype: torch.dtype) -> None:
        nn.Module.__init__(self)
        self.num_embeddings = num_embeddings
        self.embedding_dim = self.embedding_dim_per_partition = embedding_dim
        self.weight = _parameter((num_embeddings, embedding_dim), dtype)

    def forward(self, ids: Tensor) -> Tensor:
        """[R] -> [R, embedding_dim]."""
        return F.embedding(ids, self.weight)


class OutputLinear(ColumnLinear):
    """Logits of the vocabulary: this rank computes at most `width` of them, from `start` on; then they are gathered.

    If the world size does not divide the vocabulary, the last ranks compute fewer than `width`. They are padded for the
    gather, and the padding is cut off afterwards.
    """

    def __init__(self, in_features: int, vocab: int, *, rank: int, world_size: int, dtype: torch.dtype) -> None:
        width = -(-vocab // world_size)
        start = min(rank * width, vocab)
        super().__init__(in_features, min(width, vocab - start), world_size=world_size, dtype=dtype)
        self.width, self.start, self.vocab = width, start, vocab

    def forward(self, x: Tensor) -> Tensor:
        """[R, in_features] -> float32 logits [R, vocab] on every rank."""
        local = local_product(self, x).float()
        if local.shape[1] < self.width:
            local = F.pad(local, (0, self.width - local.shape[1]))
        return gather_columns(local, self.vocab)


def _parameter(shape: tuple[int, ...], dtype: torch.dtype) -> nn.Parameter:
    """A parameter on the meta device: the loader replaces it by one with storage."""
    return nn.Parameter(torch.empty(shape, dtype=dtype, device="meta"), requires_grad=False)


def local_product(layer: ColumnLinear | RowLinear, x: Tensor) -> Tensor:
    """This rank's product, by the quantized weights if there are any; no bias, no sum over ranks."""
    if layer.quantized is not None:
        result: Tensor = layer.quantized(x)
        return result
    return F.linear(x, layer.weight)
