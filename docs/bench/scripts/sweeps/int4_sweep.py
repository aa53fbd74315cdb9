"""Times products with 4-bit weights for many tilings, beside bfloat16; prints one JSON line for each.

    python docs/bench/scripts/sweeps/int4_sweep.py [--cells wqkv:1 w13:32 …] [--layers 8] [--compile I/N]

A cell is a matrix and a number of tokens.
It measures the matrices of a 7B, for more layers than the L2 cache holds, in a CUDA graph. `--compile` only compiles a
share of the tilings, so that N processes at once fill Triton's cache before the run that measures.
"""

import argparse
import itertools
import json
import sys
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from engine.kernels.linear.gemm_configs import fit_shared_memory, gemm_config, gemv_config, token_block
from engine.kernels.linear.gemv import gemv
from engine.kernels.linear.int4.configs import int4_gemv_config, int4_matmul_config, int4_prompt_config, pipeline_bytes
from engine.kernels.linear.int4.dequantize import int4_dequantize
from engine.kernels.linear.int4.gemv import int4_gemv
from engine.kernels.linear.int4.matmul import int4_matmul
from engine.kernels.linear.matmul import GATED, PLAIN, RESIDUAL, GemmConfig, Scratch, matmul
from engine.kernels.pdl import supported
from engine.model.int4_weight import Int4Weight

Case = tuple[dict[str, object], Callable[[int], object]]  # what to print, and the product of a layer
SHAPES = {
    "wqkv": (12288, 4096, PLAIN),
    "wo": (4096, 4096, RESIDUAL),
    "w13": (22016, 4096, GATED),
    "w2": (4096, 11008, RESIDUAL),
}
SHARED_MEMORY = 232448  # bytes of a program on an H100


