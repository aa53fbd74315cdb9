"""Samples adjusted rows of a step once more, after the recorded step, and takes log-probabilities from its logits.

A recorded step samples every row from the logits as they are. For rows with penalties, masks and the like the result is
replaced before the next step reads it: their logits are copied, adjusted in plain torch and sampled again, outside the
graph. A step without such rows launches nothing more than before. With several ranks, all of them take the ids of rank
0, which alone has the logits.

It knows which rows are adjusted, and the buffers of a step. `engine/layers/logits.py` knows what adjusting means.
"""

from __future__ import annotations

import torch
from torch import Tensor

from engine.config import EngineConfig
from engine.distributed import tensor_parallel
from engine.kernels.sampling import sample
from engine.layers.logits import LogitsAdjuster, LogprobsBatch, log_probabilities, send_to_device
from engine.runner.cuda.batch.input_batch import BatchState
from engine.runner.cuda.forward import CudaForward
from engine.scheduler.step_plan import StepPlan


class Resampler:
    """The rows that need more than the recorded step gives them."""

    def __init__(self, config: EngineConfig, forward: CudaForward, state: BatchState) -> None:
        self._config, self._forward, self._state = config, forward, state
        self._adjuster = LogitsAdjuster(forward.model.spec.vocab_size, config.device)
        self._adjusted: set[int] = set()  # rows, on every rank
        self._num_logprobs: dict[int, int] = {}  # by row, on rank 0
        # The rows that were sampled again last, and three tensors for them, since most steps have those of the one
        # before: where they stand among the step's samples (int64), the rows as int32 and as int64.
        self._cached: tuple[tuple[int, ...], tuple[Tensor, Tensor, Tensor]] | None = None

    def update(self, plan: StepPlan) -> None:
        """Sequences leave and enter rows."""
        for row in plan.freed_rows:
            self._adjusted.discard(row)
            self._num_logprobs.pop(row, None)
            self._adjuster.remove(row)
        for sequence in plan.new_sequences:
            if sequence.is_adjusted:
                self._adjusted.add(sequence.row)
            if self._config.rank == 0:
                if sequence.adjustment is not None:
                    self._adjuster.add(sequence.row, sequence.adjustment, sequence.temperature)
                if sequence.num_logprobs is not None:
                    self._num_logprobs[sequence.row] = sequence.num_logprobs

    def resample(self, plan: StepPlan) -> None:
        """Replace what the step has just sampled for adjusted rows, on the stream of the step."""
        if not self._adjusted:
            return
        sampled = plan.sampled_rows
        places = [place for place, row in enumerate(sampled) if row in self._adjusted]
        if not places:
            return
        rows = [sampled[place] for place in places]
        at, rows32, rows64 = self._indices(sampled, places, rows)
        ids, state = self._forward.ids[: len(sampled)], self._state
        if self._config.rank == 0:
            logits = self._forward.sampled_logits(len(sampled)).index_select(0, at)
            self._adjuster.adjust(logits, rows, dict(plan.token_masks))
            again = torch.empty_like(rows32)
            # The step has advanced the rows, so that a row's position is that of the token it sampled.
            sample(
                logits, rows32, state.positions.index_select(0, rows64), state.positions, state.temperatures,
                state.top_ps, state.seeds, again, pdl=self._forward.pdl,
            )  # fmt: skip
            self._adjuster.record(rows, again)
            ids.index_copy_(0, at, again)
        tensor_parallel.broadcast(ids)
        state.last_tokens.index_copy_(0, rows64, ids.index_select(0, at).clamp_min(0))

    def logprobs(self, rows: tuple[int, ...]) -> LogprobsBatch | None:
        """Of the ids that the step has sampled for `rows`, by their place there; None if none of them asks for any."""
        if not self._num_logprobs:
            return None
        counts = {place: self._num_logprobs[row] for place, row in enumerate(rows) if row in self._num_logprobs}
        if not counts:
            return None
        at = send_to_device(torch.tensor(list(counts), dtype=torch.int64), self._config.device)
        logits = self._forward.sampled_logits(len(rows)).index_select(0, at)
        ids = self._forward.ids.index_select(0, at)
        return log_probabilities(logits, ids, list(counts), list(counts.values()))

    def _indices(self, sampled: tuple[int, ...], places: list[int], rows: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        key = (*sampled, -1, *places)
        if self._cached is None or self._cached[0] != key:
            tensors = (
                send_to_device(torch.tensor(places, dtype=torch.int64), self._config.device),
                send_to_device(torch.tensor(rows, dtype=torch.int32), self._config.device),
                send_to_device(torch.tensor(rows, dtype=torch.int64), self._config.device),
            )
            self._cached = (key, tensors)
        return self._cached[1]
