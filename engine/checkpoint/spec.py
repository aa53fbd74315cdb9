"""What every checkpoint provides, independent of its file format: model shape, tensor names, `copy_into`.

Tensors have Meta's names and Meta's row order (interleaved RoPE), whatever the files use.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import Tensor

from engine.checkpoint.architecture import Architecture, RopeScaling
from engine.checkpoint.chat_template import StoredTemplate
from engine.tokenizers.base import Tokenizer

CheckpointFormat = Literal["meta", "huggingface", "gguf"]
ChatFamily = Literal["llama2", "llama3", "chatml", "mistral", "other"]


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """The sizes of a model, what its blocks consist of, and its chat format. `family` is for people to read.

    `dtype` is the dtype of the stored weights. Where those are quantized, it is float32 in a GGUF file, whose blocks
    decode to it, and else that of the embeddings or norms. `quantization` names the block types, the most frequent
    first ("Q4_1+Q8_0"), or a scheme and its method ("int4 in groups of 128 (gptq)"); `config` tells 4 bits from more by
    how it begins. `stored_bits` is the average of a weight. `shards` is the number of weight
    files. `chat_template` is the model's own, if its files have one. `default_system` is the system message that it
    inserts when a dialog has none. `padding_ids` are ids that are never sampled: rows of the embedding matrix without a
    token.
    """

    format: CheckpointFormat
    chat: ChatFamily
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
    stored_bits: float | None = None
    default_system: str | None = None
    chat_template: StoredTemplate | None = None
    padding_ids: tuple[int, ...] = ()
    family: str = "llama"
    architecture: Architecture = field(default_factory=Architecture)

    @property
    def rotary_dim(self) -> int:
        """The dimensions of a head that RoPE rotates."""
        return self.architecture.rotary_dim or self.head_dim

    def window(self, layer: int) -> int | None:
        """The tokens that a token of this layer sees, itself included; None for all."""
        windows = self.architecture.windows
        return windows[layer] if windows else None


class Checkpoint(Protocol):
    """An opened and validated checkpoint. No weight has been read yet."""

    @property
    def path(self) -> Path:
        """The directory or file that was opened."""
        ...

    @property
    def spec(self) -> ModelSpec:
        """The model's shape and chat format."""
        ...

    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer, built on the first call."""
        ...

    def copy_into(self, name: str, out: Tensor, *, dim: int | None = None, start: int = 0) -> None:
        """Fill `out` with tensor `name`, or with its slice [start, start + out.shape[dim]) along `dim`.

        `out` may be on any device, of any float dtype and non-contiguous. ValueError if the slice is out of range;
        ConfigError if the file cannot be read or holds NaN or infinity there. Several threads may call it at a time.
        """

    def close(self) -> None:
        """Close the files and stop the reader threads."""


def tensor_shapes(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that a checkpoint of this shape must hold; it may hold no others."""
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
    blocks = spec.architecture
    if blocks.experts:
        matrices = {name: layer.pop(f"feed_forward.{name}.weight") for name in ("w1", "w2", "w3")}
        layer["feed_forward.router.weight"] = (blocks.experts, spec.dim)
        for expert in range(blocks.experts):
            layer |= {f"feed_forward.experts.{expert}.{name}.weight": shape for name, shape in matrices.items()}
    if blocks.qkv_bias:
        layer |= {"attention.wq.bias": (q,), "attention.wk.bias": (kv,), "attention.wv.bias": (kv,)}
    if blocks.output_bias:
        layer["attention.wo.bias"] = (spec.dim,)
    if blocks.ffn_bias:
        layer |= {"feed_forward.w1.bias": (spec.ffn_dim,), "feed_forward.w3.bias": (spec.ffn_dim,)}
        layer["feed_forward.w2.bias"] = (spec.dim,)
    if blocks.qk_norm:
        layer |= {"attention.q_norm.weight": (spec.head_dim,), "attention.k_norm.weight": (spec.head_dim,)}
    if blocks.post_norms:
        layer |= {"post_attention_norm.weight": (spec.dim,), "post_ffn_norm.weight": (spec.dim,)}
    shapes: dict[str, tuple[int, ...]] = {"tok_embeddings.weight": (spec.vocab_size, spec.dim)}
    for n in range(spec.n_layers):
        shapes |= {f"layers.{n}.{name}": shape for name, shape in layer.items()}
    shapes["norm.weight"] = (spec.dim,)
    if not spec.tied_embeddings:
        shapes["output.weight"] = (spec.vocab_size, spec.dim)
    return shapes
