"""What verifying drafts gives: the tokens that the model samples anyway, several in one step. Data and one rule."""

from collections.abc import Sequence
from dataclasses import dataclass

from engine.logits_params import TokenLogprobs


@dataclass(frozen=True, slots=True)
class VerifiedRun:
    """The ids that a step sampled for one row: the drafts that were accepted, then one more id, which may be -1."""

    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...] = ()  # of each id, where the request asked for them

    @property
    def num_accepted(self) -> int:
        """Drafts that were right."""
        return len(self.token_ids) - 1


def num_accepted(drafts: Sequence[int], sampled: Sequence[int]) -> int:
    """How many of the drafts are right, if `sampled` are the ids at the position before each, and after the last."""
    for index, draft in enumerate(drafts):
        if sampled[index] != draft:
            return index
    return len(drafts)
