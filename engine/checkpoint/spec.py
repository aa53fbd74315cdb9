"""What a checkpoint is once its file format no longer matters: shapes, names and the promise of `copy_into`.

Tensors carry Meta's names and Meta's row order (interleaved RoPE), whatever the file says.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import Tensor

from engine.tokenizers.base import Tokenizer

Format = Literal["meta", "huggingface", "gguf"]
Chat = Literal["llama2", "llama3", "chatml", "mistral"]


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """Llama 3.1's stretching of the low RoPE frequencies."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_context: int


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """The shape of a Llama and how to talk to it.

    `dtype` is what the weights are stored in (float32 where they are stored in quantised blocks, since that is what
    they decode to); `quantization` names those blocks. `default_system` is the system message that the model's own
    chat template inserts when the dialog has none.
    """

    format: Format
    chat: Chat
    dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    ffn_dim: int
    vocab_size: int
    norm_eps: float
    rope_theta: float
    rope_scaling: RopeScaling | None
    max_context: int
    tied_embeddings: bool
    dtype: torch.dtype
    shards: int
    quantization: str | None = None
    default_system: str | None = None


class Checkpoint(Protocol):
    """An opened and validated checkpoint; no weight has been read yet."""

    @property
    def path(self) -> Path: ...

    @property
    def spec(self) -> ModelSpec: ...

    def tokenizer(self) -> Tokenizer: ...

    def copy_into(self, name: str, out: Tensor, *, dim: int | None = None, start: int = 0) -> None:
        """Fill `out` with tensor `name`, or with its slice [start : start + out.shape[dim]) along `dim`."""

    def close(self) -> None: ...


def tensor_shapes(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Every tensor that a checkpoint of this shape must hold, and nothing else."""
    q, kv = spec.n_heads * spec.head_dim, spec.n_kv_heads * spec.head_dim
    layer: dict[str, tuple[int, ...]] = {
        "attention.wq.weight": (q, spec.dim),
        "attention.wk.weight": (kv, spec.dim),
        "attention.wv.weight": (kv, spec.dim),
        "attention.wo.weight": (spec.dim, q),
        "feed_forward.w1.weight": (spec.ffn_dim, spec.dim),
        "feed_forward.w2.weight": (spec.dim, spec.ffn_dim),
        "feed_forward.w3.weight": (spec.ffn_dim, spec.dim),
        "attention_norm.weight": (spec.dim,),
        "ffn_norm.weight": (spec.dim,),
    }
    shapes: dict[str, tuple[int, ...]] = {"tok_embeddings.weight": (spec.vocab_size, spec.dim)}
    for n in range(spec.n_layers):
        shapes |= {f"layers.{n}.{name}": shape for name, shape in layer.items()}
    shapes["norm.weight"] = (spec.dim,)
    if not spec.tied_embeddings:
        shapes["output.weight"] = (spec.vocab_size, spec.dim)
    return shapes
