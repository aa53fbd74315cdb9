"""Measures the time of one GPU step: decode by number of rows and context length, and prefill by number of tokens.

    python -m engine.bench.steps [--rows 1 8 32] [--contexts 100 580 1500] [--prompts 512 1024] [--drafts 3 12]
    torchrun --nproc-per-node 2 -m engine.bench.steps --share

Prints one JSON line for each. Every rank runs the same plans, without a scheduler. `--share` repeats the measurement
without the collectives: results are wrong but times are not, so the difference is the collectives' share.
"""

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from engine.bench.random_model import SHAPES, RandomCheckpoint, spec
from engine.bench.report import emit, today
from engine.checkpoint import ModelSpec
from engine.config import PAGE_SIZE, EngineConfig, resolve
from engine.core.worker import load_weights
from engine.distributed.communicator import connect
from engine.kernels.verification import MAX_RUN
from engine.runner.base import AnyRunner
from engine.runner.cuda.cuda_runner import CudaRunner
from engine.runner.cuda.layers.collectives import Collectives
from engine.scheduler.step_plan import NewSequence, PrefillChunk, StepPlan, Verification

STEPS, REPEATS = 40, 3
MAX_PROMPT = 512  # tokens of a prompt; a step of more tokens has several prompts
MIN_CONTEXT = MAX_PROMPT  # of a row, for the prompts


def main(arguments: Sequence[str]) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m engine.bench.steps", description=__doc__.splitlines()[0])
    add_model_options(parser)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--contexts", type=int, nargs="+", default=[580])
    parser.add_argument("--prompts", type=int, nargs="+", default=[512, 1024])
    parser.add_argument("--drafts", type=int, nargs="*", default=[], help="that each row verifies, most of them wrong")
    parser.add_argument("--share", action="store_true")
    options = parser.parse_args(arguments)
    checkpoint = RandomCheckpoint(spec(options.model, options.layers))
    config = step_config(checkpoint.spec, options)
    communicator = connect(config)
    torch.cuda.set_device(config.device)
    model = load_weights(config, checkpoint)
    for collectives in (True, False) if options.share else (True,):
        if not collectives:
            for name in ("all_reduce", "two_shot_all_reduce", "all_reduce_row", "gather_logits", "broadcast_ids"):
                setattr(Collectives, name, lambda *_, **__: 1)  # `all_reduce` returns a number of partial sums
        runner = CudaRunner(config, model)
        runner.start(pages_per_row(options.contexts) * config.max_num_seqs)
        while runner.prepare():
            pass
        for line in measure(config, runner, options.rows, options.contexts, options.prompts, options.drafts):
            if config.rank == 0:
                emit({"engine": "guildllama", **line, "sums": collectives, **facts(config, options)})
        runner.close()
        del runner
        torch.cuda.empty_cache()
    communicator.close()
    return 0


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """The options that say which random model is measured."""
    parser.add_argument("--model", default="7b", choices=SHAPES)
    parser.add_argument("--layers", type=int, help="fewer than the model has")
    parser.add_argument("--quantize", default="none")
    parser.add_argument("--kv-dtype", default="auto")


