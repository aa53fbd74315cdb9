"""Times the attention of prompts that continue cached contexts, by numbers of splits; prints JSON lines.

    PYTHONPATH=. python docs/bench/scripts/sweeps/chunk_sweep.py --heads 32/32 32/8 8/8 --contexts 600 2000

A cell is a rank's query and kv heads, a step's prompt tokens, the number of chunks that they are divided into, and the
cached tokens of each. Times are µs a layer, from a CUDA graph of more layers than the L2 cache holds. Only attention is
launched, with as many entries in its list as the engine's step has. Results are compared with those of one split.
"""

from __future__ import annotations

import argparse
import json
import sys
from datetime import UTC, datetime

import torch
from graph_timing import microseconds

from engine.config import PAGE_SIZE
from engine.kernels.attention.chunk_attention import chunk_attention
from engine.kernels.pdl import supported
from engine.layers.paged_kv import PagedKV
from engine.runner.cuda.batch.input_batch import BatchShape
from engine.runner.cuda.batch.query_blocks import NO_BLOCK, query_block

GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")
DTYPE = torch.bfloat16 if GPU else torch.float32
DIM, ROWS, LAYERS = 128, 192, 32 if GPU else 1  # ROWS: of the engine's batch, for the length of the list
TOLERANCE = 0.02  # of the largest number


def cell(heads: int, kv_heads: int, tokens: int, chunks: int, context: int, splits: list[int]) -> dict[str, object]:
    """Times by number of splits."""
    block = query_block(BatchShape(0, tokens), gpu=GPU, head_dim=DIM)
    length = tokens // chunks
    pages = -(-(context + length) // PAGE_SIZE)
    kv = PagedKV(LAYERS, chunks * pages, PAGE_SIZE, kv_heads, DIM, DTYPE, DEVICE)
    kv.pages.normal_()
    tables = torch.randperm(chunks * pages, dtype=torch.int32).view(chunks, pages).to(DEVICE)
    qkv = torch.randn(tokens, (heads + 2 * kv_heads) * DIM, device=DEVICE, dtype=DTYPE)
    max_blocks = min(tokens, -(-tokens // block) + ROWS)
    blocks = [
        (row, row * length + at, min(block, length - at), context + at)
        for row in range(chunks) for at in range(0, length, block)
    ]  # fmt: skip
    times: dict[int, float] = {}
    expected: torch.Tensor | None = None
    for number in splits:
        entries = [(*each, split, number) for each in blocks for split in range(number)]
        if len(entries) > max_blocks:
            continue
        entries += [NO_BLOCK] * (max_blocks - len(entries))
        listed = torch.tensor(entries, dtype=torch.int32, device=DEVICE)
        lanes = len(blocks) * number * heads * block
        partial_out, partial_stats = torch.zeros(lanes, DIM, device=DEVICE), torch.zeros(lanes, 2, device=DEVICE)
        counters = torch.zeros(len(blocks) * number * heads, dtype=torch.int32, device=DEVICE)
        out = torch.zeros(tokens, heads * DIM, device=DEVICE, dtype=DTYPE)

        def launch(
            count: int, listed: torch.Tensor = listed, partial_out: torch.Tensor = partial_out,
            partial_stats: torch.Tensor = partial_stats, counters: torch.Tensor = counters, out: torch.Tensor = out,
        ) -> None:  # fmt: skip
            for layer in range(count):
                chunk_attention(
                    qkv, kv.k[layer], kv.v[layer], listed, tables, out, partial_out, partial_stats, counters,
                    heads=heads, block=block, tile=64 if GPU else 16, warps=block // 16, pdl=supported(DEVICE),
                )  # fmt: skip

        launch(1)
        if expected is None:
            expected = out.float()
        elif (out.float() - expected).abs().max() > TOLERANCE * expected.abs().max():
            raise SystemExit(f"{number} splits of {heads} heads give another result")
        times[number] = round(microseconds(launch, LAYERS), 1)
    return {
        "heads": heads, "kv_heads": kv_heads, "tokens": tokens, "chunks": chunks, "context": context, "block": block,
        "us_a_layer": times, "device": torch.cuda.get_device_name() if GPU else "cpu", "torch": torch.__version__,
        "date": datetime.now(UTC).date().isoformat(),
    }  # fmt: skip


def main() -> None:
    """Time the cells that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heads", nargs="+", default=["32/32", "32/8", "8/8"], metavar="QUERY/KV")
    parser.add_argument("--tokens", nargs="+", type=int, default=[64, 128, 512])
    parser.add_argument("--chunks", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--contexts", nargs="+", type=int, default=[256, 600, 2000])
    parser.add_argument("--splits", nargs="+", type=int, default=[1, 2, 3, 4, 6, 8, 12, 16])
    options = parser.parse_args()
    for heads in options.heads:
        query, kv = (int(number) for number in heads.split("/"))
        for tokens in options.tokens:
            for chunks in options.chunks:
                for context in options.contexts:
                    sys.stdout.write(json.dumps(cell(query, kv, tokens, chunks, context, options.splits)) + "\n")
                    sys.stdout.flush()


if __name__ == "__main__":
    main()
