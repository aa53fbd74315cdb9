"""A launched step of the GPU runner: what it samples, by row, once the device has copied it to the host.

It knows no graphs, and nothing of the next step.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.layers.logits import LogprobsBatch
from engine.logits_params import TokenLogprobs
from engine.scheduler.drafts.verification import VerifiedRun, num_accepted
from engine.scheduler.step_plan import Verification


@dataclass(frozen=True, slots=True)
class CudaStepHandle:
    """The sampled rows, and their ids, which the device copies to the host until `ready`.

    The samples of `verifications` come first: a step that verifies drafts prefills nothing.
    """

    rows: tuple[int, ...]
    ids: Tensor  # int32, on the host; the first len(rows) count
    ready: torch.cuda.Event | None
    logprobs: LogprobsBatch | None = None  # by sample instead of by row
    verifications: tuple[Verification, ...] = ()

    def id_by_row(self) -> dict[int, int]:
        """Wait for the step; the last id of each row."""
        return dict(zip(self.rows, self._ids(), strict=True))

    def logprobs_by_row(self) -> dict[int, TokenLogprobs]:
        """Wait for the step; the log-probabilities of rows that verified no drafts and ask for them."""
        verifying = {each.row for each in self.verifications}
        found = self._logprobs_by_sample(self._ids()).items()
        return {row: scores for at, scores in found if (row := self.rows[at]) not in verifying}

    def verified_by_row(self) -> dict[int, VerifiedRun]:
        """Wait for the step; what the rows that verified drafts sampled, as far as it counts."""
        if not self.verifications:
            return {}
        ids = self._ids()
        logprobs = self._logprobs_by_sample(ids)
        runs, first = {}, 0
        for each in self.verifications:
            end = first + num_accepted(each.drafts, ids[first : first + each.num_samples]) + 1
            scores = tuple(logprobs[at] for at in range(first, end) if at in logprobs)
            runs[each.row] = VerifiedRun(tuple(ids[first:end]), scores)
            first += each.num_samples
        return runs

    def _ids(self) -> list[int]:
        if self.ready is not None:
            self.ready.synchronize()
        ids: list[int] = self.ids[: len(self.rows)].tolist()
        return ids

    def _logprobs_by_sample(self, ids: list[int]) -> dict[int, TokenLogprobs]:
        return {} if self.logprobs is None else self.logprobs.by_row(dict(enumerate(ids)))
