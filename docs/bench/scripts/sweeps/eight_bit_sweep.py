"""Times products with 8-bit weights, and attention over 8-bit caches, beside bfloat16; prints one JSON line for each.

    python docs/bench/scripts/sweeps/eight_bit_sweep.py [--tokens 1 16 32 64 128 512] [--layers 8] [--scale 1]

It measures the matrices of a 7B, for more layers than the L2 cache holds, in a CUDA graph, with the tilings that the
engine uses, and one step's attention of 32 rows of 600 tokens. `--scale 32` is for a trial without a GPU. Other tilings
for prompts: eight_bit_prompt_sweep.py.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from engine.kernels.attention.decode_attention import decode_attention
from engine.kernels.attention.split_kv import MAX_SPLITS, SplitConfig, split_kv, work_list
from engine.kernels.linear.eight_bit_dequantize import eight_bit_dequantize
from engine.kernels.linear.eight_bit_gemv import eight_bit_gemv
from engine.kernels.linear.eight_bit_matmul import eight_bit_matmul
from engine.kernels.linear.eight_bit_prompt import eight_bit_prompt
from engine.kernels.linear.gemm_configs import (
    eight_bit_gemm_config,
    eight_bit_gemv_config,
    eight_bit_prompt_config,
    gemm_config,
    gemv_config,
    token_block,
)
from engine.kernels.linear.gemv import gemv
from engine.kernels.linear.matmul import GATED, PLAIN, RESIDUAL, PartialSquares, Scratch, matmul
from engine.kernels.pdl import supported
from engine.layers.paged_kv import PagedKV
from engine.model.eight_bit_weight import EightBitWeight, Fp8Weight, Int8Weight
from engine.runner.cuda.layers.linear import EIGHT_BIT_PROMPT_TOKENS
from engine.runner.cuda.layers.scaled_products import ScaledProducts

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
DTYPE = torch.bfloat16 if DEVICE.type == "cuda" else torch.float32
PDL = supported(DEVICE)
SHARED_MEMORY = 232448  # bytes of a program on an H100
SHAPES = {
    "wqkv": (12288, 4096, PLAIN),
    "wo": (4096, 4096, RESIDUAL),
    "w13": (22016, 4096, GATED),
    "w2": (4096, 11008, RESIDUAL),
}
FUSED_TOKENS = 128


def main(arguments: Sequence[str]) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="eight_bit_sweep.py", description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, nargs="+", default=[1, 16, 32, 64, 128, 512])
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--scale", type=int, default=1, help="divide all sizes")
    options = parser.parse_args(arguments)
    for name, (rows, k, kind) in SHAPES.items():
        plain = [random(rows // options.scale, k // options.scale) * 0.02 for _ in range(options.layers)]
        for label, weights in (
            ("bf16", plain),
            ("int8", [Int8Weight(each) for each in plain]),
            ("fp8", [Fp8Weight(each) for each in plain]),
        ):
            for tokens in options.tokens:
                run = product(weights, kind, tokens)
                emit({"product": name, "weights": label, "tokens": tokens, "us": microseconds(run, options.layers)})
    for label, storage in (("bf16", DTYPE), ("int8", torch.int8), ("fp8", torch.float8_e4m3fn)):
        for tile, warps, stages in ((16, 2, 4), (32, 2, 2), (64, 2, 3), (64, 4, 3)):
            run = attention(storage, SplitConfig(32, tile, warps, stages, lanes=16), options.scale)
            emit({"attention": label, "tile": tile, "warps": warps, "stages": stages, "us": microseconds(run, 4)})
    return 0


def random(*shape: int) -> Tensor:
    """Normally distributed numbers in the model's dtype."""
    return torch.randn(shape, device=DEVICE, dtype=DTYPE)


