"""Loads this rank's shard of a model from a checkpoint, layer by layer, directly onto the device.

It knows which slices of which tensors make up a rank's fused parameters, and nothing of files. A parameter is allocated
just before it is filled, so with quantized weights only one layer at a time is in memory unquantized; or all are
allocated first, by `allocate_model`.
"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Final

import torch
from torch import Tensor, nn

from engine.checkpoint import Checkpoint, ModelSpec
from engine.config import EngineConfig
from engine.distributed.tensor_parallel import ColumnLinear, RowLinear, kv_sources
from engine.load_progress import READING, LoadProgress, LoadStage
from engine.model.rope import local_rope_table, rope_table
from engine.model.transformer import Block, Transformer

NUM_LOADERS: Final = 4  # tensors of a block filled at a time: while one is checked, others are read

Slice = tuple[str, Tensor, int | None, int]  # name, destination, dim, start


def load_model(
    config: EngineConfig,
    checkpoint: Checkpoint,
    on_block_loaded: Callable[[Block], None] | None = None,
    progress: LoadProgress | None = None,
    *,
    exact: bool = False,
) -> Transformer:
    """The model of `config.rank`, filled. `on_block_loaded` may quantize each block as soon as it is filled.

    `progress` learns of each byte of the unquantized weights. `exact`: `on_block_loaded` gets the matrices in float32,
    so that it sees the file's own values where the file is quantized.

    ConfigError if the checkpoint cannot be read or has weights that are not finite.
    """
    model = _make_model(config, checkpoint.spec)
    fill_model(model, config, checkpoint, on_block_loaded, progress, exact=exact)
    return model


def allocate_model(config: EngineConfig, spec: ModelSpec) -> Transformer:
    """The model of `config.rank` with zeros instead of weights, for `fill_model`."""
    model = _make_model(config, spec)
    modules: list[nn.Module] = [model.tok_embeddings, model.norm, *model.blocks]
    for module in modules:
        allocate(module, config.device)
    _allocate_output(model, config, spec)
    for parameter in model.parameters():
        parameter.zero_()
    return model


def fill_model(
    model: Transformer,
    config: EngineConfig,
    checkpoint: Checkpoint,
    on_block_loaded: Callable[[Block], None] | None = None,
    progress: LoadProgress | None = None,
    *,
    exact: bool = False,
    cancelled: threading.Event | None = None,
) -> None:
    """Read the weights into the model; see `load_model`. When `cancelled` is set, it returns after the next layer."""
    spec, device = checkpoint.spec, config.device
    stage = (progress or LoadProgress()).begin(READING, _num_bytes(model, checkpoint))
    for module, name in ((model.tok_embeddings, "tok_embeddings.weight"), (model.norm, "norm.weight")):
        allocate(module, device)
        checkpoint.copy_into(name, module.weight)
        stage.advance(module.weight.nbytes)
    _allocate_output(model, config, spec)
    if not spec.tied_embeddings:
        checkpoint.copy_into("output.weight", model.output.weight, dim=0, start=model.output.start)
        stage.advance(model.output.weight.nbytes)
    with ThreadPoolExecutor(NUM_LOADERS, thread_name_prefix="loader") as threads:
        for number, block in enumerate(model.blocks):
            if cancelled is not None and cancelled.is_set():
                return
            if exact:
                for layer in block.linears:
                    layer.weight = _parameter(layer.weight.shape, torch.float32, torch.device("meta"))
            allocate(block, device)
            _fill_block(block, f"layers.{number}", checkpoint, config, threads, stage)
            if on_block_loaded is not None:
                on_block_loaded(block)


def allocate(module: nn.Module, device: torch.device) -> None:
    """Give the module's parameters that have shapes only memory on the device. Their values are undefined.

    `Module.to_empty` does this too, but imports SymPy, which takes 0.3 to 2.6 s. Buffers are left as they are.
    """
    for owner in module.modules():
        for name, parameter in owner.named_parameters(recurse=False):
            if parameter.is_meta:
                setattr(owner, name, _parameter(parameter.shape, parameter.dtype, device))


def _make_model(config: EngineConfig, spec: ModelSpec) -> Transformer:
    """With shapes instead of weights."""
    model = Transformer(spec, rank=config.rank, world_size=config.world_size, dtype=config.dtype)
    fill_rope(model, config.max_context, config.device)
    return model.eval()


def _parameter(shape: torch.Size, dtype: torch.dtype, device: torch.device) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape, dtype=dtype, device=device), requires_grad=False)


def fill_rope(model: Transformer, max_context: int, device: torch.device) -> None:
    """Compute the RoPE tables for contexts of up to `max_context` tokens; with LongRoPE it chooses the factors."""
    model.rope = rope_table(model.spec, max_context, device)
    model.local_rope = local_rope_table(model.spec, max_context, device)


def _num_bytes(model: Transformer, checkpoint: Checkpoint) -> int:
    """Bytes of this rank's weights, before any is quantized; the output matrix may be the embeddings."""
    tied = model.output.weight.nbytes if checkpoint.spec.tied_embeddings else 0
    return sum(parameter.nbytes for parameter in model.parameters()) - tied


