"""Small random checkpoints in Meta's format, with the vocabulary of the golden ones."""

import json
import math
import shutil
from pathlib import Path

import torch

from engine.bench.make_checkpoint import synthetic_vocabulary

GOLDEN = Path(__file__).parents[1] / "golden"
VOCAB = 512


def write_checkpoint(
    folder: Path,
    *,
    dim: int = 48,
    heads: int = 12,
    kv_heads: int = 6,
    layers: int = 2,
    multiple_of: int = 24,
    seed: int = 1,
    spread: float = 0.15,
    cycle: int = 0,
    vocab: int = VOCAB,
    codes: int = 0,
) -> Path:
    """One shard in float32. The feed-forward width is Meta's formula: 2/3 of 4 dim, rounded up.

    With `cycle` its replies repeat themselves: an id is mostly followed by the next one of its group of `cycle` ids.
    With `codes` the layers' matrices are whole multiples of a step, up to `codes` of them, so that quantizing them
    changes nothing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    params = {"dim": dim, "n_heads": heads, "n_kv_heads": kv_heads, "n_layers": layers, "multiple_of": multiple_of}
    (folder / "params.json").write_text(json.dumps(params | {"norm_eps": 1e-5, "vocab_size": -1}))
    if vocab == VOCAB:
        shutil.copy(GOLDEN / "llama2-tiny" / "tokenizer.model", folder / "tokenizer.model")
    else:
        (folder / "tokenizer.model").write_bytes(synthetic_vocabulary(vocab))
    ffn = -(-int(2 * 4 * dim / 3) // multiple_of) * multiple_of
    kv = dim // heads * kv_heads
    shapes: dict[str, tuple[int, ...]] = {"tok_embeddings.weight": (vocab, dim), "output.weight": (vocab, dim)}
    for layer in range(layers):
        for name, shape in {
            "attention.wq": (dim, dim),
            "attention.wk": (kv, dim),
            "attention.wv": (kv, dim),
            "attention.wo": (dim, dim),
            "feed_forward.w1": (ffn, dim),
            "feed_forward.w2": (dim, ffn),
            "feed_forward.w3": (ffn, dim),
        }.items():
            shapes[f"layers.{layer}.{name}.weight"] = shape
    generator = torch.Generator().manual_seed(seed)
    state = {name: torch.randn(shape, generator=generator) * spread for name, shape in shapes.items()}
    if codes:
        for name, weight in state.items():
            if name.startswith("layers."):
                state[name] = as_codes(weight, codes, spread)
    if cycle:
        before = [min(number - number % cycle + (number - 1) % cycle, vocab - 1) for number in range(vocab)]
        for name, weight in state.items():
            if name.startswith("layers."):
                weight *= 0.4
        state["output.weight"] = state["tok_embeddings.weight"][before].clone()
    for layer in range(layers):
        for norm in ("attention_norm", "ffn_norm"):
            state[f"layers.{layer}.{norm}.weight"] = 1 + 0.1 * torch.randn(dim, generator=generator)
    state["norm.weight"] = 1 + 0.1 * torch.randn(dim, generator=generator)
    torch.save(state, folder / "consolidated.00.pth")
    return folder


def as_codes(weight: torch.Tensor, codes: int, spread: float) -> torch.Tensor:
    """The nearest multiples of a power of two. Every 32 columns begin with the largest code, which gives the scale.

    For 4 bits every second group has half the step, so that weights of two groups together need more than 16 codes.
    """
    step = torch.full((weight.shape[1],), 2.0 ** round(math.log2(3 * spread / codes)))
    if codes < 8:
        step[torch.arange(len(step)) // 32 % 2 == 1] /= 2
    rounded = (weight / step).round().clamp(-codes, codes)
    rounded[:, ::32] = codes * torch.where(weight[:, ::32] < 0, -1.0, 1.0)
    return rounded * step
