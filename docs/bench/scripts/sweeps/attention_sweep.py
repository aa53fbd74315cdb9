"""Times decode attention of a rank's share of the heads for many configurations; prints JSON lines and summaries.

    PYTHONPATH=. CUDA_VISIBLE_DEVICES=0 python docs/bench/scripts/sweeps/attention_sweep.py --shares 7b/4 --rows 1 32

A share is a model and a world size. A cell is a share, a number of rows and a number of cached tokens. For a single row
the kernel projects the value too, except with --apart. A layer is the product before attention, attention, and the
product after it. A CUDA graph of more layers than the L2 cache holds launches them as the engine does (PDL). Times are
µs a layer; `products_us` leaves attention out, so the difference is what attention adds. The list of splits is computed
before, as a step computes it once for all layers. Each result is compared with the present configuration's. The best
three are timed again, beside the present one. One GPU is enough: sums over ranks are not measured. Other processes
compile.
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
from attention_chain import Chain, compile_candidate, compile_split, only_compile, products
from attention_configs import Candidate, Share, candidates, neighbours, present, share
from rank_products import GPU, compile_tiling

COMPILE_SECONDS = 40.0  # to wait for one configuration
TOLERANCE = 0.02  # of the largest number of the present configuration's result


class Sweep:
    """Has configurations compiled, in the order in which they were asked for, and times those of a cell."""

    def __init__(self, pool: Pool | None) -> None:
        self._pool = pool
        self._compiling: dict[tuple[Share, Candidate], AsyncResult[str]] = {}
        self._splits: dict[tuple[int, int, int, int], AsyncResult[str]] = {}
        self._products: dict[Share, list[AsyncResult[str]]] = {}

    def ask(self, cell: Share, wanted: list[Candidate]) -> None:
        """Begin to compile, the products around attention first."""
        if self._pool is None:
            return
        if cell not in self._products:
            self._products[cell] = [
                self._pool.apply_async(compile_tiling, (each, cell.world, tiling)) for each, tiling in products(cell)
            ]
        for each in wanted:
            config = each.config
            # Triton compiles a multiple of 16 apart from other numbers.
            split = (cell.rows, 16 if config.target_splits % 16 == 0 else 17, config.tile_tokens, config.min_tiles)
            if cell.rows > 1 and split not in self._splits:
                self._splits[split] = self._pool.apply_async(compile_split, split)
            key = (cell, each if cell.rows == 1 else each.compiled)
            if key not in self._compiling:
                self._compiling[key] = self._pool.apply_async(compile_candidate, key)

    def wait_for_products(self, cell: Share) -> None:
        """Until the products around attention are compiled. A failure shows when they run."""
        for job in self._products.get(cell, []):
            job.wait(COMPILE_SECONDS)

    def problem(self, cell: Share, each: Candidate, left: float) -> str:
        """Waits for a configuration's compilation; returns why it cannot run, or an empty string."""
        try:
            job = self._compiling.get((cell, each if cell.rows == 1 else each.compiled))
            return "" if job is None else job.get(min(left, COMPILE_SECONDS))
        except multiprocessing.TimeoutError:
            return "not compiled in time"

    def measure(self, cell: Share, context: int, deadline: float) -> dict[str, object]:
        """Time present configuration, candidates and neighbours of the best until the deadline, then the best again."""
        self.wait_for_products(cell)
        chain, now = Chain(cell, context), present(cell)
        times: dict[Candidate, float] = {}
        failed: dict[str, int] = {}
        expected = None
        bare = chain.microseconds(None)
        wanted = candidates(cell, now)
        for near in (False, True):
            if near:
                best = min(times, key=times.__getitem__)
                wanted = [each for each in neighbours(cell, best) if each not in times]
                self.ask(cell, wanted)
            for each in wanted:
                left = deadline - time.monotonic()
                if each in times or (left < 0 and each != now):
                    continue
                problem = self.problem(cell, each, max(COMPILE_SECONDS if each == now else 1.0, left))
                try:
                    if not problem:
                        result = chain.result(each)
                        expected = result if expected is None else expected
                        wrong = float((result - expected).abs().max() / expected.abs().max())
                        problem = f"wrong by {wrong:.3f}" if not wrong < TOLERANCE else ""
                    if not problem:
                        times[each] = chain.microseconds(each)
                except Exception as error:  # too much shared memory or too many registers
                    problem = f"{type(error).__name__}: {error}"
                if problem:
                    failed[problem[:80]] = failed.get(problem[:80], 0) + 1
            if now not in times:
                return {"error": failed}
        best_three = sorted((each for each in times if each != now), key=times.__getitem__)[:3]
        again = {each: min(times[each], chain.microseconds(each)) for each in (now, *best_three)}
        top = sorted(best_three, key=again.__getitem__)
        return {
            "layers": chain.layers, "products_us": round(bare, 2), "present_us": round(again[now], 2),
            "present": str(now), "top": [{"us": round(again[each], 2), "what": str(each)} for each in top],
            "tried": len(times), "failed": failed,
            "all": {str(each): round(us, 2) for each, us in sorted(times.items(), key=lambda pair: pair[1])},
        }  # fmt: skip


