"""A whole step in one call of our compiled code: layers, attention over pages, logits. Python is out of it meanwhile.

It knows how a model's parts are handed over. What is computed is in step.cpp, and what with which rows, the runner's.
"""

import ctypes
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from engine.config import EngineConfig
from engine.distributed.tensor_parallel import ColumnLinear, RowLinear
from engine.layers.paged_attention import PagedKV, Segment
from engine.model.transformer import Transformer
from engine.runner.cpu.linear import Matrix, NativeLinear

_KEYS = 16  # positions that a register may hold: a page has whole registers
_POINTER, _INT = ctypes.c_void_p, ctypes.c_int32


class _Layer(ctypes.Structure):
    _fields_ = (
        *((name, _POINTER) for name in ("attention_norm", "ffn_norm", "k", "v")),
        *((name, Matrix) for name in ("wqkv", "wo", "w13", "w2")),
    )


class _Model(ctypes.Structure):
    _fields_ = (
        *((name, _INT) for name in ("dim", "heads", "kv_heads", "head_dim", "ffn", "page", "layers")),
        ("eps", ctypes.c_float),
        *((name, _POINTER) for name in ("rope", "norm", "layer")),
        ("output", Matrix),
    )


class _Batch(ctypes.Structure):
    _fields_ = (
        *((name, _INT) for name in ("tokens", "segments", "samples")),
        *((name, _POINTER) for name in ("segment", "pages", "sample", "x", "logits")),
    )


class NativeForward:
    def __init__(self, library: ctypes.CDLL, model: Transformer, kv: PagedKV, threads: int) -> None:
        spec, block = model.spec, model.blocks[0]
        self._library, self._threads = library, _INT(threads)
        self._transformer, self._kv = model, kv  # what the pointers point to
        self._layers = (_Layer * spec.n_layers)(
            *(
                _Layer(
                    block.attention_norm.weight.data_ptr(), block.ffn_norm.weight.data_ptr(),
                    k.data_ptr(), v.data_ptr(),
                    _matrix(block.wqkv), _matrix(block.wo), _matrix(block.w13), _matrix(block.w2),
                )
                for block, k, v in zip(model.blocks, kv.k, kv.v, strict=True)
            )
        )  # fmt: skip
        self._model = _Model(
            spec.dim, block.heads, block.kv_heads, block.head_dim, block.ffn, kv.page_size, spec.n_layers,
            spec.norm_eps, model.rope.data_ptr(), model.norm.weight.data_ptr(), ctypes.addressof(self._layers),
            _matrix(model.output),
        )  # fmt: skip

    @staticmethod
    def fits(model: Transformer, config: EngineConfig) -> bool:
        """All products are ours, everything else is in 32 bits, and no other rank has a share."""
        products = [layer.quantized for block in model.blocks for layer in (block.wqkv, block.wo, block.w13, block.w2)]
        return all(isinstance(product, NativeLinear) for product in (*products, model.output.quantized)) and (
            config.world_size,
            config.dtype,
            config.page_size % _KEYS,
        ) == (1, torch.float32, 0)

    def logits(self, tokens: Tensor, segments: Sequence[Segment], last: Sequence[int]) -> Tensor:
        """Token ids, and which of them sample -> the logits of those, [len(last), vocab]."""
        x = self._transformer.tok_embeddings(tokens)
        out = torch.empty(len(last), self._model.output.rows)
        table: list[int] = []
        rows: list[tuple[int, int, int]] = []
        for segment in segments:
            rows.append((segment.start, segment.length, len(table)))
            table += segment.page_ids[: -(-(segment.start + segment.length) // self._kv.page_size)]
        pages, rows_, last_ = (np.array(values, dtype=np.int32) for values in (table, rows, last))
        batch = _Batch(
            len(tokens), len(segments), len(last),
            rows_.ctypes.data, pages.ctypes.data, last_.ctypes.data, x.data_ptr(), out.data_ptr(),
        )  # fmt: skip
        self._library.guildllama_step(ctypes.byref(self._model), ctypes.byref(batch), self._threads)
        return out


def _matrix(layer: ColumnLinear | RowLinear) -> Matrix:
    if not isinstance(layer.quantized, NativeLinear):
        raise TypeError("a layer has other products than ours")
    return layer.quantized.matrix
