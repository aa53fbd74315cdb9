"""Times products of prompts with 8-bit weights for many tilings, beside bfloat16; prints one JSON line for each.

    python docs/bench/scripts/sweeps/eight_bit_prompt_sweep.py [--tokens 256 512 1024 2048] [--layers 8] [--workers 12]

Our GEMM is timed beside cuBLAS with bfloat16 weights, and cuBLAS after dequantizing 8-bit weights. Each result is
compared with the float32 result: ours may differ from it about as much as that of dequantized weights, and a larger
difference makes the exit code 1. First `--workers` processes compile the kernels, a part each. CUDA graphs that take
turns then measure the matrices of a 7B, for more layers than the L2 cache holds. The last lines sum up the times (µs):
all four matrices for each number of tokens; and for each tiling one round of programs with 4096 columns, which
`eight_bit_prompt_config` compares. `--scale 64 --layers 1` is for a trial without a GPU.
"""

import argparse
import copy
import json
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from engine.kernels.linear.eight_bit_dequantize import eight_bit_dequantize
from engine.kernels.linear.eight_bit_prompt import eight_bit_prompt
from engine.kernels.linear.gemm_configs import EIGHT_BIT_PROMPT_TILINGS, eight_bit_prompt_config
from engine.kernels.linear.matmul import GemmConfig
from engine.kernels.pdl import supported
from engine.model.eight_bit_weight import EightBitWeight, Fp8Weight, Int8Weight

Tiling = tuple[int, int, int, int, int, bool]  # tokens, weight rows, words, stages, warps, whether by bulk copies
Product = Callable[[int, Tensor], object]  # of a layer's matrix, into a tensor
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
DTYPE = torch.bfloat16 if DEVICE.type == "cuda" else torch.float32
PDL = supported(DEVICE)
SHARED_MEMORY, MULTIPROCESSORS = 232448, 132  # of an H100 or H200
SHAPES = {  # rows, columns, whether the product is added to what there is; the last is only compared
    "wqkv": (12288, 4096, False),
    "wo": (4096, 4096, True),
    "w13": (22016, 4096, False),
    "w2": (4096, 11008, True),
    "ragged": (400, 1000, True),
}
RULE: list[Tiling] = [(*tiling, True) for tiling, _ in EIGHT_BIT_PROMPT_TILINGS]
TILINGS: list[Tiling] = [
    *RULE,
    (256, 128, 64, 2, 8, True),
    (256, 128, 64, 3, 8, True),
    (128, 256, 32, 4, 8, True),
    (256, 64, 32, 3, 4, True),  # from here on two programs or more fit a multiprocessor, but for the last
    (128, 128, 32, 3, 8, True),
    (128, 128, 64, 2, 8, True),
    (128, 64, 64, 2, 4, True),
    (64, 128, 32, 4, 4, True),
    (128, 128, 32, 4, 4, False),
    (256, 128, 32, 4, 8, False),
]


def main(arguments: Sequence[str]) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="eight_bit_prompt_sweep.py", description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, nargs="+", default=[256, 512, 1024, 2048])
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--scale", type=int, default=1, help="divide all sizes")
    parser.add_argument("--workers", type=int, default=12, help="processes that compile; 0: none")
    parser.add_argument("--compile", default="", help="I/N: only compile a share, as the workers do")
    options = parser.parse_args(arguments)
    if options.compile:
        share, shares = map(int, options.compile.split("/"))
        compile_share(share, shares, options.scale)
        return 0
    started = time.perf_counter()
    command = [sys.executable, __file__, "--scale", str(options.scale), "--compile"]
    workers = [subprocess.Popen([*command, f"{each}/{options.workers}"]) for each in range(options.workers)]
    failures = sum(worker.wait() != 0 for worker in workers)
    emit({"compiled_s": round(time.perf_counter() - started, 1), "failed_workers": failures})
    total: dict[tuple[int, str], float] = defaultdict(float)
    rounds: dict[str, list[float]] = defaultdict(list)
    for name in SHAPES:
        matrix = Matrix(name, options.scale, options.layers)
        for tokens in [300] if name == "ragged" else options.tokens:
            best = float("inf")
            for line, us in measured(matrix, tokens):
                emit({"product": name, "tokens": tokens, **line, "us": us})
                failures += not line["ok"]
                if name == "ragged" or us is None or line["weights"] == "fp8":
                    continue
                if line["kernel"] != "eight_bit_prompt":
                    total[tokens, line["kernel"]] += us
                    continue
                best = min(best, us)
                total[tokens, "chosen"] += us if line["chosen"] else 0.0
                rounds[str(line["tiling"])].append(us / rounds_of(line["tiling"], matrix.rows, matrix.k, tokens))
            if name != "ragged":
                total[tokens, "best"] += best
    for (tokens, kernel), us in sorted(total.items()):
        emit({"all": kernel, "tokens": tokens, "us": round(us, 1), "of_bf16": round(us / total[tokens, "cublas"], 3)})
    for label, each in sorted(rounds.items()):
        emit({"round": label, "us": round(statistics.median(each), 2), "least": round(min(each), 2)})
    emit({"wall_s": round(time.perf_counter() - started, 1), "failures": failures})
    return 1 if failures else 0