def main(arguments: list[str]) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="attention_sweep.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shares", nargs="+", default=["7b/4", "7b/2", "7b/1", "70b/4", "70b/8", "8b/1"])
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--apart", action="store_true", help="project a single row's value before, as with 4 bits")
    parser.add_argument("--contexts", type=int, nargs="+", default=[600, 2000])
    parser.add_argument("--budget", type=float, default=45.0, help="seconds, shared by the cells")
    parser.add_argument("--workers", type=int, default=min(14, max(1, (os.cpu_count() or 2) - 2)), help="that compile")
    parser.add_argument("--all", action="store_true", help="print the time of every configuration")
    parser.add_argument("--scale", type=int, default=1, help="divide widths and heads, for a trial on a CPU")
    options = parser.parse_args(arguments)
    deadline = time.monotonic() + options.budget
    if not GPU:
        return sweep(options, None, deadline)
    with multiprocessing.get_context("spawn").Pool(options.workers, only_compile) as pool:
        return sweep(options, pool, deadline)  # leaving the block ends the processes


def sweep(options: argparse.Namespace, pool: Pool | None, deadline: float) -> int:
    """Measure all cells. Later cells get the time that earlier ones leave."""
    state = Sweep(pool)
    shares = [share(name, rows, options.scale, apart=options.apart) for name in options.shares for rows in options.rows]
    cells = [(cell, context) for cell in shares for context in options.contexts]
    state.ask(shares[0], candidates(shares[0], present(shares[0])))
    state.wait_for_products(shares[0])  # until the compiling processes have started
    for number, (cell, context) in enumerate(cells):
        for later, _ in cells[number + 1 : number + 2]:  # compiled while this cell is measured
            state.ask(later, candidates(later, present(later)))
        now = time.monotonic()
        measured = state.measure(cell, context, now + max(0.0, deadline - now) / (len(cells) - number))
        if not options.all:
            measured.pop("all", None)
        facts = {"device": torch.cuda.get_device_name(0) if GPU else "CPU", "context": context, **asdict(cell)}
        sys.stdout.write(json.dumps({**facts, **measured}) + "\n" + human(cell, context, measured) + "\n")
        sys.stdout.flush()
    return 0


def human(cell: Share, context: int, measured: dict[str, object]) -> str:
    """A cell's summary in one line: µs of a layer, attention's part of it, and the configuration."""
    name = f"# {cell.model}/{cell.world} {cell.heads}/{cell.kv_heads} rows {cell.rows} context {context}:"
    now, bare, top = measured.get("present_us"), measured.get("products_us"), measured.get("top")
    if not isinstance(now, float) or not isinstance(bare, float) or not isinstance(top, list):
        return f"{name} {measured.get('error')}"
    parts = [f"products {bare:.2f} us, present {now:.2f} ({now - bare:+.2f}) {present(cell)}"]
    parts += [f"{each['us']:.2f} ({each['us'] - bare:+.2f}) {each['what']}" for each in top]
    return f"{name} " + " | ".join(parts)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