def main(arguments: Sequence[str]) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="int4_sweep.py", description=__doc__.splitlines()[0])
    parser.add_argument("--cells", nargs="+", default=[f"{name}:{n}" for name in SHAPES for n in (1, 16, 32, 128, 512)])
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--scale", type=int, default=1, help="divide all sizes, for a trial on a CPU")
    parser.add_argument("--compile", default="0/0")
    options = parser.parse_args(arguments)
    share, shares = (int(part) for part in options.compile.split("/"))
    products: dict[str, Product] = {}
    index = 0
    for cell in options.cells:
        name, count = cell.split(":")
        rows, k, kind = SHAPES[name]
        if name not in products:
            layers = 1 if shares else options.layers
            products[name] = Product(rows // options.scale, k // options.scale, kind, layers)
        product, tokens = products[name], int(count)
        for line, run in product.cases(tokens):
            index += 1
            if shares and index % shares != share:
                continue
            result: dict[str, object] = {}
            try:
                if shares:
                    run(0)
                else:
                    result = product.timed(run, line)
            except Exception as error:  # some tilings need more shared memory or registers than there are
                result = {"error": f"{type(error).__name__}: {error}"[:200]}
            if not shares:
                sys.stdout.write(json.dumps({"product": name, "tokens": tokens, **line, **result}) + "\n")
                sys.stdout.flush()
    return 0


class Product:
    """The matrix [rows, k] of several layers, in 4 bits and in bfloat16."""

    def __init__(self, rows: int, k: int, kind: int, layers: int) -> None:
        self.rows, self.k, self.kind = rows, k, kind
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        self.plain = [torch.randn(rows, k, device=self.device, dtype=self.dtype) * 0.02 for _ in range(layers)]
        self.int4 = [Int4Weight(weight) for weight in self.plain]
        self.scratch, self.pdl = Scratch.allocate(self.device), supported(self.device)

    def cases(self, tokens: int) -> Iterator[Case]:
        """bfloat16, then the engine's tiling, then others."""
        n = self.rows // 2 if self.kind == GATED else self.rows
        bm = token_block(tokens)
        x = torch.randn(bm, self.k, dtype=self.dtype, device=self.device)
        yield from self._gemvs(x, n) if tokens == 1 else self._prompts(x, tokens) if tokens > 128 else self._few(x, n)

    def _gemvs(self, x: Tensor, n: int) -> Iterator[Case]:
        out = torch.zeros(1, n, dtype=self.dtype, device=self.device)
        gain = None if self.kind == RESIDUAL else x[1]
        gated, residual = self.kind == GATED, self.kind == RESIDUAL
        block, warps = gemv_config(self.k, self.kind)

        def plain(layer: int) -> None:
            gemv(
                x[:1], self.plain[layer], out, gain=gain, eps=1e-5, gated=gated, residual=residual, pdl=self.pdl,
                block=block, warps=warps, two_rows=True,
            )  # fmt: skip

        yield {"kernel": "gemv", "bits": 16}, plain
        ours = int4_gemv_config(self.rows, self.k, self.kind)
        for height, warps, ahead in dict.fromkeys([ours, *itertools.product((1, 2), (2, 4, 8), (1, 2, 4))]):

            def run(layer: int, height: int = height, warps: int = warps, ahead: int = ahead) -> None:
                int4_gemv(
                    x[:1], self.int4[layer], out, gain=gain, eps=1e-5, gated=gated, residual=residual, pdl=self.pdl,
                    height=height, warps=warps, ahead=ahead,
                )  # fmt: skip

            yield {"kernel": "int4_gemv", "bits": 4, "height": height, "warps": warps, "ahead": ahead}, run

    def _few(self, x: Tensor, n: int) -> Iterator[Case]:
        bm = x.shape[0]
        out, scaled = (torch.zeros(bm, n, dtype=self.dtype, device=self.device) for _ in range(2))
        squares = torch.zeros(-(-n // 16), bm, device=self.device)
        item = self.plain[0].element_size()
        tiling = gemm_config(self.rows, self.k, self.kind, bm, item)
        tiling = fit_shared_memory(tiling, self.kind, bm, item, SHARED_MEMORY)

        def plain(layer: int) -> None:
            matmul(
                x, self.plain[layer], out, tiling, self.scratch, bm=bm, kind=self.kind, gain=x[0], scaled=scaled,
                squares_out=squares, pdl=self.pdl,
            )  # fmt: skip

        yield {"kernel": "matmul", "bits": 16}, plain
        others = (
            GemmConfig(bn, bk, split, stages, warps)
            for (bn, bk, stages, warps), split in itertools.product(
                (
                    (64, 256, 2, 4),
                    (64, 256, 3, 4),
                    (64, 128, 4, 4),
                    (128, 256, 2, 8),
                    (128, 256, 2, 4),
                    (32, 256, 3, 2),
                ),
                (1, 2) if n >= 8192 else (2, 4, 8),
            )
            if pipeline_bytes(bn, bk, bm, self.kind) * stages <= SHARED_MEMORY
        )
        for config in dict.fromkeys([int4_matmul_config(self.rows, self.k, self.kind, bm, SHARED_MEMORY), *others]):

            def run(layer: int, config: GemmConfig = config) -> None:
                int4_matmul(
                    x, self.int4[layer], out, config, self.scratch, bm=bm, kind=self.kind, gain=x[0], scaled=scaled,
                    squares_out=squares, pdl=self.pdl,
                )  # fmt: skip

            yield {"kernel": "int4_matmul", "bits": 4, **described(config)}, run

    def _prompts(self, x: Tensor, tokens: int) -> Iterator[Case]:
        x = x[:tokens]
        out = torch.zeros(tokens, self.rows, dtype=self.dtype, device=self.device)
        matrix = torch.empty(self.rows, self.k, dtype=self.dtype, device=self.device)
        yield {"kernel": "mm", "bits": 16}, lambda layer: torch.mm(x, self.plain[layer].T, out=out)
        for warps in (4, 8):

            def dequantize(layer: int, warps: int = warps) -> None:
                int4_dequantize(self.int4[layer], matrix, pdl=self.pdl, warps=warps)

            yield {"kernel": "int4_dequantize", "bits": 4, "warps": warps}, dequantize
        others = (
            (bm, GemmConfig(bn, 128, 1, stages, warps))
            for bm, bn, warps, stages in ((128, 128, 4, 3), (128, 128, 8, 3), (128, 128, 8, 4), (256, 128, 8, 2),
                                          (256, 128, 8, 3), (256, 64, 4, 2), (256, 64, 4, 3), (128, 64, 4, 4))
        )  # fmt: skip
        for bm, config in dict.fromkeys([int4_prompt_config(self.rows, tokens, SHARED_MEMORY), *others]):

            def run(layer: int, bm: int = bm, config: GemmConfig = config) -> None:
                int4_matmul(x, self.int4[layer], out, config, self.scratch, bm=bm, pdl=self.pdl, tokens=tokens)

            yield {"kernel": "int4_matmul", "bits": 4, "bm": bm, **described(config)}, run

    def timed(self, run: Callable[[int], object], line: dict[str, object]) -> dict[str, object]:
        """Microseconds for one matrix, and the rate at which it was read."""
        run(0)
        weight = self.int4[0] if line["bits"] == 4 else self.plain[0]
        tensors = weight.buffers() if isinstance(weight, Int4Weight) else [weight]
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        if self.device.type != "cuda":
            return {"us": 0.0}
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for layer in range(len(self.plain)):
                run(layer)
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]  # torch's
        graph.replay()
        start.record()
        for _ in range(10):
            graph.replay()
        end.record()
        torch.cuda.synchronize()
        spent = start.elapsed_time(end) / 1e3 / 10 / len(self.plain)
        return {"us": round(spent * 1e6, 2), "tb_s": round(size / spent / 1e12, 3)}


def described(config: GemmConfig) -> dict[str, object]:
    """A tiling's numbers."""
    return {name: getattr(config, name) for name in ("bn", "bk", "split", "stages", "warps")}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