def product(weights: Sequence[Tensor | EightBitWeight], kind: int, tokens: int) -> Callable[[int], object]:
    """The product of `tokens` tokens with one layer's matrix, as the engine computes it."""
    rows, k = weights[0].shape
    bm = token_block(tokens)
    x, gain = random(bm, k), random(k)
    out = torch.zeros(bm, rows // 2 if kind == GATED and tokens <= FUSED_TOKENS else rows, dtype=DTYPE, device=DEVICE)
    squares, scaled = torch.zeros(rows, bm, device=DEVICE), torch.empty_like(out)
    norm = None if kind == RESIDUAL else PartialSquares(torch.ones(64, bm, device=DEVICE), 64)
    scratch, matrix = Scratch.allocate(DEVICE), torch.empty(rows, k, dtype=DTYPE, device=DEVICE)
    products = ScaledProducts(DEVICE, bm, k)

    def one(layer: int) -> None:
        weight, gated, residual = weights[layer], kind == GATED, kind == RESIDUAL
        own_gain = None if residual else gain
        if isinstance(weight, EightBitWeight):
            tiling = eight_bit_gemv_config(k, kind)
            eight_bit_gemv(
                x[:1], weight.words, weight.scales, out[:1], fp8=weight.fp8, gain=own_gain, eps=1e-5, gated=gated,
                residual=residual, pdl=PDL, rows=tiling[0], block=tiling[1], warps=tiling[2],
            )  # fmt: skip
        else:
            block, warps = gemv_config(k, kind)
            gemv(
                x[:1], weight, out[:1], gain=own_gain, eps=1e-5, gated=gated, residual=residual, pdl=PDL, block=block,
                warps=warps, two_rows=True,
            )  # fmt: skip

    def few(layer: int) -> None:
        weight = weights[layer]
        if isinstance(weight, EightBitWeight):
            tiling = eight_bit_gemm_config(rows, k, kind, bm, x.element_size(), SHARED_MEMORY)
            eight_bit_matmul(
                x, weight.words, weight.scales, out, tiling, scratch,
                fp8=weight.fp8, bm=bm, kind=kind, norm=norm, eps=1e-5, gain=gain, scaled=scaled, squares_out=squares,
                pdl=PDL,
            )  # fmt: skip
        else:
            matmul(
                x, weight, out, gemm_config(rows, k, kind, bm, weight.element_size()), scratch, bm=bm,
                kind=kind, norm=norm, eps=1e-5, gain=gain, scaled=scaled, squares_out=squares, pdl=PDL,
            )  # fmt: skip

    def many(layer: int) -> None:
        weight = weights[layer]
        if not isinstance(weight, EightBitWeight):
            torch.mm(x, weight.T, out=out)
        elif weight.fp8:
            products.product(x, weight, out)
        elif tokens <= EIGHT_BIT_PROMPT_TOKENS:
            own, config = eight_bit_prompt_config(rows, tokens, SHARED_MEMORY, bulk=PDL)
            eight_bit_prompt(x, weight.words, weight.scales, out, config, fp8=False, bm=own, pdl=PDL)
        else:
            eight_bit_dequantize(weight.words, weight.scales, matrix, fp8=False, pdl=PDL)
            torch.mm(x, matrix.T, out=out)

    return one if tokens == 1 else few if tokens <= FUSED_TOKENS else many


def attention(storage: torch.dtype, config: SplitConfig, scale: int) -> Callable[[int], object]:
    """Decode attention of one layer: 32 rows, 600 tokens each, 32 heads of 128 elements."""
    rows, context, heads, dim, page_size = max(1, 32 // scale), 600 // min(scale, 8), max(1, 32 // scale), 128, 16
    per_row = context // page_size + 1
    kv = PagedKV(4, rows * per_row, page_size, heads, dim, storage, DEVICE)
    kv.pages.view(torch.uint8).random_(0, 100)
    tables = torch.randperm(rows * per_row, device=DEVICE).to(torch.int32).view(rows, per_row)
    positions = torch.full((rows,), context - 1, dtype=torch.int32, device=DEVICE)
    slots, work = torch.arange(rows, dtype=torch.int32, device=DEVICE), work_list(config.max_work_items(rows), DEVICE)
    split_kv(slots, positions, work, config=config)
    cos, sin = torch.ones(context, dim // 2, device=DEVICE), torch.zeros(context, dim // 2, device=DEVICE)
    qkv, out = random(rows, 3 * heads * dim), torch.empty(rows, heads * dim, dtype=DTYPE, device=DEVICE)
    partial_out, partial_stats = (torch.empty(rows * heads * MAX_SPLITS, n, device=DEVICE) for n in (dim, 2))
    counters = torch.zeros(rows * heads, dtype=torch.int32, device=DEVICE)

    def run(layer: int) -> None:
        decode_attention(
            qkv, kv.k[layer], kv.v[layer], work, slots, positions, tables, cos, sin, out, partial_out, partial_stats,
            counters, heads=heads, config=config, scales=kv.layer_scales[layer], pdl=PDL,
        )  # fmt: skip

    return run


def microseconds(run: Callable[[int], object], layers: int) -> float:
    """Of one layer, by replaying a graph of all of them."""
    run(0)
    if DEVICE.type != "cuda":
        started = time.perf_counter()
        run(0)
        return round((time.perf_counter() - started) * 1e6, 2)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for layer in range(layers):
            run(layer)
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]  # torch's
    graph.replay()
    start.record()
    for _ in range(10):
        graph.replay()
    end.record()
    torch.cuda.synchronize()
    spent = float(start.elapsed_time(end))  # ms
    return round(spent * 1e3 / 10 / layers, 2)


def emit(line: dict[str, object]) -> None:
    """Print a JSON line."""
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
