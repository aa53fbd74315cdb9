"""Times products of a rank's share of bf16 matrices for many tilings; prints JSON lines.

    PYTHONPATH=. python docs/bench/scripts/sweeps/rank_sweep.py --model 7b --world 4 [--tokens 32 1 16]

A cell is a matrix and a number of tokens. It prints one line for each cell with the engine's present tiling, then one
with the best that was found within `--budget` seconds, then one for each number of tokens with the sum of a layer's
products. Times are µs; `roof` is the time to read the weights at 4.3 TB/s, divided by the measured time. A CUDA graph
multiplies by copies of the matrix in turn, more than the L2 cache holds. One GPU is enough: sums over ranks are not
measured, and a GEMV pushes its partial sums into this GPU's own memory. Other processes compile.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from dataclasses import asdict
from multiprocessing.pool import AsyncResult, Pool

import torch
from rank_products import DEVICE, DTYPE, GPU, Product, compile_tiling, only_compile
from rank_tilings import Cell, Tiling, candidates, cells, neighbours, present
from torch import Tensor

from engine.kernels.pdl import supported

COLD_BYTES = 256 << 20  # of all copies of a matrix; an H200's L2 cache has 60 MB
READ_RATE = 4.3e12  # bytes a second that a plain read reaches on an H200
COMPILE_SECONDS = 40.0  # to wait for one tiling
TOLERANCE = 0.02  # of the largest number of the present tiling's result


class Sweep:
    """Has tilings compiled, in the order in which they were asked for, and keeps the times by cell and tiling."""

    def __init__(self, options: argparse.Namespace, pool: Pool | None) -> None:
        self._world, self._pool, self._deadline = options.world, pool, time.monotonic() + options.budget
        self.item, self.bulk = DTYPE.itemsize, supported(DEVICE)
        self._weights: dict[tuple[int, int], list[Tensor]] = {}
        self._compiling: dict[tuple[Cell, Tiling], AsyncResult[str]] = {}
        self.times: dict[Cell, dict[Tiling, float]] = {}
        self.failed: dict[Cell, dict[str, int]] = {}

    def ask(self, cell: Cell, tilings: list[Tiling]) -> None:
        """Begin to compile."""
        for tiling in tilings:
            if self._pool is not None and (cell, tiling) not in self._compiling:
                job = self._pool.apply_async(compile_tiling, (cell, self._world, tiling))
                self._compiling[cell, tiling] = job

    def measure(self, cell: Cell, tilings: list[Tiling]) -> None:
        """Time the tilings that have no time yet, until the budget is used up. A cell's first one is the engine's."""
        product, expected = Product(cell, self._world, self._copies(cell)), None
        times, failed = self.times.setdefault(cell, {}), self.failed.setdefault(cell, {})
        for tiling in tilings:
            left = self._deadline - time.monotonic()
            if tiling in times or (left < 0 and times):
                continue
            problem = self._compiled(cell, tiling, max(5.0, left))
            try:
                if not problem:
                    expected = product.result(next(iter(times), tiling)) if expected is None else expected
                    wrong = float((product.result(tiling) - expected).abs().max() / expected.abs().max())
                    problem = f"wrong by {wrong:.3f}" if not wrong < TOLERANCE else ""
                if not problem:
                    times[tiling] = product.microseconds(tiling)
            except Exception as error:  # too much shared memory or too many registers
                problem = f"{type(error).__name__}: {error}"
            if problem:
                failed[problem[:80]] = failed.get(problem[:80], 0) + 1

    def _compiled(self, cell: Cell, tiling: Tiling, left: float) -> str:
        try:
            job = self._compiling.get((cell, tiling))
            return "" if job is None else job.get(min(left, COMPILE_SECONDS))
        except multiprocessing.TimeoutError:
            return "not compiled in time"

    def _copies(self, cell: Cell) -> list[Tensor]:
        """Copies of a matrix [rows, k]; cells of the same shape share them."""
        size = cell.rows * cell.k * self.item
        count = min(64, max(4, -(-COLD_BYTES // size))) if GPU else 2
        if (cell.rows, cell.k) not in self._weights:
            self._weights[cell.rows, cell.k] = [
                torch.empty(cell.rows, cell.k, device=DEVICE, dtype=DTYPE).normal_(0, 0.02) for _ in range(count)
            ]
        return self._weights[cell.rows, cell.k]

    def line(self, cell: Cell, count: int) -> dict[str, object]:
        """The present tiling's time, and the `count` best."""
        times, floor = self.times[cell], cell.rows * cell.k * self.item / READ_RATE * 1e6
        now = next(iter(times), None)
        shape = {"product": cell.product, "tokens": cell.tokens, "rows": cell.rows, "k": cell.k}
        if now is None:
            return {**shape, "error": self.failed[cell]}
        facts = {**shape, "present_us": round(times[now], 2), "present_roof": round(floor / times[now], 3)}
        best = sorted(times.items(), key=lambda each: each[1])[:count]
        top = [{"us": round(us, 2), "roof": round(floor / us, 3), **short(tiling)} for tiling, us in best]
        if not count:
            return {**facts, "present": short(now)}
        found = {"best_us": top[0]["us"], "best_roof": top[0]["roof"], "gain": round(times[now] / best[0][1], 3)}
        return {**facts, **found, "present": short(now), "top": top, "tried": len(times), "failed": self.failed[cell]}


