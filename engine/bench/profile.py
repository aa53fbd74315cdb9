"""Profiles steps on all ranks: products, attention, collectives, the ranks' waits for each other, and idle time.

    torchrun --nproc-per-node 4 -m engine.bench.profile [--rows 1 32] [--context 580] [--prompts 512 2048] [--steps 20]
    python -m engine.bench.profile --model 8b --rows 64 --context 1500 --prompts --beside 64 448

Rank 0 prints one JSON line for each kind of step. `ms` is the time of a step without the profiler. The other times are
the `kernel_times.summary` of what the profiler saw on all ranks; `step_ms` is longer than `ms` where the profiler slows
the host down. `top` lists rank 0's largest kernels. Only the shapes of these steps are recorded as graphs.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product
from typing import TypeAlias

import torch
import torch.distributed as dist
from torch.autograd import DeviceType  # type: ignore[attr-defined]  # torch's

from engine.bench.kernel_times import Kernel, StepTable, own_times, split_steps, step_table, summary, top_kernels
from engine.bench.random_model import RandomCheckpoint, spec
from engine.bench.report import emit
from engine.bench.steps import (
    MAX_PROMPT,
    REPEATS,
    STEPS,
    add_model_options,
    admit,
    facts,
    fill,
    milliseconds_per_step,
    pages_per_row,
    prompt_plan,
    random_ids,
    rewind,
    step_config,
)
from engine.config import EngineConfig
from engine.core.worker import load_weights
from engine.distributed.communicator import Communicator, connect
from engine.runner.base import AnyRunner
from engine.runner.cuda.batch.input_batch import BatchShape
from engine.runner.cuda.batch.input_buffers import batch_shapes
from engine.runner.cuda.cuda_runner import CudaRunner
from engine.scheduler.step_plan import PrefillChunk, StepPlan

Recorder: TypeAlias = Callable[[Callable[[], object]], list[Kernel]]  # runs the function; returns its kernels
LEAD_IN = 2  # steps that are not counted: ranks begin them at different times
LAST = 1  # step that is not counted: nothing marks its end
MAX_STEPS = STEPS - LEAD_IN - LAST  # for which rows have pages


def main(arguments: Sequence[str]) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m engine.bench.profile", description=__doc__.splitlines()[0])
    add_model_options(parser)
    parser.add_argument("--rows", type=int, nargs="*", default=[1, 32])
    parser.add_argument("--context", type=int, default=580)
    parser.add_argument("--prompts", type=int, nargs="*", default=[512, 2048])
    parser.add_argument("--beside", type=int, nargs="*", default=[], help="prompt tokens beside the decoding rows")
    parser.add_argument("--steps", type=int, default=20, choices=range(1, MAX_STEPS + 1), metavar=f"1-{MAX_STEPS}")
    options = parser.parse_args(arguments)
    checkpoint = RandomCheckpoint(spec(options.model, options.layers))
    config = step_config(checkpoint.spec, options, speculate="off", extra_rows=bool(options.beside))
    communicator = connect(config)
    torch.cuda.set_device(config.device)
    model = load_weights(config, checkpoint)
    runner = CudaRunner(config, model, shapes=needed_shapes(config, options))
    runner.start(pages_per_row([longest_row(options)]) * config.max_num_seqs)
    for line in profile(config, communicator, runner, options, cuda_kernels):
        if config.rank == 0:
            emit({"engine": "guildllama", **line, **facts(config, options)})
    runner.close()
    communicator.close()
    return 0


def needed_shapes(config: EngineConfig, options: argparse.Namespace) -> list[BatchShape]:
    """Those of the engine's shapes that these steps, and the prompts that fill the rows, need."""
    shapes = batch_shapes(config)

    def smallest(slots: int, tokens: int) -> BatchShape:
        fitting = [s for s in shapes if s.num_slots >= slots and s.num_prefill_tokens >= tokens]
        return min(fitting, key=lambda shape: (shape.num_tokens, shape.num_slots))

    filling = min(MAX_PROMPT, options.context)
    needed = [smallest(count, 0) for count in (1, *options.rows)]
    needed += [smallest(0, count) for count in (filling, *options.prompts)]
    needed += [smallest(rows, tokens) for rows in options.rows for tokens in options.beside]
    return list(dict.fromkeys(needed))


