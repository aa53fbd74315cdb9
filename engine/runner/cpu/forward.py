"""A whole forward pass in one call of the compiled code: layers, attention over pages, logits. The GIL is released.

It knows how to pass a model's tensors to C. csrc/step.cpp computes; the runner decides which rows take part.
"""

import ctypes
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from engine.config import EngineConfig
from engine.distributed.tensor_parallel import ColumnLinear, RowLinear
from engine.layers.paged_attention import Segment
from engine.layers.paged_kv import PagedKV
from engine.model.transformer import Block, Transformer
from engine.runner.cpu.linear import Matrix, NativeLinear

_MAX_LANES = 16  # floats of the widest vector register; the positions of a page must fill whole registers
_POINTER, _INT = ctypes.c_void_p, ctypes.c_int32


class _Layer(ctypes.Structure):
    """`Layer` of step.cpp."""

    _fields_ = (
        *((name, _POINTER) for name in ("attention_norm", "post_attention_norm", "ffn_norm", "post_ffn_norm")),
        *((name, _POINTER) for name in ("q_norm", "k_norm", "wqkv_bias", "wo_bias", "w13_bias", "w2_bias")),
        *((name, _POINTER) for name in ("rope", "k", "v", "router", "experts")),
        *((name, ctypes.c_float) for name in ("attention_scale", "softcap")),
        ("window", _INT),
        *((name, Matrix) for name in ("wqkv", "wo", "w13", "w2")),
    )


class _Expert(ctypes.Structure):
    """`Expert` of experts.h."""

    _fields_ = (("w13", Matrix), ("w2", Matrix))


class _Model(ctypes.Structure):
    """`Model` of step.cpp."""

    _fields_ = (
        *(
            (name, _INT)
            for name in ("dim", "heads", "kv_heads", "head_dim", "ffn_dim", "page_size", "num_layers", "gelu")
        ),
        *((name, _INT) for name in ("experts", "experts_per_token", "normalized_experts")),
        *((name, ctypes.c_float) for name in ("norm_eps", "logit_softcap")),
        ("page_stride", ctypes.c_int64),
        *((name, _POINTER) for name in ("norm", "layers")),
        ("output", Matrix),
    )


class _Batch(ctypes.Structure):
    """`Batch` of step.cpp."""

    _fields_ = (
        *((name, _INT) for name in ("num_tokens", "num_segments", "num_samples")),
        *((name, _POINTER) for name in ("segments", "page_ids", "sample_sources", "hidden", "logits")),
    )


class NativeForward:
    """The model and its KV pages as C structs, for a model that it `supports`."""

    def __init__(self, library: ctypes.CDLL, model: Transformer, kv: PagedKV, num_threads: int) -> None:
        spec, block = model.spec, model.blocks[0]
        self._library, self._num_threads = library, _INT(num_threads)
        self._transformer, self._kv = model, kv  # keeps alive what the structs point to
        self._experts = [_experts(block) for block in model.blocks]  # as these are
        self._layers = (_Layer * spec.n_layers)(*map(partial(_layer, model), model.blocks, kv.k, kv.v, self._experts))
        blocks = spec.architecture
        self._model = _Model(
            spec.dim, block.heads, block.kv_heads, block.head_dim, block.ffn, kv.page_size, spec.n_layers,
            blocks.uses_gelu, blocks.experts, blocks.experts_per_token, blocks.normalized_experts,
            spec.norm_eps, blocks.logit_softcap or 0.0, kv.pages.stride(0),
            model.norm.weight.data_ptr(), ctypes.addressof(self._layers), _matrix(model.output),
        )  # fmt: skip

    @staticmethod
    def supports(model: Transformer, config: EngineConfig) -> bool:
        """Whether every matrix is a NativeLinear, all else is float32 on one rank, and pages fill whole registers."""
        linears = [layer.quantized for block in model.blocks for layer in block.linears]
        return all(isinstance(linear, NativeLinear) for linear in (*linears, model.output.quantized)) and (
            config.world_size,
            config.dtype,
            config.page_size % _MAX_LANES,
        ) == (1, torch.float32, 0)

    def logits(self, token_ids: Tensor, segments: Sequence[Segment], sources: Sequence[int]) -> Tensor:
        """Token ids [T] of these segments, in order -> float32 logits [len(sources), vocab] of tokens `sources`."""
        hidden = self._transformer.embed(token_ids)
        logits = torch.empty(len(sources), self._model.output.rows)
        page_ids: list[int] = []
        starts_lengths_pages: list[tuple[int, int, int]] = []
        for segment in segments:
            starts_lengths_pages.append((segment.start, segment.length, len(page_ids)))
            page_ids += segment.page_ids[: -(-(segment.start + segment.length) // self._kv.page_size)]
        c_segments, c_page_ids, c_sources = (
            np.array(values, dtype=np.int32) for values in (starts_lengths_pages, page_ids, sources)
        )
        batch = _Batch(
            len(token_ids), len(segments), len(sources),
            c_segments.ctypes.data, c_page_ids.ctypes.data, c_sources.ctypes.data, hidden.data_ptr(), logits.data_ptr(),
        )  # fmt: skip
        self._library.guildllama_step(ctypes.byref(self._model), ctypes.byref(batch), self._num_threads)
        return logits


def _layer(model: Transformer, block: Block, k: Tensor, v: Tensor, experts: "ctypes.Array[_Expert] | None") -> _Layer:
    norms = (block.attention_norm, block.post_attention_norm, block.ffn_norm, block.post_ffn_norm)
    linears: list[ColumnLinear | RowLinear] = [block.wqkv, block.wo]
    if block.experts is None:
        linears += (block.w13, block.w2)
    biases = [*(linear.bias for linear in linears), None, None][:4]  # experts have none
    pointers = [
        *(None if norm is None else norm.weight for norm in (*norms, block.q_norm, block.k_norm)), *biases,
        model.rope_of(block), k, v, None if block.experts is None else block.experts.router,
    ]  # fmt: skip
    rule = block.rule
    return _Layer(
        *(None if tensor is None else tensor.data_ptr() for tensor in pointers),
        None if experts is None else ctypes.addressof(experts),
        block.head_dim**-0.5 if rule.scale is None else rule.scale, rule.softcap or 0.0, rule.window or 0,
        *(_matrix(linear) for linear in linears),
    )  # fmt: skip


def _experts(block: Block) -> "ctypes.Array[_Expert] | None":
    if block.experts is None:
        return None
    pairs = [_Expert(_matrix(w13), _matrix(w2)) for w13, w2 in block.feed_forwards]
    return (_Expert * len(pairs))(*pairs)


def _matrix(layer: ColumnLinear | RowLinear) -> Matrix:
    if not isinstance(layer.quantized, NativeLinear):
        raise TypeError("the layer is not a NativeLinear")
    return layer.quantized.matrix
