"""A launched step of the torch runner: what it samples, by row, once a GPU has copied it to the host.

It knows no model, and nothing of the next step.
"""

from dataclasses import dataclass
from typing import Final, NamedTuple

import torch
from torch import Tensor

from engine.layers.logits import LogprobsBatch
from engine.logits_params import TokenLogprobs
from engine.scheduler.drafts.verification import VerifiedRun


class DraftRun(NamedTuple):
    """A row that verified drafts: its first sample in the step, and how many of its samples count."""

    row: int
    first: int
    num_samples: int


@dataclass(frozen=True, slots=True)
class TorchStepHandle:
    """The row of each sample and its id, which a GPU is still copying to the host until `ready`."""

    rows: tuple[int, ...]
    ids: Tensor  # [len(rows)], on the host
    ready: torch.cuda.Event | None
    logprobs: LogprobsBatch | None = None  # by sample instead of by row
    runs: tuple[DraftRun, ...] = ()

    @classmethod
    def of(
        cls, rows: tuple[int, ...], ids: Tensor, logprobs: LogprobsBatch | None, runs: tuple[DraftRun, ...] = ()
    ) -> "TorchStepHandle":
        """The handle of a step whose ids are on the device; starts copying them to the host."""
        if not ids.is_cuda:
            return cls(rows, ids, None, logprobs, runs)
        host_ids = torch.empty(ids.shape, dtype=ids.dtype, pin_memory=True)
        host_ids.copy_(ids, non_blocking=True)
        logprobs = logprobs and logprobs.to_host()
        return cls(rows, host_ids, torch.cuda.current_stream(ids.device).record_event(), logprobs, runs)

    def id_by_row(self) -> dict[int, int]:
        """Wait for the step; the last id of each row."""
        self._wait()
        return dict(zip(self.rows, self.ids.tolist(), strict=True))

    def logprobs_by_row(self) -> dict[int, TokenLogprobs]:
        """Wait for the step; the log-probabilities of rows that verified no drafts and ask for them."""
        verifying = {run.row for run in self.runs}
        found = self._logprobs_by_sample().items()
        return {row: scores for at, scores in found if (row := self.rows[at]) not in verifying}

    def verified_by_row(self) -> dict[int, VerifiedRun]:
        """Wait for the step; what the rows that verified drafts sampled."""
        if not self.runs:
            return {}
        logprobs = self._logprobs_by_sample()
        ids = self.ids.tolist()
        return {
            row: VerifiedRun(
                tuple(ids[first : first + num_samples]),
                tuple(logprobs[at] for at in range(first, first + num_samples) if at in logprobs),
            )
            for row, first, num_samples in self.runs
        }

    def _logprobs_by_sample(self) -> dict[int, TokenLogprobs]:
        self._wait()
        return {} if self.logprobs is None else self.logprobs.by_row(dict(enumerate(self.ids.tolist())))

    def _wait(self) -> None:
        if self.ready is not None:
            self.ready.synchronize()


NO_SAMPLES: Final = TorchStepHandle((), torch.empty(0, dtype=torch.int64), None)
