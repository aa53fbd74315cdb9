"""One rank that computes logits through a runner: `python -m tests.gpu.logits_worker MODEL DEVICE DTYPE OUT`.

Each prompt is prefilled in a step and a row of its own, then all rows decode the same given token. Rank 0 writes the
logits of each step that samples to OUT, in order. With float32, and on a CPU, the runner is the one in plain torch,
which is the reference for the CUDA runner.
"""

import sys
from dataclasses import replace

import numpy as np
import torch

from engine.checkpoint import open_checkpoint
from engine.config import resolve
from engine.core.worker import load_weights
from engine.distributed.communicator import connect
from engine.runner.base import AnyRunner
from engine.runner.factory import make_runner
from engine.runner.torch_runner import TorchRunner
from engine.scheduler.step_plan import NewSequence, PrefillChunk, StepPlan

PROMPT_LENGTHS = (1, 9, 70, 300)
DECODE_TOKEN = 5  # decoded by every row, as two runs may sample different ids


def main(model: str, device: str, dtype: str, out: str) -> None:
    checkpoint = open_checkpoint(model)
    config = resolve(
        checkpoint.spec, device=device, dtype=dtype, max_num_seqs=4, max_context=512, max_prefill_tokens=512
    )
    num_pages = 4 * config.max_pages_per_seq
    config = replace(config, cuda_graphs=False, overlap=False, num_kv_pages=num_pages)
    plain = device == "cpu" or dtype == "float32"
    if device == "cuda":
        torch.cuda.set_device(config.device)
    ranks = connect(config)
    loaded = load_weights(config, checkpoint)
    runner: AnyRunner = TorchRunner(config, loaded, num_pages) if plain else make_runner(config, loaded)
    recorded = record_logits(plain)
    for row, length in enumerate(PROMPT_LENGTHS):
        ids = tuple(3 + (7919 * (row + 1) * (at + 1)) % (checkpoint.spec.vocab_size - 3) for at in range(length))
        count = -(-(length + 1) // config.page_size)
        pages = tuple((row, index, row * config.max_pages_per_seq + index) for index in range(count))
        new = (NewSequence(row, 0.0, 1.0, 1),)
        runner.wait(runner.execute_async(StepPlan(row, new, pages, (PrefillChunk(row, 0, ids, True),))))
    last_tokens = runner._last_ids if plain else runner._batch_state.last_tokens
    last_tokens[: len(PROMPT_LENGTHS)] = DECODE_TOKEN
    if device == "cuda":
        torch.cuda.synchronize()  # the runner has a stream of its own
    runner.wait(runner.execute_async(StepPlan(len(PROMPT_LENGTHS), decode_rows=tuple(range(len(PROMPT_LENGTHS))))))
    if config.rank == 0:
        np.savez(out, *[logits.numpy() for logits in recorded])
    runner.close()
    ranks.close()


def record_logits(plain: bool) -> list[torch.Tensor]:
    """A list to which every later step appends the logits that it samples from."""
    recorded: list[torch.Tensor] = []
    if not plain:
        from engine.runner.cuda import forward

        sample = forward.sample

        def recording_sample(logits: torch.Tensor, rows: torch.Tensor, *rest: object, **more: object) -> object:
            recorded.append(logits[rows >= 0].float().cpu())
            return sample(logits, rows, *rest, **more)  # type: ignore[arg-type]

        forward.sample = recording_sample  # type: ignore[assignment]
    else:
        original = TorchRunner._sample

        def recording_torch_sample(self: TorchRunner, logits: torch.Tensor, *rest: object) -> object:
            recorded.append(logits.float().cpu())
            return original(self, logits, *rest)  # type: ignore[arg-type]

        TorchRunner._sample = recording_torch_sample  # type: ignore[method-assign]
    return recorded


if __name__ == "__main__":
    main(*sys.argv[1:])
