"""Times decode steps whose rows share prefixes, read once for all and by each row; prints one JSON line for each size.

    python docs/bench/scripts/shared_prefixes.py [--model 7b 8b] [--prefixes 256 2048] [--members 2 8] [--groups 1]
    python docs/bench/scripts/shared_prefixes.py --blocks 16 32 64 --tiles 32 64 --warps 4 8 --stages 2 3

Every row has a context of its own of `--rest` tokens after the prefix. With kernel options there are lines for each
combination that fits the card. On a CPU it runs a tiny model in Triton's interpreter, which tries out the script only.
"""

import argparse
import itertools
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

from engine.bench.random_model import SHAPES, RandomCheckpoint, spec
from engine.bench.steps import milliseconds_per_step
from engine.config import PAGE_SIZE, EngineConfig, resolve
from engine.core.worker import load_weights
from engine.kernels.attention.prefix_work import PrefixConfig
from engine.model.transformer import Transformer
from engine.runner.cuda.batch import prefix_limits
from engine.runner.cuda.batch.input_batch import BatchShape
from engine.runner.cuda.cuda_runner import CudaRunner
from engine.runner.cuda.layers import attention
from engine.scheduler.step_plan import NewSequence, PrefillChunk, StepPlan

GPU = torch.cuda.is_available()
STEPS, REPEATS = (30, 3) if GPU else (2, 1)


def main(arguments: Sequence[str]) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="shared_prefixes.py", description=__doc__.splitlines()[0])
    parser.add_argument("--model", nargs="+", default=["7b", "8b"] if GPU else ["tiny"], choices=SHAPES)
    parser.add_argument("--prefixes", type=int, nargs="+", default=[256, 512, 1024, 2048, 4096])
    parser.add_argument("--members", type=int, nargs="+", default=[2, 4, 8, 16, 32])
    parser.add_argument("--groups", type=int, default=1, help="number of groups, each with all of --members")
    parser.add_argument("--rest", type=int, default=300)
    parser.add_argument("--kv-dtype", default="auto")
    parser.add_argument("--programs", type=int, default=prefix_limits._PROGRAMS)
    parser.add_argument("--blocks", type=int, nargs="+")
    parser.add_argument("--tiles", type=int, nargs="+", choices=(16, 32, 64))
    parser.add_argument("--warps", type=int, nargs="+")
    parser.add_argument("--stages", type=int, nargs="+")
    options = parser.parse_args(arguments)
    for limit, value in (("MIN_PREFIX", 64), ("MIN_MEMBERS", 2), ("_PROGRAMS", options.programs)):
        setattr(prefix_limits, limit, value)
    for name in options.model:
        rows = options.groups * max(options.members)
        checkpoint = RandomCheckpoint(spec(name, context=8192, vocab=None if GPU else 64))
        config = resolve(
            checkpoint.spec, device="cuda" if GPU else "cpu", max_num_seqs=rows, max_context=8192,
            quantize="none", kv_dtype=options.kv_dtype,
        )  # fmt: skip
        model = load_weights(config, checkpoint)
        for kernel in kernels(model, config, options):
            with suppress(OverflowError):  # marks kernels that do not fit the card
                for line in measure(config, model, options, kernel):
                    sys.stdout.write(json.dumps({"model": name, "kv_dtype": options.kv_dtype, **line}) + "\n")
                    sys.stdout.flush()
        del model
    return 0


def kernels(model: Transformer, config: EngineConfig, options: argparse.Namespace) -> Iterator[PrefixConfig]:
    """The engine's way of reading a prefix, or all that the options ask for."""
    block = model.blocks[0]
    usual = prefix_limits.prefix_config(block.heads // block.kv_heads, block.head_dim, config.dtype, gpu=GPU)
    for each in itertools.product(
        options.blocks or [usual.block], options.tiles or [usual.tile_tokens], options.warps or [usual.warps],
        options.stages or [usual.stages],
    ):  # fmt: skip
        if each[0] >= 2 * (block.heads // block.kv_heads):
            yield PrefixConfig(*each)


def measure(
    config: EngineConfig, model: Transformer, options: argparse.Namespace, kernel: PrefixConfig
) -> Iterator[dict[str, object]]:
    """One line for each prefix and number of members."""
    for module, name in ((attention, "prefix_config"), (prefix_limits, "prefix_config")):
        setattr(module, name, lambda *_, **__: kernel)
    runner = CudaRunner(config, model)
    rest_pages = -(-(options.rest + STEPS + 1) // PAGE_SIZE)
    prefix_pages = -(-max(options.prefixes) // PAGE_SIZE)
    shared = runner._prefixes
    if shared is None:
        raise ValueError("this model shares no prefixes")
    try:
        # Only what is measured is recorded.
        counts = {options.groups * members for members in options.members}
        needed = {min(s.num_slots for s in runner._shapes if s.num_slots >= count) for count in counts}
        chunks = max((s for s in runner._shapes if s.num_slots == 0), key=lambda s: s.num_tokens)
        sharing = [BatchShape(slots, 0, shares_prefixes=True) for slots in needed]
        runner._shapes = [chunks, *(BatchShape(slots, 0) for slots in needed), *sharing]
        runner.start(options.groups * (prefix_pages + max(options.members) * rest_pages))
        while runner.prepare():
            pass
        for prefix, members in itertools.product(options.prefixes, options.members):
            rows = tuple(range(options.groups * members))
            fill(runner, rows, prefix, members, options.rest, prefix_pages, rest_pages)
            times = {}
            for name in ("apart", "together"):
                runner._prefixes = shared if name == "together" else None
                runs = []
                for _ in range(REPEATS):
                    runs.append(milliseconds_per_step(runner, [StepPlan(0, decode_rows=rows)] * STEPS))
                    runner.wait(runner.execute_async(last_tokens(rows, prefix + options.rest)))
                times[name] = round(sorted(runs)[REPEATS // 2], 3)
                runner._prefixes = shared
            groups = shared.groups(rows)
            yield {
                "prefix": prefix, "members": members, "groups": options.groups, "rest": options.rest, **times,
                "saved_ms": round(times["apart"] - times["together"], 3), "items": len(groups.items) if groups else 0,
                "block": kernel.block, "tile": kernel.tile_tokens, "warps": kernel.warps, "stages": kernel.stages,
                "programs": options.programs,
            }  # fmt: skip
    except Exception as error:
        if type(error).__name__ != "OutOfResources":  # Triton's: shared memory or registers
            raise
        raise OverflowError from error
    finally:
        runner.close()


def fill(
    runner: CudaRunner, rows: tuple[int, ...], prefix: int, members: int, rest: int, prefix_pages: int, rest_pages: int
) -> None:
    """Rows with these contexts, neighbours in one group; what is in the pages does not matter."""
    first_own = (len(rows) // members) * prefix_pages
    grants = [
        (row, index, row // members * prefix_pages + index) for row in rows for index in range(prefix // PAGE_SIZE)
    ] + [
        (row, prefix // PAGE_SIZE + index, first_own + row * rest_pages + index)
        for row in rows
        for index in range(rest_pages)
    ]
    new = tuple(NewSequence(row, 0.0, 1.0, 1) for row in rows)
    plan = last_tokens(rows, prefix + rest)
    runner.wait(runner.execute_async(StepPlan(0, new, tuple(grants), plan.chunks)))


def last_tokens(rows: tuple[int, ...], context: int) -> StepPlan:
    """Every row computes the last token of its context (again)."""
    return StepPlan(0, chunks=tuple(PrefillChunk(row, context - 1, (5 + row,), True) for row in rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