def longest_row(options: argparse.Namespace) -> int:
    """Tokens of the longest row: its context, and the most tokens of a prompt that continues it."""
    longest: int = options.context + max(options.beside, default=0)
    return longest


def profile(
    config: EngineConfig, communicator: Communicator, runner: AnyRunner, options: argparse.Namespace, record: Recorder
) -> Iterator[dict[str, object]]:
    """One line for each number of rows, for each with each prompt of `--beside`, and for each prompt.

    All ranks call it together.
    """
    count, context = LEAD_IN + options.steps + LAST, options.context
    admit(runner, config.max_num_seqs, pages_per_row([longest_row(options)]))
    most = max(options.rows, default=0)
    for row in range(most + bool(options.beside)):
        fill(runner, row, context)
    for rows in options.rows:
        plans = [StepPlan(0, decode_rows=tuple(range(rows)))] * count
        found = _profile_steps(communicator, runner, plans, record, partial(rewind, runner, rows, context))
        yield {"workload": "decode step", "rows": rows, "context": context + count // 2, **found}
    for rows, tokens in product(options.rows, options.beside):
        # Each chunk says where its row continues, so only the decoding rows have to be rewound.
        chunks = [PrefillChunk(most, context, random_ids(tokens, seed), True) for seed in range(count)]
        plans = [StepPlan(0, decode_rows=tuple(range(rows)), chunks=(chunk,)) for chunk in chunks]
        found = _profile_steps(communicator, runner, plans, record, partial(rewind, runner, rows, context))
        yield {"workload": "mixed step", "rows": rows, "tokens": tokens, "context": context + count // 2, **found}
    for tokens in options.prompts:
        plans = [prompt_plan(tokens, seed) for seed in range(count)]
        found = _profile_steps(communicator, runner, plans, record, lambda: None)
        yield {"workload": "prompt step", "tokens": tokens, **found}


def _profile_steps(
    communicator: Communicator,
    runner: AnyRunner,
    plans: Sequence[StepPlan],
    record: Recorder,
    reset: Callable[[], object],
) -> dict[str, object]:
    """`ms`, and `summary` and `top`, or an `error`, of these steps. `reset` rewinds the decoding rows."""

    def run() -> float:
        communicator.all_gather(0)  # all ranks begin together
        return milliseconds_per_step(runner, plans)

    times = []
    for _ in range(REPEATS):
        times.append(run())
        reset()
    kernels = record(run)
    reset()
    facts: dict[str, object] = {"ms": round(sorted(times)[REPEATS // 2], 4)}
    steps = split_steps(own_times(kernels))[LEAD_IN:]
    table, problem = StepTable((), []), ""
    try:
        table = step_table(steps)
    except ValueError as error:
        problem = str(error)
    sizes = set(zip(communicator.all_gather(len(table.columns)), communicator.all_gather(len(table.rows)), strict=True))
    if sizes == {(0, 0)} or len(sizes) > 1:  # all ranks see it, and none waits for another
        return facts | {"error": problem or f"ranks have other collectives or steps than rank 0: {sorted(sizes)}"}
    ranks = gather_rows(table.rows)
    return facts | {"steps": len(steps), **summary(table.columns, ranks), "top": top_kernels(steps)}


def gather_rows(rows: list[list[float]]) -> list[list[list[float]]]:
    """The rows of all ranks, in rank order. All ranks must pass equally many rows of equal length."""
    if not dist.is_initialized():
        return [rows]
    own = torch.tensor(rows, dtype=torch.float64)
    gathered = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, own)  # over gloo, as the communicator does
    return [each.tolist() for each in gathered]


def cuda_kernels(run: Callable[[], object]) -> list[Kernel]:
    """The kernels and copies on the GPU while `run` runs, those of replayed graphs included."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        run()
        torch.cuda.synchronize()
    return device_kernels(profiler, DeviceType.CUDA)


def device_kernels(profiler: torch.profiler.profile, device: DeviceType) -> list[Kernel]:
    """What a finished profiler recorded on a device."""
    events = profiler.events() or ()  # type: ignore[no-untyped-call]  # torch's
    return [
        Kernel(event.name, event.time_range.start, event.time_range.end)
        for event in events
        if event.device_type == device and not getattr(event, "is_user_annotation", False)
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
