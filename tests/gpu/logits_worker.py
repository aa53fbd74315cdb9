"""One rank that computes logits through the engine's own runners: `-m tests.gpu.logits_worker MODEL DEVICE DTYPE OUT`.

Each prompt fills a row of its own in one step, then all rows decode a given token. Rank 0 writes the logits of every
sampling step into OUT, in order. In 32 bits, and on a CPU, that is the runner in plain torch, the oracle of the other.
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

LENGTHS = (1, 9, 70, 300)
FED = 5  # what every row decodes next, as the ids that two runs sample may differ


def main(model: str, device: str, dtype: str, out: str) -> None:
    checkpoint = open_checkpoint(model)
    config = resolve(
        checkpoint.spec, device=device, dtype=dtype, max_num_seqs=4, max_context=512, max_prefill_tokens=512
    )
    pages = 4 * config.max_pages_per_seq
    config = replace(config, cuda_graphs=False, overlap=False, num_kv_pages=pages)
    plain = device == "cpu" or dtype == "float32"
    if device == "cuda":
        torch.cuda.set_device(config.device)
    ranks = connect(config)
    loaded = load_weights(config, checkpoint)
    runner: AnyRunner = TorchRunner(config, loaded, pages) if plain else make_runner(config, loaded)
    seen = spy(plain)
    for row, length in enumerate(LENGTHS):
        ids = tuple(3 + (7919 * (row + 1) * (at + 1)) % (checkpoint.spec.vocab_size - 3) for at in range(length))
        count = -(-(length + 1) // config.page_size)
        grants = tuple((row, index, row * config.max_pages_per_seq + index) for index in range(count))
        setups = (NewSequence(row, 0.0, 1.0, 1),)
        runner.wait(runner.execute_async(StepPlan(row, setups, grants, (PrefillChunk(row, 0, ids, True),))))
    last = runner._last_ids if plain else runner._batch_state.last_tokens
    last[: len(LENGTHS)] = FED
    if device == "cuda":
        torch.cuda.synchronize()  # the runner has a stream of its own
    runner.wait(runner.execute_async(StepPlan(len(LENGTHS), decode_rows=tuple(range(len(LENGTHS))))))
    if config.rank == 0:
        np.savez(out, *[logits.numpy() for logits in seen])
    runner.close()
    ranks.close()


def spy(plain: bool) -> list[torch.Tensor]:
    """All logits that a step samples from, from now on."""
    seen: list[torch.Tensor] = []
    if not plain:
        from engine.runner.cuda import forward

        sample = forward.sample

        def sample_seen(logits: torch.Tensor, rows: torch.Tensor, *rest: object, **more: object) -> object:
            seen.append(logits[rows >= 0].float().cpu())
            return sample(logits, rows, *rest, **more)  # type: ignore[arg-type]

        forward.sample = sample_seen  # type: ignore[assignment]
    else:
        untold = TorchRunner._sample

        def plain_seen(self: TorchRunner, logits: torch.Tensor, numbers: tuple[int, ...]) -> torch.Tensor:
            seen.append(logits.float().cpu())
            return untold(self, logits, numbers)

        TorchRunner._sample = plain_seen  # type: ignore[method-assign]
    return seen


if __name__ == "__main__":
    main(*sys.argv[1:])
