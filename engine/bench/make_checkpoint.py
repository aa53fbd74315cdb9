"""Writes random checkpoints in Meta's format and published shapes, for tests and benchmarks without the real files.

    python -m engine.bench.make_checkpoint OUT --shape 7b|13b|70b|small|tiny [--shards N] [--layers N] [--seed S]

Values depend on seed, tensor and position only, so any number of shards gives the same model. They come from one pool
of normal numbers, which each tensor reads from another offset on, so writing is as fast as the disk.
"""

import argparse
import json
import os
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from engine.checkpoint.meta import SPLIT_DIM
from engine.checkpoint.pickled import locate_tensors, read_shard
from engine.checkpoint.reading import Extent
from engine.tokenizers.sentencepiece_model import model_bytes

Bfloat16Bits = npt.NDArray[np.uint16]  # numpy has no bfloat16

_POOL_SIZE, _SMALL_POOL_SIZE = (1 << 25) - 39, (1 << 20) - 3  # prime, so that rows of a matrix are not equal
_WRITE_WEIGHTS = 1 << 23  # weights written at a time
_NUM_WRITERS = 4


@dataclass(frozen=True, slots=True)
class Shape:
    """What params.json says of a model, and its number of .pth files."""

    dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    multiple_of: int
    vocab_size: int
    shards: int
    ffn_dim_multiplier: float | None = None

    @property
    def ffn_dim(self) -> int:
        """Meta's formula, as in `engine.checkpoint.meta`."""
        hidden = int(2 * (4 * self.dim) / 3)
        if self.ffn_dim_multiplier is not None:
            hidden = int(self.ffn_dim_multiplier * hidden)
        return self.multiple_of * -(-hidden // self.multiple_of)


SHAPES = {
    "7b": Shape(4096, 32, 32, 32, 256, 32000, 1),
    "13b": Shape(5120, 40, 40, 40, 256, 32000, 2),
    "70b": Shape(8192, 80, 64, 8, 4096, 32000, 8, 1.3),
    "small": Shape(512, 4, 8, 4, 64, 4096, 2),  # divisible among up to eight ranks
    "tiny": Shape(64, 2, 4, 4, 16, 512, 1),
}


def make_checkpoint(out: Path, shape: Shape, *, seed: int = 1, tokenizer: Path | None = None) -> None:
    """Write params.json, the shards and tokenizer.model (a copy of `tokenizer`, or a synthetic one) into `out`."""
    out.mkdir(parents=True, exist_ok=True)
    params: dict[str, int | float] = {
        "dim": shape.dim,
        "multiple_of": shape.multiple_of,
        "n_heads": shape.n_heads,
        "n_layers": shape.n_layers,
        "norm_eps": 1e-05,
        "vocab_size": -1,
    }
    if shape.n_kv_heads != shape.n_heads:
        params["n_kv_heads"] = shape.n_kv_heads
    if shape.ffn_dim_multiplier is not None:
        params["ffn_dim_multiplier"] = shape.ffn_dim_multiplier
    (out / "params.json").write_text(json.dumps(params))
    model = tokenizer.read_bytes() if tokenizer else synthetic_vocabulary(shape.vocab_size)
    (out / "tokenizer.model").write_bytes(model)
    pool = _random_pool(seed, _POOL_SIZE if shape.dim > 1024 else _SMALL_POOL_SIZE)
    for shard in range(shape.shards):
        _write_shard(out / f"consolidated.{shard:02}.pth", shape, shard, pool)


def _matrices(shape: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    q, kv = shape.dim, shape.dim // shape.n_heads * shape.n_kv_heads
    yield "tok_embeddings.weight", (shape.vocab_size, shape.dim)
    for n in range(shape.n_layers):
        at = f"layers.{n}."
        yield at + "attention.wq.weight", (q, shape.dim)
        yield at + "attention.wk.weight", (kv, shape.dim)
        yield at + "attention.wv.weight", (kv, shape.dim)
        yield at + "attention.wo.weight", (shape.dim, q)
        yield at + "feed_forward.w1.weight", (shape.ffn_dim, shape.dim)
        yield at + "feed_forward.w2.weight", (shape.dim, shape.ffn_dim)
        yield at + "feed_forward.w3.weight", (shape.ffn_dim, shape.dim)
        yield at + "attention_norm.weight", (shape.dim,)
        yield at + "ffn_norm.weight", (shape.dim,)
    yield "norm.weight", (shape.dim,)
    yield "output.weight", (shape.vocab_size, shape.dim)


def _split_dim(name: str) -> int | None:
    return 1 if name == "tok_embeddings.weight" else SPLIT_DIM.get(name.split(".")[-2])  # as Llama 2's files have it


def _random_pool(seed: int, size: int) -> Bfloat16Bits:
    normal = np.random.default_rng(seed).standard_normal(size, dtype=np.float32) * np.float32(0.02)
    bits: Bfloat16Bits = torch.from_numpy(normal).bfloat16().view(torch.int16).numpy().view(np.uint16)
    return bits


def _write_shard(file: Path, shape: Shape, shard: int, pool: Bfloat16Bits) -> None:
    """Let torch write the archive without the storages' data, then write the data at their offsets."""
    tensors: dict[str, torch.Tensor] = {}
    full = dict(_matrices(shape))
    for name, dims in full.items():
        split_dim = _split_dim(name)
        local = [size // shape.shards if d == split_dim else size for d, size in enumerate(dims)]
        if split_dim is not None and dims[split_dim] % shape.shards:
            raise SystemExit(f"{name} {dims} does not split into {shape.shards} shards")
        tensors[name] = torch.empty(local, dtype=torch.bfloat16)  # not written to, so not resident
    with torch.serialization.skip_data():
        torch.save(tensors, file)
    parts = locate_tensors(file, read_shard(file))
    del tensors
    descriptor = os.open(file, os.O_WRONLY)
    try:
        with ThreadPoolExecutor(_NUM_WRITERS) as writers:
            jobs = [
                writers.submit(piece)
                for name, dims in full.items()
                for piece in _write_jobs(descriptor, parts[name].source, name, dims, shard, shape.shards, pool)
            ]
            for job in jobs:
                job.result()
    finally:
        os.close(descriptor)


def _write_jobs(
    descriptor: int,
    extent: object,
    name: str,
    dims: tuple[int, ...],
    shard: int,
    shards: int,
    pool: Bfloat16Bits,
) -> Iterator[Callable[[], None]]:
    if not isinstance(extent, Extent):
        raise TypeError(f"{name} has no place in the file")
    cols = dims[1] if len(dims) == 2 else 1
    split_dim = _split_dim(name)
    top = shard * extent.rows if split_dim == 0 else 0
    left = shard * extent.cols if split_dim == 1 else 0
    start = zlib.crc32(name.encode())
    step = max(1, _WRITE_WEIGHTS // cols)

    def write(first: int, count: int) -> None:
        begin, needed = (start + (top + first) * cols) % len(pool), count * cols
        values = pool[begin : begin + needed]
        while len(values) < needed:  # the pool is a ring
            values = np.concatenate([values, pool[: needed - len(values)]])
        values = values.reshape(count, cols)[:, left : left + extent.cols]
        if len(dims) == 1:  # a norm's weights are near 1
            around_one = torch.from_numpy(values.view(np.int16).copy()).view(torch.bfloat16) + 1
            values = around_one.view(torch.int16).numpy().view(np.uint16)
        data = np.ascontiguousarray(values).data.cast("B")
        offset = extent.offset + first * extent.row_bytes
        while data:
            written = os.pwrite(descriptor, data, offset)
            data, offset = data[written:], offset + written

    for first in range(0, extent.rows, step):
        count = min(step, extent.rows - first)
        yield partial(write, first, count)


def synthetic_vocabulary(size: int) -> bytes:
    """A SentencePiece model like Llama 2's without training: bytes, letters and combinations of letters."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    types = [2, 3, 3, *[6] * 256]
    letters = "etaoinshrdlucmfwypvbgkjqxz"
    single = ["\u2581", *letters, *letters.upper(), *"0123456789.,:;!?'\"()[]<>/-\n"]
    words = ("".join(parts) for n in (2, 3, 4) for parts in product(["", "\u2581"], *[letters] * n))
    for token in [*single, *(word for word, _ in zip(words, range(size), strict=False))]:
        if len(tokens) < size:
            tokens.append(token)
            types.append(1)
    scores = [0.0] * 259 + [-float(n) for n in range(size - 259)]
    return model_bytes(tokens, scores, types, bos_id=1, eos_id=2, add_space_prefix=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m engine.bench.make_checkpoint")
    parser.add_argument("out", type=Path)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="7b")
    parser.add_argument("--shards", type=int, help="number of .pth files (default: as published)")
    parser.add_argument("--layers", type=int, help="number of layers (default: as published)")
    parser.add_argument("--kv-heads", type=int, help="number of key/value heads (default: as published)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tokenizer", type=Path, help="tokenizer.model to take (default: a made-up vocabulary)")
    given = parser.parse_args(arguments)
    shape = SHAPES[given.shape]
    shape = replace(
        shape,
        shards=given.shards or shape.shards,
        n_layers=given.layers or shape.n_layers,
        n_kv_heads=given.kv_heads or shape.n_kv_heads,
    )
    if given.tokenizer:
        import sentencepiece

        shape = replace(
            shape, vocab_size=sentencepiece.SentencePieceProcessor(model_file=str(given.tokenizer)).vocab_size()
        )
    make_checkpoint(given.out, shape, seed=given.seed, tokenizer=given.tokenizer)
    size = sum(file.stat().st_size for file in given.out.glob("*.pth"))
    sys.stdout.write(f"{given.out}: {shape.shards} shards, {size / 1e9:.2f} GB\n")


if __name__ == "__main__":
    main()
