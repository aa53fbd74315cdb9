"""How much memory a model's weights need, computed from the shapes of its tensors.

Knows the layouts of weights on a CPU and on a GPU; reads no weights.
"""

import math

import torch

from engine.checkpoint import ModelSpec, tensor_shapes
from engine.config import default_dtype, default_quantize
from engine.distributed.tensor_parallel import ffn_width, kv_heads
from engine.model.quantization import quantized_bytes


def weight_bytes(spec: ModelSpec, world_size: int, dtype: torch.dtype) -> int:
    """Bytes on the largest rank: every rank holds the embeddings and norms, and its shard of the other matrices."""
    total = 0
    for name, shape in tensor_shapes(spec).items():
        replicated = name == "tok_embeddings.weight" or len(shape) == 1
        total += math.prod(shape[1:]) * (shape[0] if replicated else -(-shape[0] // world_size))
    return total * dtype.itemsize


def quantized_weight_bytes(spec: ModelSpec, world_size: int, dtype: torch.dtype, bits: int) -> int:
    """Bytes of a rank on a GPU whose layers' matrices have `bits` bits; embeddings, norms and output keep `dtype`."""
    heads, ffn = spec.n_heads // world_size, ffn_width(spec, world_size)
    qkv, attended = (heads + 2 * kv_heads(spec, world_size)) * spec.head_dim, heads * spec.head_dim
    feed_forward = ((2 * ffn, spec.dim), (spec.dim, ffn)) * max(1, spec.architecture.experts)
    shapes = ((qkv, spec.dim), (spec.dim, attended), *feed_forward)
    layer = sum(quantized_bytes(rows, columns, bits) for rows, columns in shapes) + 2 * spec.dim * dtype.itemsize
    output = 0 if spec.tied_embeddings else -(-spec.vocab_size // world_size)
    return spec.n_layers * layer + (spec.vocab_size + output + 1) * spec.dim * dtype.itemsize


def served_bytes(spec: ModelSpec, world_size: int, *, on_gpu: bool) -> int:
    """Bytes of a rank's weights with `--quantize auto` and `--dtype auto`."""
    quantize, dtype = default_quantize(spec, on_gpu=on_gpu), default_dtype(spec, on_gpu=on_gpu)
    if quantize == "none":
        return weight_bytes(spec, world_size, dtype)
    bits = 4 if quantize == "int4" else 8
    if on_gpu:
        return quantized_weight_bytes(spec, world_size, dtype, bits)
    return cpu_weight_bytes(spec, bits, world_size)


def cpu_weight_bytes(spec: ModelSpec, bits: int, world_size: int = 1) -> int:
    """Bytes of a rank on a CPU whose layers' matrices have `bits` bits, the output 8, the embeddings 32.

    Groups of 32 have a scale. Every rank holds the embeddings.
    """
    matrices = sum(
        math.prod(shape)
        for name, shape in tensor_shapes(spec).items()
        if len(shape) == 2 and name.startswith("layers.")
    )
    layers = matrices * (5 / 8 if bits == 4 else 8.5 / 8)  # 4 bits also have a minimum for each group
    output = spec.vocab_size * spec.dim * 8.5 / 8
    return int((layers + output) / world_size) + spec.vocab_size * spec.dim * 4
