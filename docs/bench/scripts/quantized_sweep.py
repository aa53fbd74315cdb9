"""Times matrix products with quantized weights for many tilings; prints one JSON line for each.

    python docs/bench/scripts/quantized_sweep.py [--bits 4] [--tokens 1 32] [--layers 8]

It measures the matrices of a 7B, for more layers than the L2 cache holds, in a CUDA graph. The first line of a product
is the tiling that the engine uses; the others follow, fastest last. Kernel "dequantize" is what a prefill step pays for
the matrix in addition.
"""

import argparse
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from engine.kernels.linear.dequantize import dequantize
from engine.kernels.linear.gemm_configs import quantized_gemm_config, quantized_gemv_config, token_block
from engine.kernels.linear.matmul import GATED, PLAIN, RESIDUAL, GemmConfig, Scratch, matmul
from engine.kernels.linear.quantized_gemv import quantized_gemv
from engine.kernels.pdl import supported
from engine.model.quantization import num_lines, quantized_weight
from engine.model.quantized_weight import QuantizedWeight

Run = Callable[[QuantizedWeight], object]
SHAPES = {
    "wqkv": (12288, 4096, PLAIN),
    "wo": (4096, 4096, RESIDUAL),
    "w13": (22016, 4096, GATED),
    "w2": (4096, 11008, RESIDUAL),
}
SHARED_MEMORY = 232448  # bytes of a block on an H100


def main(arguments: Sequence[str]) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="quantized_sweep.py", description=__doc__.splitlines()[0])
    parser.add_argument("--bits", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--tokens", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--layers", type=int, default=8)
    options = parser.parse_args(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for bits, (name, (rows, k, kind)) in itertools.product(options.bits, SHAPES.items()):
        for line in measure(device, bits, rows, k, kind, options.tokens, options.layers):
            sys.stdout.write(json.dumps({"product": name, "bits": bits, **line}) + "\n")
            sys.stdout.flush()
    return 0


def measure(
    device: torch.device, bits: int, rows: int, k: int, kind: int, tokens: Sequence[int], layers: int
) -> Iterator[dict[str, object]]:
    """Lines of one matrix [rows, k]."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    weights = [quantized_weight(torch.randn(rows, k, device=device, dtype=dtype) * 0.02, bits) for _ in range(layers)]
    scratch = torch.empty(rows, k, dtype=dtype, device=device)
    pdl = supported(device)
    yield {"tokens": 0, "kernel": "dequantize", **timed(weights, lambda weight: dequantize(weight, scratch, pdl=pdl))}
    for count in tokens:
        bm = token_block(count)
        x = torch.randn(bm, k, dtype=dtype, device=device)
        out = torch.zeros(bm, rows // 2 if kind == GATED else rows, dtype=dtype, device=device)
        tilings = gemvs(x, out, kind, pdl) if count == 1 else matmuls(x, out, rows, k, kind, bits, pdl)
        lines: list[dict[str, object]] = []
        for tiling, run in tilings:
            try:
                lines.append(
                    {"tokens": count, "kernel": "gemv" if count == 1 else "matmul", **tiling, **timed(weights, run)}
                )
            except Exception as error:  # some tilings need more shared memory or registers than there are
                lines.append({"tokens": count, **tiling, "us": 1e9, "error": type(error).__name__})
        yield lines[0]
        yield from sorted(lines[1:], key=lambda line: -float(str(line["us"])))


def gemvs(x: Tensor, out: Tensor, kind: int, pdl: bool) -> Iterator[tuple[dict[str, object], Run]]:
    """Tilings of the kernel for one token, the engine's first."""
    for rows, block, warps in dict.fromkeys(
        [quantized_gemv_config(kind), *itertools.product((1, 2, 4, 8), (32, 64), (2, 4, 8))]
    ):

        def run(weight: QuantizedWeight, rows: int = rows, block: int = block, warps: int = warps) -> None:
            quantized_gemv(
                x[:1], weight, out[:1], gain=None if kind == RESIDUAL else x[1], eps=1e-5, gated=kind == GATED,
                residual=kind == RESIDUAL, pdl=pdl, rows=rows, block=block, warps=warps,
            )  # fmt: skip

        yield {"rows": rows, "block": block, "warps": warps}, run


def matmuls(
    x: Tensor, out: Tensor, rows: int, k: int, kind: int, bits: int, pdl: bool
) -> Iterator[tuple[dict[str, object], Run]]:
    """Tilings of the kernel for a few tokens, the engine's first."""
    bm, scratch = x.shape[0], Scratch.allocate(x.device)
    squares, scaled = torch.zeros(rows // 16, bm, device=x.device), torch.empty_like(out)
    ours = quantized_gemm_config(rows, k, kind, bm, bits, SHARED_MEMORY)
    others = (
        GemmConfig(bn, bk, split, stages, warps)
        for bn, bk, split, stages, warps in itertools.product((64, 128), (32, 64), (1, 2, 4), (4,), (4, 8))
        if num_lines(k, bits) % (bk // 32) == 0
    )
    for tiling in dict.fromkeys([ours, *others]):

        def run(weight: QuantizedWeight, tiling: GemmConfig = tiling) -> None:
            matmul(
                x, weight, out, tiling, scratch, bm=bm, kind=kind, gain=x[0], scaled=scaled, squares_out=squares,
                pdl=pdl,
            )  # fmt: skip

        yield {name: getattr(tiling, name) for name in ("bn", "bk", "split", "stages", "warps")}, run


def timed(weights: Sequence[QuantizedWeight], run: Run) -> dict[str, object]:
    """Microseconds for one matrix, and the rate at which it was read."""
    for weight in weights[:2]:
        run(weight)
    size = sum(buffer.numel() * buffer.element_size() for buffer in weights[0].buffers())
    if not weights[0].words.is_cuda:
        started = time.perf_counter()
        run(weights[0])
        spent = time.perf_counter() - started
    else:
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for weight in weights:
                run(weight)
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]  # torch's
        graph.replay()
        start.record()
        for _ in range(10):
            graph.replay()
        end.record()
        torch.cuda.synchronize()
        spent = start.elapsed_time(end) / 1e3 / 10 / len(weights)
    return {"us": round(spent * 1e6, 2), "tb_s": round(size / spent / 1e12, 3)}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