def _fill_block(
    block: Block,
    prefix: str,
    checkpoint: Checkpoint,
    config: EngineConfig,
    threads: Executor,
    stage: LoadStage,
) -> None:
    spec, rank = checkpoint.spec, config.rank
    q = block.heads * block.head_dim
    slices: list[Slice] = [("attention.wo.weight", block.wo.weight, 1, rank * q)]
    if block.experts is not None:
        slices.append(("feed_forward.router.weight", block.experts.router, None, 0))
    for number, (w13, w2) in enumerate(block.feed_forwards):
        at = "feed_forward" if block.experts is None else f"feed_forward.experts.{number}"
        slices += _feed_forward_slices(at, w13, w2, block.ffn, spec, rank)
    for kind, qkv in (("weight", block.wqkv.weight), ("bias", block.wqkv.bias)):  # which have the same rows
        if qkv is not None:
            kv = block.kv_heads * block.head_dim
            slices += (
                (f"attention.wq.{kind}", qkv[:q], 0, rank * q),
                *_kv_slices(f"attention.wk.{kind}", qkv[q : q + kv], block.head_dim, config, spec),
                *_kv_slices(f"attention.wv.{kind}", qkv[q + kv :], block.head_dim, config, spec),
            )
    norms = {
        "attention_norm": block.attention_norm,
        "ffn_norm": block.ffn_norm,
        "attention.q_norm": block.q_norm,
        "attention.k_norm": block.k_norm,
        "post_attention_norm": block.post_attention_norm,
        "post_ffn_norm": block.post_ffn_norm,
    }
    slices += ((f"{name}.weight", norm.weight, None, 0) for name, norm in norms.items() if norm is not None)
    if block.wo.bias is not None:
        slices.append(("attention.wo.bias", block.wo.bias, None, 0))

    def fill(part: Slice) -> None:
        name, out, dim, offset = part
        checkpoint.copy_into(f"{prefix}.{name}", out, dim=dim, start=offset)
        stage.advance(out.numel() * config.dtype.itemsize)

    # `list` waits for all and raises the first error.
    list(threads.map(fill, [part for part in slices if part[1].numel()]))


def _feed_forward_slices(
    at: str, w13: ColumnLinear, w2: RowLinear, ffn: int, spec: ModelSpec, rank: int
) -> Iterator[Slice]:
    """This rank's columns, `ffn` of them. Zeros pad them to equal width on all ranks; they add nothing to the sum."""
    start = min(rank * ffn, spec.ffn_dim)
    unpadded = min(ffn, spec.ffn_dim - start)
    for kind, gate_up in (("weight", w13.weight), ("bias", w13.bias)):
        if gate_up is not None:
            if unpadded < ffn:
                gate_up.zero_()
            yield f"{at}.w1.{kind}", gate_up[:unpadded], 0, start
            yield f"{at}.w3.{kind}", gate_up[ffn : ffn + unpadded], 0, start
    if unpadded < ffn:
        w2.weight.zero_()
    yield f"{at}.w2.weight", w2.weight[:, :unpadded], 1, start
    if w2.bias is not None:
        yield f"{at}.w2.bias", w2.bias, None, 0


def _kv_slices(
    name: str, out: Tensor, head_dim: int, config: EngineConfig, spec: ModelSpec
) -> Iterator[tuple[str, Tensor, int, int]]:
    """(name, destination, dim, start) of this rank's key or value heads: one slice if adjacent, else one a head."""
    sources = kv_sources(spec, config.rank, config.world_size)
    if sources == list(range(sources[0], sources[0] + len(sources))):
        yield name, out, 0, sources[0] * head_dim
        return
    for local, source in enumerate(sources):
        yield name, out[local * head_dim : (local + 1) * head_dim], 0, source * head_dim


def _allocate_output(model: Transformer, config: EngineConfig, spec: ModelSpec) -> None:
    output = model.output
    if spec.tied_embeddings:
        # A view of the embedding's rows that this rank computes: storage is shared.
        shared = model.tok_embeddings.weight[output.start : output.start + output.output_size_per_partition]
        output.weight = nn.Parameter(shared, requires_grad=False)
        return
    allocate(output, config.device)
