"""How long a step takes on the GPU: decoding so many rows at so long a context, and prompts of so many tokens.

    python -m engine.bench.steps [--rows 1 8 32] [--contexts 100 580 1500] [--prompts 512 1024]
    torchrun --nproc-per-node 2 -m engine.bench.steps --share

One JSON line each. Every rank runs the same plans, without a scheduler. `--share`: the same once more with the ranks'
sums left out (the results are wrong, the time is not): the difference is what summing takes.
"""

import argparse
import sys
import time
from collections.abc import Iterator, Sequence

import torch

from engine.bench.__main__ import emit, today
from engine.bench.random_model import SHAPES, RandomCheckpoint, spec
from engine.config import EngineConfig, resolve
from engine.core.worker import load_weights
from engine.distributed.communicator import connect
from engine.runner.cuda.collectives import Collectives
from engine.runner.cuda.cuda_runner import CudaRunner
from engine.scheduler.step_plan import NewSequence, PrefillChunk, StepPlan

STEPS, TIMES = 40, 3
PAGES = 100  # of each row


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m engine.bench.steps", description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="7b", choices=SHAPES)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--contexts", type=int, nargs="+", default=[580])
    parser.add_argument("--prompts", type=int, nargs="+", default=[512, 1024])
    parser.add_argument("--quantize", default="none")
    parser.add_argument("--kv-dtype", default="auto")
    parser.add_argument("--share", action="store_true")
    options = parser.parse_args(arguments)
    checkpoint = RandomCheckpoint(spec(options.model))
    config = resolve(
        checkpoint.spec, device="cuda", max_num_seqs=max(options.rows), quantize=options.quantize,
        kv_dtype=options.kv_dtype,
    )  # fmt: skip
    ranks = connect(config)
    torch.cuda.set_device(config.device)
    model = load_weights(config, checkpoint)
    for summed in (True, False) if options.share else (True,):
        if not summed:
            for name in ("all_reduce", "all_reduce_row", "gather_logits", "broadcast_ids"):
                setattr(Collectives, name, lambda *_, **__: None)
        runner = CudaRunner(config, model)
        runner.start(PAGES * config.max_num_seqs)
        for line in measure(config, runner, options.rows, options.contexts, options.prompts):
            if config.rank == 0:
                facts = {
                    "model": options.model, "quantize": options.quantize, "kv_dtype": options.kv_dtype,
                    "sums": summed, "world_size": config.world_size, "torch": torch.__version__,
                    "device": torch.cuda.get_device_name(config.device), "dtype": "bfloat16", "date": today(),
                }  # fmt: skip
                emit({"engine": "guildllama", **line, **facts})
        runner.close()
        del runner
        torch.cuda.empty_cache()
    ranks.close()
    return 0


def measure(
    config: EngineConfig, runner: CudaRunner, rows: Sequence[int], contexts: Sequence[int], prompts: Sequence[int]
) -> Iterator[dict[str, object]]:
    setups = tuple(NewSequence(row, 0.0, 1.0, 1) for row in range(config.max_num_seqs))
    grants = tuple((row, index, row * PAGES + index) for row in range(config.max_num_seqs) for index in range(PAGES))
    runner.wait(runner.execute_async(StepPlan(0, setups, grants)))
    for context in contexts:
        for row in range(config.max_num_seqs):
            fill(runner, row, context)
        for count in rows:
            steps = [StepPlan(0, decode_rows=tuple(range(count)))] * STEPS
            spent = []
            for _ in range(TIMES):
                spent.append(timed(runner, steps))
                for row in range(count):  # back to where the context was
                    runner.wait(
                        runner.execute_async(
                            StepPlan(0, chunks=(PrefillChunk(row, context - 1, random_ids(1, row), True),))
                        )
                    )
            ms = sorted(spent)[TIMES // 2]
            yield {
                "workload": "decode step", "rows": count, "context": context + STEPS // 2, "ms": round(ms, 3),
                "output_tok_s": round(1000 * count / ms, 1),
            }  # fmt: skip
    for tokens in prompts:
        chunks = [prompt_plan(tokens, seed) for seed in range(8)]
        spent = sorted(timed(runner, chunks) for _ in range(TIMES))
        yield {"workload": "prompt step", "tokens": tokens, "ms": round(spent[TIMES // 2], 3)}


def fill(runner: CudaRunner, row: int, context: int) -> None:
    for start in range(0, context, 512):
        ids = random_ids(min(512, context - start), row + start)
        runner.wait(runner.execute_async(StepPlan(0, chunks=(PrefillChunk(row, start, ids, start + 512 >= context),))))


def prompt_plan(tokens: int, seed: int) -> StepPlan:
    """Prompts of at most 512 tokens, all new."""
    lengths = [512] * (tokens // 512) + ([tokens % 512] if tokens % 512 else [])
    chunks = tuple(PrefillChunk(row, 0, random_ids(length, seed + row), True) for row, length in enumerate(lengths))
    return StepPlan(0, chunks=chunks)


def random_ids(count: int, seed: int) -> tuple[int, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(3, 32000, (count,), generator=generator).tolist())


def timed(runner: CudaRunner, plans: Sequence[StepPlan]) -> float:
    """Milliseconds a step, one step ahead as the engine runs them."""
    torch.cuda.synchronize()
    began = time.perf_counter()
    ahead = runner.execute_async(plans[0])
    for plan in plans[1:]:
        ticket = runner.execute_async(plan)
        runner.wait(ahead)
        ahead = ticket
    runner.wait(ahead)
    torch.cuda.synchronize()
    return 1000 * (time.perf_counter() - began) / len(plans)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