def size(name: str, scale: int) -> tuple[int, int, bool]:
    """Rows, columns and whether the product is added, of one of SHAPES divided by `scale`."""
    rows, k, add = SHAPES[name]
    return (rows, k, add) if name == "ragged" else (rows // scale, k // scale, add)


def rounds_of(tiling: Tiling, rows: int, k: int, tokens: int) -> float:
    """Rounds of programs on all multiprocessors, times k / 4096."""
    programs = -(-rows // tiling[1]) * -(-tokens // tiling[0])
    return -(-programs // MULTIPROCESSORS) * k / 4096


def multiply(x: Tensor, weight: EightBitWeight, out: Tensor, tiling: Tiling, *, add: bool) -> None:
    """out = x · weightᵀ, or with `add` out += …, by our GEMM."""
    bm, bn, bk, stages, warps, bulk = tiling
    config = GemmConfig(bn, bk, 1, stages, warps, bulk=bulk and (PDL or DEVICE.type == "cpu"))
    eight_bit_prompt(x, weight.words, weight.scales, out, config, fp8=weight.fp8, bm=bm, add=add, pdl=PDL)


def compile_share(share: int, shares: int, scale: int) -> None:
    """Run this share of the kernels on few rows and tokens, so that they are in Triton's cache."""
    kernels = dict.fromkeys(
        (kind, *size(name, scale)[1:], tiling)
        for name in SHAPES
        for kind, tilings in ((Int8Weight, TILINGS), (Fp8Weight, RULE))
        for tiling in dict.fromkeys(tilings)
    )
    for kind, k, add, tiling in list(kernels)[share::shares]:
        x, weight = random(32, k), kind(random(32, k))
        try:
            multiply(x, weight, torch.zeros(len(x), 32, dtype=DTYPE, device=DEVICE), tiling, add=add)
        except Exception as error:  # the run that measures reports it too
            emit({"compiling": tiling, "error": f"{type(error).__name__}: {error}"[:200]})


class Matrix:
    """One of SHAPES, in three formats, for several layers with the same numbers."""

    def __init__(self, name: str, scale: int, layers: int) -> None:
        self.rows, self.k, self.add = size(name, scale)
        plain = random(self.rows, self.k) * 0.02
        self.plain = [plain.clone() for _ in range(layers)]
        self.int8 = [Int8Weight(plain)]
        self.int8 += [copy.deepcopy(self.int8[0]) for _ in range(layers - 1)]
        self.fp8 = [Fp8Weight(plain)]
        self.fp8 += [copy.deepcopy(self.fp8[0]) for _ in range(layers - 1)]
        self.buffer = torch.empty_like(plain)

    def cases(self, x: Tensor) -> Iterator[tuple[dict[str, Any], Product]]:
        """bfloat16, dequantized int8, our tilings with int8, those that the rule has with fp8."""

        def cublas(weight: Tensor, out: Tensor) -> None:
            if self.add:
                out.addmm_(x, weight.T)
            else:
                torch.mm(x, weight.T, out=out)

        def dequantized(layer: int, out: Tensor) -> None:
            weight = self.int8[layer]
            eight_bit_dequantize(weight.words, weight.scales, self.buffer, fp8=False, pdl=PDL)
            cublas(self.buffer, out)

        yield {"kernel": "cublas", "weights": "bf16"}, lambda layer, out: cublas(self.plain[layer], out)
        yield {"kernel": "dequantize + cublas", "weights": "int8"}, dequantized
        bm, config = eight_bit_prompt_config(self.rows, len(x), SHARED_MEMORY, bulk=True)
        chosen = (bm, config.bn, config.bk, config.stages, config.warps, True)
        for label, weights, tilings in (("int8", self.int8, TILINGS), ("fp8", self.fp8, RULE)):
            for tiling in dict.fromkeys(tilings):

                def ours(
                    layer: int, out: Tensor, weights: Sequence[EightBitWeight] = weights, tiling: Tiling = tiling
                ) -> None:
                    multiply(x, weights[layer], out, tiling, add=self.add)

                line = {"kernel": "eight_bit_prompt", "weights": label, "tiling": tiling, "chosen": tiling == chosen}
                yield line, ours


def measured(matrix: Matrix, tokens: int) -> Iterator[tuple[dict[str, Any], float | None]]:
    """Each case with its relative error, its largest error in standard deviations of the exact result, and its µs."""
    x, before = random(tokens, matrix.k), random(tokens, matrix.rows)
    exact = {
        label: x.float() @ weight.T + (before.float() if matrix.add else 0.0)
        for label, weight in (
            ("bf16", matrix.plain[0].float()),
            ("int8", matrix.int8[0].dequantize()),
            ("fp8", matrix.fp8[0].dequantize()),
        )
    }
    bound, most = 1.0, 1.0
    lines: list[dict[str, Any]] = []
    runs: list[Callable[[], object] | None] = []
    out = before.clone()
    for line, run in matrix.cases(x):
        try:
            run(0, out.copy_(before))
            wanted = exact[line["weights"]]
            wrong = (out.float() - wanted).abs()
            error, largest = float(wrong.norm() / wanted.norm()), float(wrong.max() / wanted.std())
            if line["kernel"] == "dequantize + cublas":
                bound, most = max(1.05 * error, 1e-5), max(1.5 * largest, 1e-4)
            lines.append({**line, "error": f"{error:.2e}", "largest": f"{largest:.2e}"})
            lines[-1]["ok"] = error <= bound and largest <= most
            runs.append(graph_of(run, len(matrix.plain), out))
        except Exception as failure:  # a tiling may need more shared memory or registers than there are
            lines[len(runs) :] = [{**line, "failure": f"{type(failure).__name__}: {failure}"[:200], "ok": False}]
            runs.append(None)
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(3):  # in turns, so that a card that grows hot slows all of them
        for replay, spent in zip(runs, times, strict=True):
            if replay is not None:
                spent.append(microseconds(replay) / len(matrix.plain))
    for line, spent in zip(lines, times, strict=True):
        yield line, round(statistics.median(spent), 2) if spent else None


def graph_of(run: Product, layers: int, out: Tensor) -> Callable[[], object]:
    """A function that runs all layers: a CUDA graph's replay on a GPU."""

    def all_layers() -> None:
        for layer in range(layers):
            run(layer, out)

    if DEVICE.type != "cuda":
        return all_layers
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        all_layers()
    return graph.replay


def microseconds(replay: Callable[[], object], times: int = 4) -> float:
    """The mean time of a replay, after one that is not timed."""
    replay()
    if DEVICE.type != "cuda":
        return 1.0
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]  # torch's
    start.record()
    for _ in range(times):
        replay()
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end)) * 1e3 / times


def random(*shape: int) -> Tensor:
    """Normally distributed numbers in the model's dtype."""
    return torch.randn(shape, device=DEVICE, dtype=DTYPE)


def emit(line: dict[str, Any]) -> None:
    """Print a JSON line."""
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
