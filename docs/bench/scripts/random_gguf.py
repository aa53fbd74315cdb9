"""Writes a GGUF file of a published shape with random weights and SmolLM2's vocabulary, for measuring speed.

    python docs/bench/scripts/random_gguf.py OUT.gguf [--shape 1b] [--type Q4_0]

The blocks themselves are random, so nothing has to be quantized. The types of the matrices are those that llama.cpp's
own tool gives a file of this name; the output matrix is the embedding, in Q6_K (in Q8_0 for a Q8_0 file).
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType as Kind

from engine.checkpoint.gguf.container import read_gguf
from engine.checkpoint.gguf.default_model import default_model

Blocks = npt.NDArray[np.uint8]  # [rows, bytes of a row]

# dim, layers, heads, key/value heads, feed-forward width, vocabulary
SHAPES = {
    "tiny": (256, 2, 4, 2, 512, 49152),  # to try things out
    "135m": (576, 30, 9, 3, 1536, 49152),  # SmolLM2's
    "1b": (2048, 16, 32, 8, 8192, 128256),  # Llama-3.2-1B's
    "3b": (3072, 28, 24, 8, 8192, 128256),  # Llama-3.2-3B's
}
TYPES = {"Q4_0": Kind.Q4_0, "Q4_1": Kind.Q4_1, "Q4_K_M": Kind.Q4_K, "Q8_0": Kind.Q8_0}  # of most matrices, by name
CONTEXT = 8192
SPREAD = 0.02  # standard deviation of the weights, about


def write(path: Path, shape: str, kind: str, seed: int = 1) -> None:
    """Write the file; `kind` is one of TYPES."""
    dim, layers, heads, kv_heads, ffn, vocab = SHAPES[shape]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(layers)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(dim)
    writer.add_feed_forward_length(ffn)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(dim // heads)
    writer.add_rope_freq_base(500000.0)
    _add_vocabulary(writer, vocab)
    generator = np.random.default_rng(seed)
    for name, rows, columns in _matrices(dim, layers, dim // heads * kv_heads, ffn, vocab):
        raw_type = _type_of(name, kind, layers, columns)
        writer.add_tensor(name, BLOCKS[raw_type](generator, rows, columns), raw_dtype=raw_type)
    for name in ("output_norm", *(f"blk.{n}.{norm}_norm" for n in range(layers) for norm in ("attn", "ffn"))):
        writer.add_tensor(f"{name}.weight", np.ones(dim, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_vocabulary(writer: Any, vocab: int) -> None:
    """SmolLM2's, filled up with words, so that every token of a reply is text that a server sends on."""
    metadata: Any = read_gguf(default_model()).metadata
    tokens, types = (list(metadata[f"tokenizer.ggml.{name}"]) for name in ("tokens", "token_type"))
    missing = vocab - len(tokens)
    writer.add_tokenizer_model(metadata["tokenizer.ggml.model"])
    writer.add_tokenizer_pre(metadata["tokenizer.ggml.pre"])
    writer.add_token_list([*tokens, *(f"word{n}" for n in range(missing))])
    writer.add_token_types([*types, *[1] * missing])
    writer.add_token_merges(metadata["tokenizer.ggml.merges"])
    writer.add_bos_token_id(metadata["tokenizer.ggml.bos_token_id"])
    writer.add_eos_token_id(metadata["tokenizer.ggml.eos_token_id"])


def _matrices(dim: int, layers: int, kv: int, ffn: int, vocab: int) -> Iterator[tuple[str, int, int]]:
    yield "token_embd.weight", vocab, dim
    for n in range(layers):
        for name, rows, columns in (
            ("attn_q", dim, dim), ("attn_k", kv, dim), ("attn_v", kv, dim), ("attn_output", dim, dim),
            ("ffn_gate", ffn, dim), ("ffn_up", ffn, dim), ("ffn_down", dim, ffn),
        ):  # fmt: skip
            yield f"blk.{n}.{name}.weight", rows, columns


def _type_of(name: str, kind: str, layers: int, columns: int) -> Kind:
    """Q4_K_M has six bits for the output, and for values and the second feed-forward matrix in half of the layers."""
    if kind == "Q8_0" or columns % 256:  # no super-blocks
        return Kind.Q8_0 if name == "token_embd.weight" or kind == "Q4_K_M" else TYPES[kind]
    if name == "token_embd.weight":
        return Kind.Q6_K
    if kind != "Q4_K_M":
        return TYPES[kind]
    layer, matrix = int(name.split(".")[1]), name.split(".")[2]
    outer = layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2
    return Kind.Q6_K if matrix in ("attn_v", "ffn_down") and outer else Kind.Q4_K


def _random(generator: np.random.Generator, rows: int, columns: int, weights: int, width: int) -> Blocks:
    return generator.integers(0, 256, (rows, columns // weights, width), dtype=np.uint8)


def _put(blocks: Blocks, at: int, value: float) -> None:
    """A float16 at byte `at` of each block, a little different in each row."""
    values = value * np.linspace(0.9, 1.1, len(blocks))
    blocks[..., at : at + 2] = values.astype(np.float16).view(np.uint8).reshape(len(blocks), 1, 2)


def _q4_0(generator: np.random.Generator, rows: int, columns: int) -> Blocks:
    blocks = _random(generator, rows, columns, 32, 18)
    _put(blocks, 0, SPREAD / 4.6)  # the spread of nibbles
    return blocks.reshape(rows, -1)


def _q4_1(generator: np.random.Generator, rows: int, columns: int) -> Blocks:
    blocks = _random(generator, rows, columns, 32, 20)
    _put(blocks, 0, SPREAD / 4.6)
    _put(blocks, 2, -7.5 * SPREAD / 4.6)
    return blocks.reshape(rows, -1)


def _q8_0(generator: np.random.Generator, rows: int, columns: int) -> Blocks:
    blocks = _random(generator, rows, columns, 32, 34)
    _put(blocks, 0, SPREAD / 74)
    return blocks.reshape(rows, -1)


def _q4_k(generator: np.random.Generator, rows: int, columns: int) -> Blocks:
    """All sub-blocks have the scale 33 and the minimum 33, as 6-bit numbers in twelve bytes."""
    blocks = _random(generator, rows, columns, 256, 144)
    _put(blocks, 0, SPREAD / 4.6 / 33)
    _put(blocks, 2, 7.5 * SPREAD / 4.6 / 33)
    blocks[..., 4:12] = 33 | 2 << 6
    blocks[..., 12:16] = 1 | 1 << 4
    return blocks.reshape(rows, -1)


def _q6_k(generator: np.random.Generator, rows: int, columns: int) -> Blocks:
    blocks = _random(generator, rows, columns, 256, 210)
    blocks[..., 192:208] = 64
    _put(blocks, 208, SPREAD / 18.5 / 64)
    return blocks.reshape(rows, -1)


BLOCKS: dict[Kind, Callable[[np.random.Generator, int, int], Blocks]] = {
    Kind.Q4_0: _q4_0,
    Kind.Q4_1: _q4_1,
    Kind.Q8_0: _q8_0,
    Kind.Q4_K: _q4_k,
    Kind.Q6_K: _q6_k,
}


def main(arguments: Sequence[str]) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="random_gguf.py")
    parser.add_argument("out", type=Path)
    parser.add_argument("--shape", choices=SHAPES, default="1b")
    parser.add_argument("--type", choices=TYPES, default="Q4_0")
    options = parser.parse_args(arguments)
    write(options.out, options.shape, options.type)
    sys.stdout.write(f"{options.out}: {options.out.stat().st_size / 1e9:.2f} GB\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