def step_config(
    shape: ModelSpec,
    options: argparse.Namespace,
    *,
    device: str = "cuda",
    speculate: str = "auto",
    extra_rows: int = 0,
) -> EngineConfig:
    """The engine's default limits for `--rows` and `extra_rows`, but the longest of `--prompts` fits one step."""
    longest = max((MAX_PROMPT, *options.prompts))
    rows = max(1, max(options.rows, default=0) + extra_rows, -(-longest // MAX_PROMPT))
    config = resolve(
        shape, device=device, max_num_seqs=rows, quantize=options.quantize, kv_dtype=options.kv_dtype,
        speculate=speculate,
    )  # fmt: skip
    return replace(config, burst_prefill_tokens=max(config.burst_prefill_tokens, longest))


def facts(config: EngineConfig, options: argparse.Namespace) -> dict[str, object]:
    """What a line says of the model and the machine that were measured."""
    name = torch.cuda.get_device_name(config.device) if config.device.type == "cuda" else "CPU"
    return {
        "model": options.model, **({"layers": options.layers} if options.layers else {}), "quantize": options.quantize,
        "kv_dtype": options.kv_dtype, "world_size": config.world_size, "torch": torch.__version__, "device": name,
        "dtype": str(config.dtype).removeprefix("torch."), "date": today(),
    }  # fmt: skip


def measure(
    config: EngineConfig,
    runner: CudaRunner,
    rows: Sequence[int],
    contexts: Sequence[int],
    prompts: Sequence[int],
    drafts: Sequence[int] = (),
) -> Iterator[dict[str, object]]:
    """One line for each context, number of rows and number of drafts, then one for each number of prompt tokens."""
    admit(runner, config.max_num_seqs, pages_per_row(contexts))
    for context in contexts:
        for row in range(max(rows)):
            fill(runner, row, context)
        most = runner.draft_limits.max_tokens or 0
        for count, guesses in ((count, guesses) for count in rows for guesses in (0, *drafts)):
            if guesses and count * (guesses + 1) > most:
                continue
            decoding = tuple(range(count))
            plan = StepPlan(0, decode_rows=decoding)
            if guesses:
                verifications = tuple(Verification(row, random_ids(guesses, row)) for row in decoding)
                plan = StepPlan(0, verifications=verifications)
            plans = [plan] * STEPS
            times = []
            for _ in range(REPEATS):
                times.append(milliseconds_per_step(runner, plans))
                rewind(runner, count, context)
            ms = sorted(times)[REPEATS // 2]
            yield {
                "workload": "verify step" if guesses else "decode step", "rows": count,
                "context": context + STEPS // 2, "ms": round(ms, 3), "output_tok_s": round(1000 * count / ms, 1),
                **({"drafts": guesses} if guesses else {}),
            }  # fmt: skip
    for tokens in prompts:
        plans = [prompt_plan(tokens, seed) for seed in range(8)]
        times = sorted(milliseconds_per_step(runner, plans) for _ in range(REPEATS))
        yield {"workload": "prompt step", "tokens": tokens, "ms": round(times[REPEATS // 2], 3)}


def pages_per_row(contexts: Sequence[int]) -> int:
    """Pages for the longest context and what is decoded or guessed after it."""
    return -(-(max(MIN_CONTEXT, *contexts) + STEPS + 1 + MAX_RUN) // PAGE_SIZE)


def admit(runner: AnyRunner, rows: int, pages: int) -> None:
    """Start a sequence with `pages` pages in each of the first `rows` rows."""
    new_sequences = tuple(NewSequence(row, 0.0, 1.0, 1) for row in range(rows))
    grants = tuple((row, index, row * pages + index) for row in range(rows) for index in range(pages))
    runner.wait(runner.execute_async(StepPlan(0, new_sequences, grants)))


def rewind(runner: AnyRunner, rows: int, context: int) -> None:
    """Reset the first rows, which have decoded, to `context` tokens."""
    for row in range(rows):
        chunk = PrefillChunk(row, context - 1, random_ids(1, row), True)
        runner.wait(runner.execute_async(StepPlan(0, chunks=(chunk,))))


def fill(runner: AnyRunner, row: int, context: int) -> None:
    """Prefill a row with `context` random tokens."""
    for start in range(0, context, MAX_PROMPT):
        ids = random_ids(min(MAX_PROMPT, context - start), row + start)
        last = start + MAX_PROMPT >= context
        runner.wait(runner.execute_async(StepPlan(0, chunks=(PrefillChunk(row, start, ids, last),))))


def prompt_plan(tokens: int, seed: int) -> StepPlan:
    """A step that prefills `tokens` tokens, in prompts of at most MAX_PROMPT without a cached prefix."""
    lengths = [MAX_PROMPT] * (tokens // MAX_PROMPT) + ([tokens % MAX_PROMPT] if tokens % MAX_PROMPT else [])
    chunks = tuple(PrefillChunk(row, 0, random_ids(length, seed + row), True) for row, length in enumerate(lengths))
    return StepPlan(0, chunks=chunks)


def random_ids(count: int, seed: int) -> tuple[int, ...]:
    """Random token ids of Llama 2's vocabulary."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(3, 32000, (count,), generator=generator).tolist())


def milliseconds_per_step(runner: AnyRunner, plans: Sequence[StepPlan]) -> float:
    """The mean time of a step: one is in flight while the next is launched, as in the engine. The last must sample."""
    start = time.perf_counter()
    in_flight = runner.execute_async(plans[0])
    for plan in plans[1:]:
        handle = runner.execute_async(plan)
        runner.wait(in_flight)
        in_flight = handle
    runner.wait(in_flight)
    return 1000 * (time.perf_counter() - start) / len(plans)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
