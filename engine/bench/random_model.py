"""A checkpoint without files: a published shape filled with random numbers on the device, for measuring speed.

It has no tokenizer, as benchmarks send token ids. Weights are normal(0, 0.02), as in the measurements of other engines.
"""

from pathlib import Path

import torch

from engine.bench.trace import VOCAB
from engine.checkpoint import ModelSpec
from engine.checkpoint.architecture import Architecture
from engine.tokenizers.base import Tokenizer

# dim, layers, heads, key/value heads, feed-forward width
SHAPES = {
    "7b": (4096, 32, 32, 32, 11008),
    "13b": (5120, 40, 40, 40, 13824),
    "70b": (8192, 80, 64, 8, 28672),
    "8b": (4096, 32, 32, 8, 14336),
    "1b": (2048, 16, 32, 8, 8192),  # Llama 3.2's
    "tiny": (64, 2, 4, 4, 192),
    "moe": (1024, 12, 16, 4, 384),  # Qwen3-30B-A3B's structure at a sixteenth of its size
}
VOCABULARIES = {"8b": 128256, "1b": 128256}  # Llama 3's; the others have Llama 2's
TIED = ("1b",)  # their output matrix is the embedding
BLOCKS = {"moe": Architecture(qk_norm=True, experts=128, experts_per_token=8)}


def spec(shape: str, layers: int | None = None, context: int = 4096, vocab: int | None = None) -> ModelSpec:
    """The spec of a shape, with fewer layers if `layers` is given."""
    dim, n_layers, heads, kv_heads, ffn = SHAPES[shape]
    return ModelSpec(
        format="meta", chat="llama2", dim=dim, n_layers=layers or n_layers, n_heads=heads, n_kv_heads=kv_heads,
        head_dim=dim // heads, ffn_dim=ffn, vocab_size=vocab or VOCABULARIES.get(shape, VOCAB),
        norm_eps=1e-5, rope_theta=10000.0, rope_scaling=None,
        max_context=context, tied_embeddings=shape in TIED, dtype=torch.bfloat16, shards=1,
        architecture=BLOCKS.get(shape, Architecture()),
    )  # fmt: skip


class RandomCheckpoint:
    """Implements `engine.checkpoint.Checkpoint`. Other world sizes get other values of the same distribution."""

    path = Path("random")

    def __init__(self, shape: ModelSpec, seed: int = 1) -> None:
        self.spec = shape
        self._seed = seed

    def tokenizer(self) -> Tokenizer:
        """Not implemented."""
        raise NotImplementedError("a random model has no vocabulary")

    def copy_into(self, name: str, out: torch.Tensor, *, dim: int | None = None, start: int = 0) -> None:
        """Fill `out` with numbers that depend on seed, name, start and device."""
        if name.endswith("norm.weight"):
            out.fill_(1.0)
            return
        seed = sum(ord(c) * 131**i for i, c in enumerate(name)) + start
        generator = torch.Generator(out.device).manual_seed((self._seed * 1_000_003 + seed) % (1 << 62))
        out.normal_(0, 0.02, generator=generator)

    def close(self) -> None:
        """Nothing to close."""
        return