def short(tiling: Tiling) -> dict[str, object]:
    """A tiling's fields, without the options that are off."""
    return {name: value for name, value in asdict(tiling).items() if value is not False}


def main(arguments: list[str]) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="rank_sweep.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="7b")
    parser.add_argument("--world", type=int, default=4)
    parser.add_argument("--tokens", type=int, nargs="+", default=[32, 1, 16, 64, 128])
    parser.add_argument("--products", nargs="+", default=["wqkv", "wo", "w13", "w2"])
    parser.add_argument("--budget", type=float, default=100.0, help="seconds")
    parser.add_argument("--workers", type=int, default=min(14, max(1, (os.cpu_count() or 2) - 2)), help="that compile")
    parser.add_argument("--scale", type=int, default=1, help="divide all sizes, for a trial on a CPU")
    options = parser.parse_args(arguments)
    wanted = cells(options.model, options.world, options.tokens, options.scale)
    wanted = [cell for cell in wanted if cell.product in options.products]
    if not GPU:
        return sweep(options, wanted, None)
    with multiprocessing.get_context("spawn").Pool(options.workers, only_compile) as pool:
        return sweep(options, wanted, pool)  # leaving the block ends the processes


def sweep(options: argparse.Namespace, wanted: list[Cell], pool: Pool | None) -> int:
    """Time the present tilings of all cells, then the candidates of all cells, then the neighbours of the best."""
    state = Sweep(options, pool)
    facts = {"model": options.model, "world": options.world, "device": torch.cuda.get_device_name(0) if GPU else "CPU"}
    now = {cell: present(cell, state.item, bulk=state.bulk) for cell in wanted}
    others = {cell: candidates(cell, state.item) for cell in wanted}
    for tilings in ({cell: [tiling] for cell, tiling in now.items()}, others):
        for cell in wanted:
            state.ask(cell, tilings[cell])
    for cell in wanted:
        state.measure(cell, [now[cell]])
        emit({**facts, "what": "present", **state.line(cell, 0)})
    near: dict[Cell, list[Tiling]] = {cell: [] for cell in wanted}
    for cell in (cell for cell in wanted if state.times[cell]):  # the others' present tiling failed
        state.measure(cell, others[cell])
        best = min(state.times[cell], key=state.times[cell].__getitem__)
        near[cell] = neighbours(cell, best, state.item, bulk=state.bulk)
        state.ask(cell, near[cell])
    for cell in wanted:
        state.measure(cell, near[cell])
        emit({**facts, "what": "best", **state.line(cell, 3)})
    for tokens in options.tokens:
        times = [list(state.times[cell].values()) for cell in wanted if cell.tokens == tokens]
        if times and all(times):
            sums = {"present_us": round(sum(each[0] for each in times), 2), "best_us": round(sum(map(min, times)), 2)}
            emit({**facts, "what": "layer", "tokens": tokens, **sums})
    return 0


def emit(line: dict[str, object]) -> None:
    """Print a JSON line."""
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
